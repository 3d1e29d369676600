"""Folds a BatchNormalization into the weights of the layer before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import BIASED_PRODUCTS
from edgekit.graph.stats import FOLDED_PARAMETERS

__all__ = ["FoldBatchNorm"]

_EPSILON = 1e-5
"""Default ``epsilon`` of ONNX's BatchNormalization."""


class FoldBatchNorm(ir.passes.InPlacePass):
    """Folds ``BatchNormalization(Conv | ConvTranspose | Gemm)`` into the layer's weights and bias.

    With the normalization ``y = scale * (x - mean) / sqrt(var + epsilon) + shift`` and
    ``factor = scale / sqrt(var + epsilon)``, weights become ``weight * factor``, output channel by output
    channel, and the bias becomes ``(bias - mean) * factor + shift``; computed in float64 and rounded once.

    Preconditions: Constant nodes have been converted to initializers (`FoldConstants`).
    Postconditions: no BatchNormalization in inference mode follows a layer that has constant weights and no
        other user. The layer keeps its name; its output takes the name of the normalization's output. A weight shared
        with other layers is copied, not changed. The layer's metadata records the number of parameters removed by
        folding, so that they are still counted.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.op_type == "BatchNormalization" and node.domain == "":
                modified = _fold(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fold(norm: ir.Node) -> bool:
    layer = _layer_before(norm)
    parameters = [_constant(value) for value in norm.inputs[1:5]]
    if layer is None or norm.attributes.get_int("training_mode", 0) == 1 or any(p is None for p in parameters):
        return False
    scale, shift, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", _EPSILON))
    weight, bias = _constant(layer.inputs[1]), _bias(layer, len(factor))
    if weight is None or bias is None:
        return False

    had_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
    removed = 2 * len(factor) - (0 if had_bias else len(factor))
    layer.metadata_props[FOLDED_PARAMETERS] = str(int(layer.metadata_props.get(FOLDED_PARAMETERS, 0)) + removed)
    factors = _factors_like(weight, factor, layer)
    _replace_input(layer, 1, (weight * factors).astype(weight.dtype))
    _replace_input(layer, 2, ((bias - mean) * factor + shift).astype(weight.dtype))
    if layer.op_type == "Gemm":
        layer.attributes.pop("beta", None)
    _take_over(layer.outputs[0], norm)
    return True


def _layer_before(norm: ir.Node) -> ir.Node | None:
    value = norm.inputs[0]
    layer = value.producer() if value is not None else None
    if layer is None or layer.domain != "" or layer.op_type not in BIASED_PRODUCTS:
        return None
    statistics_used = any(extra.uses() or extra.is_graph_output() for extra in norm.outputs[1:])
    shared = len(layer.outputs[0].uses()) != 1 or layer.outputs[0].is_graph_output()
    return None if shared or statistics_used or layer.graph is not norm.graph else layer


def _constant(value: ir.Value | None) -> np.ndarray | None:
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()


def _bias(layer: ir.Node, channels: int) -> np.ndarray | None:
    """Returns the bias per channel in float64, zeros if there is none, or None if it cannot be folded."""
    if len(layer.inputs) < 3 or layer.inputs[2] is None:
        return np.zeros(channels)
    bias = _constant(layer.inputs[2])
    if bias is None or bias.size not in (1, channels) or bias.shape[-1:] not in ((), (1,), (channels,)):
        return None
    return np.broadcast_to(bias.astype(np.float64).reshape(-1), (channels,)) * layer.attributes.get_float("beta", 1.0)


def _factors_like(weight: np.ndarray, factor: np.ndarray, layer: ir.Node) -> np.ndarray:
    """Reshapes ``factor`` to broadcast along the output channels of ``weight``.

    Conv has weights ``(c_out, c_in / groups, ...)``, Gemm ``(c_in, c_out)`` or its transpose, ConvTranspose
    ``(c_in, c_out / groups, ...)`` with the groups along the first axis.
    """
    if layer.op_type == "ConvTranspose":
        groups = layer.attributes.get_int("group", 1)
        by_group = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return by_group.reshape(by_group.shape + (1,) * (weight.ndim - 2))
    if layer.op_type == "Gemm" and not layer.attributes.get_int("transB", 0):
        return factor[np.newaxis, :]
    return factor.reshape((-1,) + (1,) * (weight.ndim - 1))


def _replace_input(layer: ir.Node, index: int, array: np.ndarray) -> None:
    """Replaces an input of ``layer`` with the initializer ``array``; reuses the old name if nothing else uses it."""
    graph = layer.graph
    assert isinstance(graph, ir.Graph)
    old = layer.inputs[index] if index < len(layer.inputs) else None
    if index == 1 and old is not None and _is_own(old):
        old.const_value = ir.tensor(array, name=old.name)
        return
    name = _name_of_part(layer, index, graph)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    if index == len(layer.inputs):
        layer.resize_inputs(index + 1)
    layer.replace_input_with(index, value)
    if (
        old is not None
        and not old.uses()
        and graph.initializers.get(old.name or "") is old
        and not old.is_graph_output()
    ):
        del graph.initializers[old.name or ""]
    graph.register_initializer(value)


def _is_own(value: ir.Value) -> bool:
    """Whether one node alone reads an initializer, which is no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _name_of_part(layer: ir.Node, index: int, graph: ir.Graph) -> str:
    """Returns a unique name: ``backbone.conv.bias`` for ``backbone.conv.weight``, otherwise from the layer's name."""
    weight = layer.inputs[1]
    stem = (weight.name or "").removesuffix("weight") if weight is not None and _is_own(weight) else ""
    if index == 2 and stem.endswith("."):
        name = f"{stem}bias"
    else:
        name = f"{layer.name or layer.outputs[0].name}.{'weight' if index == 1 else 'bias'}"
    free = layer.inputs[index] if index < len(layer.inputs) else None
    while name in graph.initializers and not (free is graph.initializers[name] and _is_own(free)):
        name += "_folded"
    return name


def _take_over(value: ir.Value, norm: ir.Node) -> None:
    """Replaces the output of ``norm`` with ``value``, which takes its name, and removes ``norm``."""
    result, graph = norm.outputs[0], norm.graph
    assert graph is not None
    name, value.shape = result.name, result.shape or value.shape
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    value.name = name
