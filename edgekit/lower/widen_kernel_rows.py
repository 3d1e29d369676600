"""Gives integer convolutions a wider kernel, for a backend that computes some widths wrong on processors with AMX."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass
from edgekit.lower.widen_padded_points import widen_weights

__all__ = ["WidenKernelRows"]

_TILE = 64
"""8-bit numbers of one row of a tile of AMX."""

_PACKED = 4
"""8-bit numbers that are multiplied and added as one."""


class WidenKernelRows(RewritePass):
    """Adds columns of zeros to the kernel of a ``Conv`` of 8-bit weights, where OpenVINO's kernels for AMX are wrong.

    Measured with OpenVINO 2026.4, for groups of 1 to 256 channels and kernels of 1 to 64, with one axis and two; its
    kernels for AVX-512 are right. An engine may be loaded on another processor than it is built on, so that the columns
    are added on all:

    - A row of the kernel and its channels are read as one axis, if a group has fewer than 32 channels, and no dilation
      stands along the last axis. If the channels are a multiple of 4, and that axis is 128, 192, 256 or another
      multiple of the tile's 64, outputs are wrong: -5 dB for 16 channels and a kernel of 8, most often without a
      stride. With one column more, they are right.
    - Where the output is one column wide and five or more high, and the last axis has a stride, outputs are wrong. With
      a kernel as wide as the input and its pads, they are right, and no stride is needed.

    Preconditions: values have their shapes; the opset is 13 or newer.
    Postconditions: no Conv whose weights are dequantized has such rows or outputs, if its pads are numbers. Names stay;
        results are equal.
    """

    operator = "Conv"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        weights = node.inputs[1]
        source = weights.producer() if weights is not None else None
        if weights is None or source is None or source.op_type != "DequantizeLinear":
            raise NotApplicable("its weights are floats")
        integers = source.inputs[0]
        shape = integers.shape if weights.shape is None and integers is not None else weights.shape
        if shape is None or not shape.is_static():
            raise NotApplicable("the shape of its weights is not known")
        _, channels, *kernel = shape.numpy()
        unread = _unread_columns(node, kernel)
        behind = _columns_behind_tiles(node, channels, kernel[-1] + (unread or 0))
        if unread is None and not behind:
            raise NotApplicable("neither its rows nor its outputs are of a width that is computed wrong")
        if node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_LOWER", "SAME_UPPER"):
            _write_pads(node, kernel)
        columns = (unread or 0) + behind
        if columns:
            widen_weights(node, graph, len(kernel), columns)
        if unread is not None:
            strides = node.attributes.get_ints("strides", [1] * len(kernel))
            node.attributes["strides"] = ir.AttrInt64s("strides", [*strides[:-1], 1])
        pads = list(node.attributes.get_ints("pads", [0] * 2 * len(kernel)))
        pads[-1] += behind
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [*kernel[:-1], kernel[-1] + columns])
        node.attributes.pop("auto_pad", None)


def _columns_behind_tiles(node: ir.Node, channels: int, width: int) -> int:
    """Returns 1 if the rows of a kernel fill tiles exactly, else 0."""
    row = channels * width
    if channels >= _TILE // 2 or channels % _PACKED or row <= _TILE or row % _TILE:
        return 0
    return int(node.attributes.get_ints("dilations", (1,))[-1] == 1)


def _unread_columns(node: ir.Node, kernel: list[int]) -> int | None:
    """Returns how many columns of the input are not read if the output is one column wide, despite a stride; or None.

    Convolutions of one axis are right.
    """
    data, rank = node.inputs[0], len(kernel)
    stride = node.attributes.get_ints("strides", (1,))[-1]
    dilation = node.attributes.get_ints("dilations", (1,))[-1]
    plain = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if rank < 2 or stride == 1 or dilation != 1 or not plain or data is None or data.shape is None:
        return None
    width = data.shape[-1]
    if not isinstance(width, int):
        return None
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    unread = width + pads[rank - 1] + pads[-1] - kernel[-1]
    return unread if unread < stride else None


def _write_pads(node: ir.Node, kernel: list[int]) -> None:
    """Replaces ``auto_pad`` by numbers; along an axis without a stride, they do not depend on the size of the image."""
    strides = node.attributes.get_ints("strides", [1] * len(kernel))
    if any(stride != 1 for stride in strides):
        raise NotApplicable("its pads depend on the size of the image")
    dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
    missing = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
    fewer, more = [size // 2 for size in missing], [size - size // 2 for size in missing]
    lower = node.attributes.get_string("auto_pad", "") == "SAME_LOWER"
    node.attributes["pads"] = ir.AttrInt64s("pads", [*more, *fewer] if lower else [*fewer, *more])
