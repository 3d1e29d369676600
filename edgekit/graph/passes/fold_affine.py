"""Folds scales and offsets per channel into the weights of the layer before or behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import Layer, constant_array
from edgekit.graph.stats import FOLDED_PARAMETERS

__all__ = ["FoldAffine"]

_EPSILON = 1e-5
"""Default ``epsilon`` of ONNX's BatchNormalization."""
_MOVING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MAX_PATH = 8
_ELEMENTWISE = frozenset({"Add", "Div", "Mul", "Sub"})
_LARGEST_OFFSET = 256.0
"""Times what a layer gives for inputs of 1: added to a larger offset, the bias loses the digits that count once the
offset is subtracted again."""


class FoldAffine(ir.passes.InPlacePass):
    """Folds ``factor * x + offset``, with one number per channel, into weights and bias of the layer beside it.

    It may be a BatchNormalization, with ``factor = scale / sqrt(var + epsilon)`` and
    ``offset = shift - mean * factor``, or an Add, Sub, Mul or Div of a constant.

    - Behind a layer, ``factor * (w @ x + bias) + offset``: weights become ``w * factor``, output channel by output
      channel, and the bias becomes ``bias * factor + offset``. The bias of a MatMul is an Add, which a
      BatchNormalization brings. One factor for all channels of a MatMul stays: it may be the scale of an attention,
      which backends look for. There may be Transposes and Reshapes between the two that keep the channels on an axis of
      their own, as before the scale of ConvNeXt's blocks and the BatchNormalization of LeViT's.
    - Before a convolution or a Gemm, ``w @ (factor * x + offset) + bias``: weights become ``w * factor``, input channel
      by input channel, and the bias becomes ``bias + w @ offset``. An offset is not moved into a padded convolution,
      where the padding is zero without the offset, or a ConvTranspose, whose outputs are sums of varying numbers of
      inputs.

    Numbers are computed in float64 and rounded once.

    Preconditions: Constant nodes have been converted to initializers (`FoldConstants`); shapes have been inferred.
    Postconditions: none of these stands beside a layer that has constant weights, if one alone reads the other. The
        layer keeps its name; its output takes the name of the last node behind it. A weight shared with other layers
        is copied, not changed. Numbers that are not finite, or would not be in the weights' type, stay, and
        offsets that are much larger than what the layer gives. The layer's
        metadata records the number of parameters removed by folding, so that they are still counted.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.domain == "" and (node.op_type == "BatchNormalization" or node.op_type in _ELEMENTWISE):
                modified = _fold_into_layer_before(node) or _fold_into_layer_behind(node) or modified
        return ir.passes.PassResult(model, modified=modified)


class _Place(NamedTuple):
    """Where channels are in a value: its rank, if it is known, and their axis, counted from the end."""

    rank: int | None
    axis: int


@dataclass(frozen=True, eq=False)
class _Affine:
    """``factor * source + offset``; both are float64, of one number or one per channel."""

    source: ir.Value
    factor: np.ndarray
    offset: np.ndarray

    def of_channels(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns factor and offset of each channel; None if they have another number of channels."""
        if any(array.size not in (1, channels) or not np.isfinite(array).all() for array in (self.factor, self.offset)):
            return None
        return np.broadcast_to(self.factor, (channels,)), np.broadcast_to(self.offset, (channels,))


def _fold_into_layer_before(node: ir.Node) -> bool:
    for index, layer, path in _layers_before(node):
        affine = _affine(node, index, layer, _place_behind(layer, path))
        numbers = affine.of_channels(layer.channels) if affine is not None else None
        bias = layer.bias()
        if affine is None or numbers is None or bias is None:
            continue
        factor, offset = numbers
        if not _is_taken(affine, layer):
            if node.op_type != "BatchNormalization" or not _gets_bias(layer, factor, offset):
                continue
            return _fold_into_layer_before(node)
        if node.op_type in _ELEMENTWISE and _drowns(offset, layer.weight, bias):
            continue
        weight, moved = layer.weight * layer.by_channel(factor), bias * factor + offset
        # A BatchNormalization has an offset, though that of an untrained one is 0.
        has_bias = layer.has_bias or offset.any() or node.op_type == "BatchNormalization"
        if not _replace(layer, weight, moved if has_bias else None, node):
            continue
        # A name stands for one value: what the layer computes now is another one than before.
        for value in {layer.node.outputs[0], layer.output, *(each.outputs[0] for each in path)} - {affine.source}:
            value.name = f"{value.name}.scaled"
        _take_over(affine.source, node)
        return True
    return False


