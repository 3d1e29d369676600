"""Folds Pad nodes into the padding of convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["FoldPad"]


class FoldPad(ir.passes.InPlacePass):
    """Folds a constant Pad into the ``pads`` of the Conv, MaxPool or AveragePool that reads it.

    This saves a copy of the whole tensor and, before a MaxPool, removes the infinities that PyTorch users pad with for
    asymmetric padding (Darknet's pooling with stride 1), which no quantized type can represent.

    A Conv accepts zeros. A MaxPool accepts minus infinity or the lowest number of its type. An AveragePool accepts
    zeros and counts them (``count_include_pad``). A pooling's pads stay smaller than its kernel, as ONNX Runtime
    requires. A pooling with ``ceil_mode``, dilation or indices is not changed, because ONNX's own padding gives
    another result there.

    Preconditions: Constant nodes have been converted to initializers (`FoldConstants`).
    Postconditions: the reader has all padding in ``pads``, even if sides differ; the Pad stays for its other users, or
        is left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.domain == "" and node.op_type in ("Conv", "MaxPool", "AveragePool"):
                modified = _fold(node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fold(reader: ir.Node) -> bool:
    padded = reader.inputs[0]
    pad = padded.producer() if padded is not None else None
    if padded is None or pad is None or pad.op_type != "Pad" or pad.domain != "" or pad.graph is not reader.graph:
        return False
    added, own = _spatial_pads(pad), _own_pads(reader)
    if added is not None and not any(added):
        reader.replace_input_with(0, pad.inputs[0])  # no padding: the fill value does not matter
        return True
    if added is None or own is None or len(added) != len(own) or not _takes(reader, _fill(pad), own):
        return False
    pads = [first + second for first, second in zip(added, own, strict=True)]
    if reader.op_type != "Conv" and not _pool_takes(reader, pads):
        return False

    reader.attributes["pads"] = ir.AttrInt64s("pads", pads)
    reader.attributes.pop("auto_pad", None)
    if reader.op_type == "AveragePool":
        reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    reader.replace_input_with(0, pad.inputs[0])
    return True


def _spatial_pads(pad: ir.Node) -> list[int] | None:
    """Returns begin, then end pads of the spatial axes; None if unknown, negative or on other axes."""
    pads, axes = _constant(pad, 1), _constant(pad, 3)
    axes_given = len(pad.inputs) > 3 and pad.inputs[3] is not None
    if pads is None or pad.attributes.get_string("mode", "constant") != "constant" or (axes_given and axes is None):
        return None
    shape = pad.outputs[0].shape
    rank = len(shape) if shape is not None else (0 if axes_given else pads.size // 2)
    if rank < 3 or (pads < 0).any():
        return None
    full = np.zeros((2, rank), np.int64)
    full[:, axes if axes is not None else np.arange(rank)] = pads.reshape(2, -1)
    return None if full[:, :2].any() else [int(p) for p in full[:, 2:].reshape(-1)]


def _own_pads(reader: ir.Node) -> Sequence[int] | None:
    rank = _spatial_rank(reader)
    auto = reader.attributes.get_string("auto_pad", "NOTSET")
    if rank is None or auto not in ("NOTSET", "VALID"):
        return None
    none = [0] * 2 * rank
    return none if auto == "VALID" else reader.attributes.get_ints("pads", none)


def _spatial_rank(reader: ir.Node) -> int | None:
    kernel = reader.attributes.get_ints("kernel_shape")
    if kernel is not None:
        return len(kernel)
    weight = reader.inputs[1] if reader.op_type == "Conv" else None
    return len(weight.shape) - 2 if weight is not None and weight.shape is not None else None


def _fill(pad: ir.Node) -> np.ndarray | None:
    """Returns the fill value of ``pad`` in its own type; None if unknown."""
    if len(pad.inputs) > 2 and pad.inputs[2] is not None:
        return _constant(pad, 2)
    return np.zeros(())


def _takes(reader: ir.Node, fill: np.ndarray | None, own_pads: Sequence[int]) -> bool:
    """Whether ``reader`` pads with a value equivalent to ``fill``."""
    if fill is None or fill.size != 1:
        return False
    if reader.op_type == "MaxPool":
        lowest = _lowest(fill.dtype)
        return lowest is not None and bool(fill.item() <= lowest)
    counted = reader.op_type == "Conv" or reader.attributes.get_int("count_include_pad", 0) == 1 or not any(own_pads)
    return counted and fill.item() == 0


def _lowest(dtype: np.dtype) -> float | None:
    if np.issubdtype(dtype, np.integer):
        return int(np.iinfo(dtype).min)
    return float(np.finfo(dtype).min) if np.issubdtype(dtype, np.floating) else None


def _pool_takes(pool: ir.Node, pads: list[int]) -> bool:
    kernel = pool.attributes.get_ints("kernel_shape") or ()
    plain = pool.attributes.get_int("ceil_mode", 0) == 0 and all(
        step == 1 for step in pool.attributes.get_ints("dilations", [1])
    )
    with_indices = len(pool.outputs) > 1 and bool(pool.outputs[1].uses() or pool.outputs[1].is_graph_output())
    return plain and not with_indices and all(p < k for p, k in zip(pads, [*kernel, *kernel], strict=True))


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()
