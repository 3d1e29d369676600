"""Finds layer normalizations that are written as arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgekit.graph.arithmetic import sole_reader
from edgekit.graph.layer_weights import constant_array
from edgekit.graph.normalization import divided_by_root, mean_of, square_of, sum_with_number, variance_of

__all__ = ["LayerNorm", "find_layer_norm"]


@dataclass
class LayerNorm:
    """The normalization of ``x`` over ``axes`` up to the node ``last``.

    Attributes:
        x: what is normalized.
        axes: counted from the end, ascending.
        sizes: their sizes.
        epsilon: added to the variance.
        last: the node with the result.
        scale: a constant with one number for each element of the axes, or None.
        bias: likewise.
    """

    x: ir.Value
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    epsilon: float
    last: ir.Node
    scale: ir.Value | None = None
    bias: ir.Value | None = None


def find_layer_norm(node: ir.Node) -> LayerNorm | None:
    """Returns the normalization whose division by the root is ``node``, and the scale and bias behind it.

    ``(x - mean(x)) / sqrt(var + epsilon) * scale + bias`` (Ba et al., "Layer Normalization", 2016), where the variance
    is ``mean((x - mean(x)) ** 2)``, or ``mean(x ** 2) - mean(x) ** 2`` as in Flax; a mean may be a sum times a number.

    Args:
        node: a Div or Mul. Values have their shapes.
    """
    for centered, add, inner in divided_by_root(node):
        variance, epsilon = sum_with_number(add)
        x, axes = _centered(centered)
        if x is None or not axes or epsilon is None or epsilon < 0 or (x, axes) not in _variances(variance, centered):
            continue
        sizes = _sizes(x, axes)
        found = LayerNorm(x, axes, sizes, epsilon, node) if sizes is not None else None
        if found is not None and inner is not None:
            found.scale = inner if _fits(inner, found) else None
        if found is not None and found.scale is inner:
            return _with_parameters(found)
    return None


def _variances(value: ir.Value | None, centered: ir.Value) -> Iterator[tuple[ir.Value | None, tuple[int, ...] | None]]:
    """Yields of what, and over which axes, ``value`` is a variance."""
    squares, axes = mean_of(value)
    deviation = square_of(squares)
    if deviation is not None:
        x, of_mean = _centered(deviation)
        yield (x, axes) if axes == of_mean else (None, None)
    yield variance_of(value)


def _centered(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...] | None]:
    """Returns ``x`` and the axes, if ``value`` is ``x - mean(x)``."""
    node = value.producer() if value is not None else None
    node = node if node is not None and node.op_type == "Sub" and node.domain == "" else None
    x = node.inputs[0] if node is not None else None
    of, axes = mean_of(node.inputs[1]) if node is not None else (None, None)
    return (x, axes) if x is not None and of is x else (None, None)


def _sizes(x: ir.Value, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the sizes of the axes, if they are fixed."""
    if x.shape is None or x.dtype is None or not x.dtype.is_floating_point():
        return None
    sizes = [size for axis in axes if isinstance(size := x.shape[axis], int)]
    return tuple(sizes) if len(sizes) == len(axes) else None


def _with_parameters(found: LayerNorm) -> LayerNorm:
    """Adds the scale and the bias behind a normalization."""
    for operator, part in (("Mul", "scale"), ("Add", "bias")):
        value = found.last.outputs[0]
        reader = sole_reader(value)
        if reader is None or reader.op_type != operator or reader.domain != "" or getattr(found, part) is not None:
            continue
        other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
        if _fits(other, found):
            setattr(found, part, other)
            found.last = reader
    return found


def _fits(value: ir.Value | None, found: LayerNorm) -> bool:
    """Whether a value is a constant with one number for each element of the axes."""
    array = constant_array(value)
    assert found.x.shape is not None
    rank = len(found.x.shape)
    if array is None or array.dtype.kind != "f" or array.ndim > rank:
        return False
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    expected = tuple(found.sizes[found.axes.index(axis)] if axis in found.axes else 1 for axis in range(-rank, 0))
    return full.shape == expected
