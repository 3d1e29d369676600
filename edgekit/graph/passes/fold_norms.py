"""Computes normalizations of constants: convolutions with standardized weights, and learned queries."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import constant_array

__all__ = ["FoldNorms"]

_EPSILON = 1e-5
"""Default ``epsilon`` of ONNX's BatchNormalization and LayerNormalization."""


class FoldNorms(ir.passes.InPlacePass):
    """Replaces a ``LayerNormalization``, and a ``BatchNormalization`` of training, of constants by its result.

    `FoldConstants` leaves them, since they may have several outputs. PyTorch's exporter writes weights that are
    standardized (NFNet, the ResNetV2 of BiT) as a BatchNormalization of training; the convolution behind it would count
    as one whose weights are computed, and stay in float.

    Preconditions: constants are initializers (`FoldConstants`), and float32.
    Postconditions: only the first output is replaced, and only where nothing reads the others; outputs are the same up
        to rounding.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            array = _result(node) if node.domain == "" and _is_first_alone(node) else None
            if array is None:
                continue
            value = node.outputs[0]
            constant = new_constant(model.graph, f"{value.name}_folded", array)
            for use in tuple(value.uses()):
                use.node.replace_input_with(use.idx, constant)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _is_first_alone(node: ir.Node) -> bool:
    """Whether nothing but nodes of the graph read the first output, and nothing the others."""
    read = [bool(value.uses()) or value.is_graph_output() for value in node.outputs]
    return bool(read) and not any(read[1:]) and not node.outputs[0].is_graph_output()


def _result(node: ir.Node) -> np.ndarray | None:
    """Computes the first output; None if the node is another one, or not all that it reads is constant."""
    normalize = {"LayerNormalization": _layer_norm, "BatchNormalization": _batch_norm}.get(node.op_type)
    constants = [constant_array(value) for value in node.inputs[:3] if value is not None]
    known = [array for array in constants if array is not None and array.dtype == np.float32]
    if normalize is None or len(known) < len(constants):
        return None
    return normalize(node, [array.astype(np.float64) for array in known])


def _layer_norm(node: ir.Node, constants: list[np.ndarray]) -> np.ndarray | None:
    data, scale, *bias = constants
    first = node.attributes.get_int("axis", -1)
    axes = tuple(range(first % data.ndim, data.ndim))
    return _normalized(node, data, axes, scale, bias[0] if bias else np.zeros(()))


def _batch_norm(node: ir.Node, constants: list[np.ndarray]) -> np.ndarray | None:
    data, scale, bias = constants
    if node.attributes.get_int("training_mode", 0) == 0 or data.ndim < 2:
        return None
    channels = (-1,) + (1,) * (data.ndim - 2)
    axes = (0, *range(2, data.ndim))
    return _normalized(node, data, axes, scale.reshape(channels), bias.reshape(channels))


def _normalized(
    node: ir.Node, data: np.ndarray, axes: tuple[int, ...], scale: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Computes ``(x - mean) / sqrt(variance + epsilon) * scale + bias``, with the variance of all values."""
    centered = data - data.mean(axis=axes, keepdims=True)
    variance = np.square(centered).mean(axis=axes, keepdims=True)
    result = centered / np.sqrt(variance + node.attributes.get_float("epsilon", _EPSILON)) * scale + bias
    rounded: np.ndarray = result.astype(np.float32)
    return rounded
