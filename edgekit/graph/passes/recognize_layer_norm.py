"""Replaces the arithmetic of a layer normalization by the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.arithmetic import sole_reader
from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import constant_array
from edgekit.graph.normalization import divided_by_root, mean_of, square_of, sum_with_number

__all__ = ["RecognizeLayerNorm"]

_OPSET = 17


class RecognizeLayerNorm(ir.passes.InPlacePass):
    """Replaces ``(x - mean) / sqrt(var + epsilon) * scale + bias`` over the last axes by ``LayerNormalization``.

    ``mean`` and ``var`` are ReduceMean of ``x`` and of ``(x - mean) ** 2`` (Ba et al., "Layer Normalization", 2016);
    scale and bias may be missing. As one operator it stays in float as a whole, where parts of it would be quantized,
    and its sums are protected in half precision; ONNX Runtime and OpenVINO fuse the arithmetic themselves where it is
    all in float.

    Preconditions: Constant nodes have been converted (`FoldConstants`); values have their shapes; the opset is 17 or
        newer, else nothing is changed.
    Postconditions: no such expression is left if nothing else reads its parts and the sizes of its axes are fixed. The
        new node has the name and the output of the last one. Nodes that nothing reads any more are left to
        `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if model.opset_imports.get("", 0) < _OPSET:
            return ir.passes.PassResult(model, modified=False)
        modified = False
        for node in list(model.graph.all_nodes()):
            found = _found(node) if node.domain == "" and node.op_type in ("Div", "Mul") else None
            modified = (found is not None and _replace(found)) or modified
        return ir.passes.PassResult(model, modified=modified)


@dataclass
class _Norm:
    """What was found: the normalization of ``x`` over its last ``axes`` axes up to the node ``last``."""

    x: ir.Value
    sizes: tuple[int, ...]
    epsilon: float
    last: ir.Node
    scale: ir.Value | None = None
    bias: ir.Value | None = None


def _found(node: ir.Node) -> _Norm | None:
    """Returns the normalization that ends in ``node`` and its scale and bias."""
    for centered, divisor in divided_by_root(node):
        variance, epsilon = sum_with_number(divisor)
        x, axes = _centered(centered)
        squares, squared_axes = mean_of(variance)
        if x is None or axes is None or axes != squared_axes or epsilon is None or epsilon < 0:
            continue
        deviation = square_of(squares)
        if deviation is None or (deviation is not centered and _centered(deviation) != (x, axes)):
            continue
        sizes = _sizes(x, axes)
        if sizes is not None:
            return _with_parameters(_Norm(x, sizes, epsilon, node))
    return None


def _centered(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...] | None]:
    """Returns ``x`` and the axes, if ``value`` is ``x - mean(x)``."""
    node = value.producer() if value is not None else None
    node = node if node is not None and node.op_type == "Sub" and node.domain == "" else None
    x = node.inputs[0] if node is not None else None
    of, axes = mean_of(node.inputs[1]) if node is not None else (None, None)
    return (x, axes) if x is not None and of is x else (None, None)


def _sizes(x: ir.Value, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the sizes of the axes, if they are the last ones and fixed."""
    if not axes or axes != tuple(range(-len(axes), 0)) or x.shape is None or x.dtype is None:
        return None
    sizes = [size for size in list(x.shape)[-len(axes) :] if isinstance(size, int)]
    return tuple(sizes) if len(sizes) == len(axes) and x.dtype.is_floating_point() else None


def _with_parameters(found: _Norm) -> _Norm:
    """Adds the scale and the bias behind a normalization."""
    for operator, part in (("Mul", "scale"), ("Add", "bias")):
        value = found.last.outputs[0]
        reader = sole_reader(value)
        if reader is None or reader.op_type != operator:
            continue
        other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
        array = constant_array(other)
        if array is not None and _fits(array.shape, found.sizes) and array.dtype.kind == "f":
            setattr(found, part, other)
            found.last = reader
    return found


def _fits(shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether an array has one number for each element of the axes."""
    return shape[-len(sizes) :] == sizes and all(size == 1 for size in shape[: -len(sizes)])


def _replace(found: _Norm) -> bool:
    node, x, result = found.last, found.x, found.last.outputs[0]
    graph = node.graph
    if not isinstance(graph, ir.Graph) or result.shape is None or x.shape is None or len(result.shape) != len(x.shape):
        return False
    inputs: list[ir.Value | None] = [x, _parameter(found, graph, "scale")]
    inputs += [_parameter(found, graph, "bias")] if found.bias is not None else []
    attributes = {"axis": -len(found.sizes), "epsilon": found.epsilon}
    new = ir.node("LayerNormalization", inputs, attributes, name=node.name)
    new.outputs[0].type, new.outputs[0].shape = result.type, result.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [result], [new.outputs[0]])
    return True


def _parameter(found: _Norm, graph: ir.Graph, part: str) -> ir.Value:
    """Returns the scale or the bias in the shape of the axes: the graph's own if it has that shape."""
    value = found.scale if part == "scale" else found.bias
    array = constant_array(value)
    if value is not None and array is not None and array.shape == found.sizes:
        return value
    assert found.x.dtype is not None
    numbers = np.ones(math.prod(found.sizes), found.x.dtype.numpy()) if array is None else array
    name = f"{found.last.name or found.last.outputs[0].name}.{part}"
    return new_constant(graph, name, np.ascontiguousarray(numbers.reshape(found.sizes)))
