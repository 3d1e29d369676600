"""Finds loops that never end: the file would be run by ONNX Runtime, which nothing interrupts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx

from edgekit.errors import GraphError
from edgekit.graph.load.walk import graphs_in

__all__ = ["require_ending_loops"]

_MOST_TURNS = 10**8
"""A turn of ONNX Runtime's Loop takes a microsecond at least."""


def require_ending_loops(model: onnx.ModelProto, path: Path) -> None:
    """Checks each Loop whose condition is always true: its number of turns must be an input, or a number that can end.

    Exporters give a Loop with a condition the largest trip count that there is; such a condition is not constant.

    Raises:
        GraphError: a Loop has no end, or more than 100 million turns; names it.
    """
    _require_ends(model.graph.node, _by_name(model.graph.initializer), path)
    for function in model.functions:
        _require_ends(function.node, {}, path)


def _require_ends(nodes: Iterable[onnx.NodeProto], outside: Mapping[str, onnx.TensorProto], path: Path) -> None:
    constants = dict(outside)
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
        for body in graphs_in(node):
            if node.op_type == "Loop" and node.domain in ("", "ai.onnx"):
                _require_end(node, body, constants, path)
            _require_ends(body.node, constants | _by_name(body.initializer), path)


def _by_name(tensors: Iterable[onnx.TensorProto]) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in tensors}


def _require_end(
    node: onnx.NodeProto, body: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto], path: Path
) -> None:
    count, condition = (*node.input, "", "")[:2]
    if (condition and not _is_true(constants.get(condition))) or not _keeps_condition(body):
        return
    turns = _integer(constants[count]) if count in constants else None
    if not count or (turns is not None and turns > _MOST_TURNS):
        got = "no limit" if turns is None else f"{turns:,}"
        raise GraphError(
            f"{path}: Loop '{node.name or node.output[0]}': expected a condition that can end it, or at most "
            f"{_MOST_TURNS:,} turns, got a condition that is always true, and {got}"
        )


def _keeps_condition(body: onnx.GraphProto) -> bool:
    """Whether the condition for the next turn is the one of this turn, or true."""
    makers = {name: node for node in body.node for name in node.output}
    source = _source_of(next((output.name for output in body.output), ""), makers)
    maker = makers.get(source)
    if maker is not None:
        return maker.op_type == "Constant" and bool(maker.attribute) and _is_true(maker.attribute[0].t)
    return source in {value.name for value in body.input[1:2]} or _is_true(_by_name(body.initializer).get(source))


def _source_of(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Returns the value that Identity nodes copied to ``name``."""
    for _ in range(len(makers)):
        maker = makers.get(name)
        if maker is None or maker.op_type != "Identity" or not maker.input:
            break
        name = maker.input[0]
    return name


def _is_true(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == onnx.TensorProto.BOOL and bool(np.all(_array(tensor)))


def _integer(tensor: onnx.TensorProto) -> int | None:
    array = _array(tensor)
    return int(array.flat[0]) if array.size == 1 and np.issubdtype(array.dtype, np.integer) else None


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return np.empty(0)
    array: np.ndarray = onnx.numpy_helper.to_array(tensor)
    return array