def _drowns(offset: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> bool:
    reach = np.abs(weight).sum(dtype=np.float64) / len(bias) + np.abs(bias).max(initial=0.0)
    return bool(np.abs(offset).max(initial=0.0) > _LARGEST_OFFSET * reach)


def _is_taken(affine: _Affine, layer: Layer) -> bool:
    if layer.node.op_type != "MatMul":
        return True
    return affine.factor.size > 1 and (layer.has_bias or not affine.offset.any())


def _gets_bias(layer: Layer, factor: np.ndarray, offset: np.ndarray) -> bool:
    """Adds zeros to a MatMul without a bias, if ``factor`` and ``offset`` can be folded into it then."""
    product, dtype = layer.node.outputs[0], layer.weight.dtype
    fits = [_rounded(array, dtype) for array in (layer.weight * layer.by_channel(factor), offset)]
    graph = layer.node.graph
    if layer.has_bias or any(array is None for array in fits) or not isinstance(graph, ir.Graph):
        return False
    name = layer.node.name or product.name or ""
    zeros = new_constant(graph, f"{name}.bias", np.zeros(layer.channels, dtype))
    add = ir.node("Add", [product, zeros], name=f"{name}.with_bias")
    total = add.outputs[0]
    total.name, total.type, total.shape = f"{product.name}.with_bias", product.type, product.shape
    for each in [each for each in product.uses() if each.node is not add]:
        each.node.replace_input_with(each.idx, total)
    graph.insert_after(layer.node, add)
    return True


def _fold_into_layer_behind(node: ir.Node) -> bool:
    layer = _layer_behind(node)
    if layer is None:
        return False
    for index in range(_operands(node)):
        affine = _affine(node, index, layer, _Place(layer.rank, layer.axis))
        numbers = affine.of_channels(layer.input_channels) if affine is not None else None
        bias = layer.bias()
        if affine is None or numbers is None or bias is None or not _has_all_channels(affine.source, layer):
            continue
        factor, offset = numbers
        if offset.any() and not _takes_offset(layer.node):
            continue
        moved = bias + _product_of_offset(layer, offset) if offset.any() else bias
        weight = layer.weight * layer.by_input_channel(factor)
        if not _replace(layer, weight, moved if layer.has_bias or offset.any() else None, node):
            continue
        layer.node.replace_input_with(0, affine.source)
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        return True
    return False


def _operands(node: ir.Node) -> int:
    return 2 if node.op_type in _ELEMENTWISE else 1


def _layers_before(node: ir.Node) -> Iterator[tuple[int, Layer, list[ir.Node]]]:
    """Yields the layers that compute an input of ``node``, which alone reads it.

    Yields:
        The input's index, the layer, and the operators between the two that only move elements, in graph order.
    """
    for index, value in enumerate(node.inputs[: _operands(node)]):
        producer = _private_producer(value, node)
        path: list[ir.Node] = []
        while producer is not None and producer.domain == "" and producer.op_type in _MOVING and len(path) < _MAX_PATH:
            path.insert(0, producer)
            producer = _private_producer(producer.inputs[0], node)
        layer = (Layer.of(producer) or Layer.ending_in(producer)) if producer is not None else None
        if layer is not None:
            yield index, layer, path


def _place_behind(layer: Layer, path: Sequence[ir.Node]) -> _Place | None:
    """Returns where a layer's channels are behind operators that move elements; None if on no axis of their own."""
    place = _Place(layer.rank, layer.axis)
    for node in path:
        before, after = node.inputs[0], node.outputs[0]
        if node.op_type == "Transpose":
            order = node.attributes.get_ints("perm")
            if order is None or place.rank != len(order):
                return None
            place = _Place(place.rank, list(order).index(place.rank + place.axis) - place.rank)
            continue
        axis = _axis_behind(before, after, place.axis)
        if axis is None or after.shape is None:
            return None
        place = _Place(len(after.shape), axis)
    return place


def _axis_behind(before: ir.Value | None, after: ir.Value, axis: int) -> int | None:
    """Returns the axis, counted from the end, that an axis becomes in a Reshape; None if it is split or merged."""
    if before is None or before.shape is None or after.shape is None:
        return None
    sizes, reshaped = list(before.shape), list(after.shape)
    size, within = sizes[axis], _count(sizes[len(sizes) + axis + 1 :])
    for place in range(-1, -len(reshaped) - 1, -1):
        inner = _count(reshaped[len(reshaped) + place + 1 :])
        if isinstance(size, int) and reshaped[place] == size and within is not None and inner == within:
            return place
    return None


def _count(sizes: Sequence[object]) -> int | None:
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _private_producer(value: ir.Value | None, node: ir.Node) -> ir.Node | None:
    """Returns what computes ``value`` in the graph of ``node``, if one node alone reads it."""
    producer = value.producer() if value is not None and _is_private(value) else None
    return producer if producer is not None and producer.graph is node.graph else None


def _layer_behind(node: ir.Node) -> Layer | None:
    """Returns the convolution or Gemm that alone reads the output of ``node``, as its data."""
    value = node.outputs[0]
    use = next(iter(value.uses()), None)
    if use is None or use.idx != 0 or use.node.graph is not node.graph or not _is_private(value):
        return None
    # The factor before a MatMul belongs to the normalization of a token model, which scales channels for quantization.
    if use.node.op_type == "MatMul" or use.node.attributes.get_int("transA", 0) == 1:
        return None
    return Layer.of(use.node)


def _is_private(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _affine(node: ir.Node, index: int, layer: Layer, place: _Place | None) -> _Affine | None:
    """Returns what ``node`` does with its input ``index``, if that is by channel of ``layer``.

    Args:
        node: a BatchNormalization, or arithmetic of two operands.
        index: that of the operand which is no constant.
        layer: the layer beside it.
        place: where the channels are in the operand; None if on no axis of their own.
    """
    source = node.inputs[index]
    if source is None or place is None:
        return None
    if node.op_type == "BatchNormalization":
        return _of_batch_norm(node, source, place)
    constant = constant_array(node.inputs[1 - index])
    if constant is None or constant.dtype != layer.weight.dtype or not _is_by_channel(constant.shape, place):
        return None
    number, one, zero = constant.astype(np.float64).reshape(-1), np.ones(1), np.zeros(1)
    if node.op_type == "Add":
        return _Affine(source, one, number)
    if node.op_type == "Mul":
        return _Affine(source, number, zero)
    if node.op_type == "Sub":
        return _Affine(source, one, -number) if index == 0 else _Affine(source, -one, number)
    with np.errstate(divide="ignore"):
        return _Affine(source, 1 / number, zero) if index == 0 else None


def _is_by_channel(shape: tuple[int, ...], place: _Place) -> bool:
    """Whether an array of this shape broadcasts along the channels alone, and adds no dimension."""
    rank, axis = 1 if place.rank is None else place.rank, len(shape) + place.axis
    return len(shape) <= rank and all(size == 1 for at, size in enumerate(shape) if at != axis)


def _of_batch_norm(norm: ir.Node, source: ir.Value, place: _Place) -> _Affine | None:
    statistics_used = any(extra.uses() or extra.is_graph_output() for extra in norm.outputs[1:])
    arrays = [constant_array(value) for value in norm.inputs[1:5]]
    if statistics_used or norm.attributes.get_int("training_mode", 0) == 1 or place.rank is None:
        return None
    if place.rank + place.axis != 1 or any(array is None for array in arrays):
        return None  # the channels of BatchNormalization are the second axis
    scale, shift, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", _EPSILON))
        return _Affine(source, factor, shift - mean * factor)


def _has_all_channels(source: ir.Value, layer: Layer) -> bool:
    """Whether ``source`` has the shape of the layer's input, so that nothing was broadcast to it."""
    shape = source.shape
    return shape is not None and len(shape) == layer.rank and shape[layer.axis] == layer.input_channels


def _takes_offset(node: ir.Node) -> bool:
    if node.op_type == "Conv":
        unpadded = not any(node.attributes.get_ints("pads", ()))
        return unpadded and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return node.op_type == "Gemm"


def _product_of_offset(layer: Layer, offset: np.ndarray) -> np.ndarray:
    """Returns what a Conv without padding or a Gemm makes of ``offset``: one number per output channel."""
    weight = layer.weight * layer.by_input_channel(offset)
    if layer.node.op_type == "Conv":
        axes: tuple[int, ...] = tuple(range(1, weight.ndim))
    else:
        axes = (1 if layer.node.attributes.get_int("transB", 0) else 0,)
    return np.asarray(weight.sum(axis=axes) * layer.node.attributes.get_float("alpha", 1.0))


def _replace(layer: Layer, weight: np.ndarray, bias: np.ndarray | None, node: ir.Node) -> bool:
    """Replaces weights and bias by those with ``node`` folded; returns whether their type holds the numbers."""
    dtype = layer.weight.dtype
    arrays = [_rounded(weight, dtype), None if bias is None else _rounded(bias, dtype)]
    if arrays[0] is None or (bias is not None and arrays[1] is None):
        return False
    removed = sum(_own_parameters(node)) - (len(bias) if bias is not None and not layer.has_bias else 0)
    metadata = layer.node.metadata_props
    metadata[FOLDED_PARAMETERS] = str(int(metadata.get(FOLDED_PARAMETERS, 0)) + removed)
    layer.replace(arrays[0], arrays[1])
    return True


def _own_parameters(node: ir.Node) -> Iterator[int]:
    """Yields the number of elements of each parameter of ``node``; mean and variance are statistics."""
    for value in node.inputs[1:3] if node.op_type == "BatchNormalization" else node.inputs:
        array = constant_array(value)
        if array is not None:
            yield array.size


def _rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Returns ``array`` in that type; None if it overflows or underflows there."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(dtype)
    largest = np.abs(array).max(initial=0.0)
    fits = bool(np.abs(rounded - array).max(initial=0.0) <= np.finfo(dtype).eps * largest)
    return rounded if fits and np.isfinite(rounded).all() else None


def _take_over(value: ir.Value, node: ir.Node) -> None:
    """Replaces the output of ``node`` with ``value``, which takes its name, and removes ``node``."""
    result, graph = node.outputs[0], node.graph
    assert graph is not None
    name, value.shape = result.name, result.shape or value.shape
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name
