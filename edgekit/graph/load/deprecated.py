"""Replaces operators that ONNX has deprecated or does not have, so that its checker accepts the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.graph.load.walk import graphs_in, opset_of

__all__ = ["is_unconverted", "move_runtime_operators", "replace_deprecated", "replace_unconverted"]

_Part: TypeAlias = "onnx.GraphProto | onnx.FunctionProto"
_Replacement: TypeAlias = "Callable[[onnx.NodeProto, str, Mapping[str, int]], list[onnx.NodeProto]]"
"""Makes nodes from a node, a stem for names that no other has, and element types by name."""

RUNTIME_DOMAIN = "com.microsoft"
_OF_RUNTIME = {"LayerNormalization": range(1, 17), "SimplifiedLayerNormalization": range(1, 1000)}
"""Operators that ONNX Runtime has in ONNX's own domain, where ONNX does not, by opset: its optimizer writes them."""

_WITHDRAWN = range(18, 21)
"""Opsets in which GroupNormalization has one scale for each group; ONNX withdrew it for the one of opset 21, which has
one for each channel. ONNX Runtime runs both."""


def move_runtime_operators(model: onnx.ModelProto) -> None:
    """Moves operators that ONNX Runtime has in ONNX's domain, and ONNX has not, to ONNX Runtime's domain, in place.

    `edgekit.graph.passes.decompose_contrib` replaces them.
    """
    for part in (model, *model.functions):
        opset = opset_of(part.opset_import)
        graph = part.graph if isinstance(part, onnx.ModelProto) else part
        moved = [
            node
            for nested in _nested(graph)
            for node in nested.node
            if node.domain in ("", "ai.onnx") and opset in _OF_RUNTIME.get(node.op_type, ())
        ]
        for node in moved:
            node.domain = RUNTIME_DOMAIN
        if moved and not any(each.domain == RUNTIME_DOMAIN for each in part.opset_import):
            part.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))


def replace_deprecated(model: onnx.ModelProto) -> None:
    """Replaces each GroupNormalization of opset 18 to 20 with an InstanceNormalization of its groups, in place."""
    if opset_of(model.opset_import) in _WITHDRAWN:
        _replace(model.graph, _is_deprecated, _group_normalization, "group")
    for function in model.functions:
        if opset_of(function.opset_import) in _WITHDRAWN:
            _replace(function, _is_deprecated, _group_normalization, "group")


def is_unconverted(node: onnx.NodeProto) -> bool:
    """Whether it is an operator of TensorFlow that `replace_unconverted` replaces."""
    complete = len(node.input) == len(node.output) == 1
    return complete and node.op_type == "Erfc" and node.domain in ("", "ai.onnx")


def replace_unconverted(model: onnx.ModelProto) -> None:
    """Replaces each ``Erfc`` by ``1 - Erf``, in place.

    tf2onnx does not convert it, and leaves TensorFlow's operator in the file: Keras computes the exact GELU with it.
    """
    _replace(model.graph, is_unconverted, _erfc, "erfc")


def _erfc(node: onnx.NodeProto, stem: str, types: Mapping[str, int]) -> list[onnx.NodeProto]:
    one = helper.make_tensor("value", types.get(node.output[0]) or onnx.TensorProto.FLOAT, [], [1.0])
    return [
        helper.make_node("Constant", [], [f"{stem}_one"], value=one),
        helper.make_node("Erf", list(node.input), [f"{stem}_erf"], name=node.name),
        helper.make_node("Sub", [f"{stem}_one", f"{stem}_erf"], list(node.output)),
    ]


def _replace(graph: _Part, chosen: Callable[[onnx.NodeProto], bool], replacement: _Replacement, name: str) -> None:
    """Replaces the chosen nodes of a graph and its subgraphs, in place; each has a stem for new names."""
    numbers = count()
    for part in _nested(graph):
        if not any(map(chosen, part.node)):
            continue
        described = (*part.value_info, *(part.output if isinstance(part, onnx.GraphProto) else ()))
        types = {value.name: value.type.tensor_type.elem_type for value in described}
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            if chosen(node):
                nodes += replacement(node, f"{node.output[0]}_{name}{next(numbers)}", types)
            else:
                nodes.append(node)
        del part.node[:]
        part.node.extend(nodes)


def _nested(graph: _Part) -> Iterator[_Part]:
    yield graph
    for node in graph.node:
        for inner in graphs_in(node):
            yield from _nested(inner)


def _is_deprecated(node: onnx.NodeProto) -> bool:
    """Whether the node is complete and is to be replaced; ONNX's checker names what others lack."""
    named = node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx")
    return named and len(node.input) == 3 and any(each.name == "num_groups" for each in node.attribute)


def _group_normalization(node: onnx.NodeProto, stem: str, _types: Mapping[str, int]) -> list[onnx.NodeProto]:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    data, scale, shift = node.input
    shape = numpy_helper.from_array(np.asarray([0, attributes.pop("num_groups"), -1], np.int64))
    return [
        helper.make_node("Constant", [], [f"{stem}_shape"], value=shape),
        helper.make_node("Reshape", [data, f"{stem}_shape"], [f"{stem}_split"]),
        helper.make_node(
            "InstanceNormalization",
            [f"{stem}_split", scale, shift],
            [f"{stem}_normal"],
            name=node.name,
            epsilon=attributes.get("epsilon", 1e-5),
        ),
        helper.make_node("Shape", [data], [f"{stem}_whole"]),
        helper.make_node("Reshape", [f"{stem}_normal", f"{stem}_whole"], list(node.output)),
    ]
