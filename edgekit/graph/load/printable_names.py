"""Writes control characters in the names of an ONNX file as escapes, so that messages and reports can show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.text import is_one_line, one_line

__all__ = ["escape_names", "with_escaped_names"]


def escape_names(model: onnx.ModelProto, name: str) -> dict[str, str]:
    r"""Renames values, nodes, dimensions and functions whose names have control characters, in place.

    A line feed becomes the two characters ``\n``, other control characters become ``\x1b`` or ``\u202e``. Names of
    inputs and outputs are escaped too, and an engine has the escaped ones.

    Args:
        model: the file.
        name: name for messages.

    Returns:
        The new names of values, by their names before.

    Raises:
        GraphError: two names would become the same.
    """
    graphs = list(_graphs(model))
    known = {each for graph in graphs for each in _values(graph)}
    renamed = {each: one_line(each) for each in known if not is_one_line(each)}
    if len(set(renamed.values())) < len(renamed) or not known.isdisjoint(renamed.values()):
        raise GraphError(f"{name}: names of two values differ only in control characters", hint="rename one of them")
    for graph in graphs:
        _rename(graph, renamed)
    for function in model.functions:
        function.name, function.domain = one_line(function.name), one_line(function.domain)
    for opset in (*model.opset_import, *(each for function in model.functions for each in function.opset_import)):
        opset.domain = one_line(opset.domain)
    return renamed


def with_escaped_names(graph: ir.Model) -> ir.Model:
    """Like `escape_names`, for the values of a graph that was read without it; returns the same graph."""
    for part in graph.graphs():
        values = (*part.inputs, *part.initializers.values(), *(each for node in part for each in node.outputs))
        for value in values:
            if value.name and not is_one_line(value.name):
                value.name = one_line(value.name)
    return graph


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _values(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output)
    if isinstance(graph, onnx.FunctionProto):
        yield from (*graph.input, *graph.output)
        return
    yield from (each.name for each in (*graph.input, *graph.output, *graph.value_info, *graph.initializer))
    yield from (each.values.name for each in graph.sparse_initializer)


def _rename(graph: onnx.GraphProto | onnx.FunctionProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        node.name, node.op_type, node.domain = map(one_line, (node.name, node.op_type, node.domain))
        _replace(node.input, renamed)
        _replace(node.output, renamed)
    if isinstance(graph, onnx.FunctionProto):
        _replace(graph.input, renamed)
        _replace(graph.output, renamed)
        return
    graph.name = one_line(graph.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = renamed.get(value.name, value.name)
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = one_line(size.dim_param)
    for tensor in (*graph.initializer, *(each.values for each in graph.sparse_initializer)):
        tensor.name = renamed.get(tensor.name, tensor.name)


def _replace(names: Iterable[str], renamed: dict[str, str]) -> None:
    for index, each in enumerate(names):
        if each in renamed:
            names[index] = renamed[each]  # type: ignore[index]  # a repeated field of protobuf
