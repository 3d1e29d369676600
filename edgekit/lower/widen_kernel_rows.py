"""Gives integer convolutions of few channels a wider kernel, for a backend that mixes up the weights of some widths."""

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
    """Adds a column of zeros to the kernel of a ``Conv`` of 8-bit weights, where its rows fill tiles of AMX exactly.

    OpenVINO 2026.4 reads a row of the kernel and its channels as one axis on processors with AMX, if a group has fewer
    than 32 channels, and neither stride nor dilation stands along the last axis. If the channels are a multiple of 4,
    and the axis is 128, 192, 256 or another multiple of the tile's 64, its outputs are wrong: -5 dB for 16 channels and
    a kernel of 8. With one column more, they are right. Measured for groups of 1 to 64 channels and kernels of 1 to 64,
    with one axis and two; kernels of AVX-512 are right. An engine may be loaded on another processor than it is
    built on, so that the column is added on all.

    Preconditions: values have their shapes; the opset is 13 or newer.
    Postconditions: no Conv whose weights are dequantized has such rows. Names stay; results are equal.
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
        row = channels * kernel[-1]
        if channels >= _TILE // 2 or channels % _PACKED or row <= _TILE or row % _TILE:
            raise NotApplicable("its rows fill no tiles exactly")
        if node.attributes.get_ints("strides", (1,))[-1] != 1 or node.attributes.get_ints("dilations", (1,))[-1] != 1:
            raise NotApplicable("its rows have a stride or a dilation")
        if node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_LOWER", "SAME_UPPER"):
            _write_pads(node, kernel)
        widen_weights(node, graph, len(kernel))
        pads = list(node.attributes.get_ints("pads", [0] * 2 * len(kernel)))
        pads[-1] += 1
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [*kernel[:-1], kernel[-1] + 1])
        node.attributes.pop("auto_pad", None)


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
