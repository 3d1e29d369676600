"""Inlines the functions of a graph, of any opset."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

from edgekit.errors import GraphError
from edgekit.graph.external_weights import external_weights

__all__ = ["inlined"]


def inlined(graph: ir.Model) -> ir.Model:
    """Returns the graph with all calls of its functions inlined.

    If a function has another opset than the graph, all are converted to the newest opset among them, with ONNX's
    inliner.

    Args:
        graph: the graph; it may be changed.

    Raises:
        GraphError: a function calls itself, or ONNX cannot convert it.
    """
    try:
        RemoveUnusedFunctionsPass()(graph)  # type: ignore[no-untyped-call]
        if not graph.functions:
            return graph
        if any(_differs(graph, function) for function in graph.functions.values()):
            graph = _converted(graph)
        InlinePass()(graph)
        RemoveUnusedFunctionsPass()(graph)  # type: ignore[no-untyped-call]
    except Exception as e:
        reason = str(e.__cause__ or e).strip().splitlines() or [type(e).__name__]
        raise GraphError(
            f"graph '{graph.graph.name}': its functions cannot be inlined: {reason[0]}",
            hint="export the model with functions of its own opset, or without functions",
        ) from e
    return graph


_MAIN = "edgekit.main"
"""Domain of the function that the nodes of the graph become while opsets are converted."""


def _differs(graph: ir.Model, function: ir.Function) -> bool:
    return function.opset_imports.get("", graph.opset_imports.get("")) != graph.opset_imports.get("")


def _converted(graph: ir.Model) -> ir.Model:
    """Inlines and converts without the large weights, which keeps the graph below protobuf's 2 GB."""
    with external_weights(graph) as weights:
        # The inliner converts functions only, so the graph's own nodes become one, and it needs the types of arguments.
        model = _as_one_call(_with_types(ir.to_proto(graph)))
        result = ir.from_proto(onnx.inliner.inline_local_functions(_with_types(model), convert_version=True))
    for name, tensor in weights.items():
        result.graph.initializers[name].const_value = tensor
    del result.opset_imports[_MAIN]
    _restore_names(result)
    return result


def _restore_names(graph: ir.Model) -> None:
    """Gives the graph's own nodes and values their names: the inliner adds the number of the call, which is 1."""
    nodes = list(graph.graph.all_nodes())
    for parts in (nodes, [value for node in nodes for value in node.outputs]):
        taken = {part.name for part in parts}
        for part in parts:
            name = (part.name or "").removesuffix("__1")
            if name not in taken:
                taken.add(name)
                part.name = name


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    known = {value.name for value in (*model.graph.input, *model.graph.value_info)}
    for tensor in model.graph.initializer:
        if tensor.name not in known:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.value_info.append(value)
    return onnx.shape_inference.infer_shapes(model)


def _as_one_call(model: onnx.ModelProto) -> onnx.ModelProto:
    """Moves the nodes of the graph to a function, and sets the graph's opset to the newest of all functions."""
    graph = model.graph
    names = dict.fromkeys([*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)])
    body = onnx.helper.make_function(
        _MAIN, "Main", list(names), [value.name for value in graph.output], graph.node, model.opset_import
    )
    body.value_info.extend(graph.value_info)
    model.functions.append(body)
    newest = max(o.version for function in model.functions for o in function.opset_import if _is_onnx(o))
    del graph.node[:], graph.value_info[:]
    graph.node.append(onnx.helper.make_node("Main", body.input, body.output, domain=_MAIN))
    for own in filter(_is_onnx, model.opset_import):
        own.version = newest
    model.opset_import.append(onnx.helper.make_opsetid(_MAIN, 1))
    return model


def _is_onnx(opset: onnx.OperatorSetIdProto) -> bool:
    return opset.domain in ("", "ai.onnx")
