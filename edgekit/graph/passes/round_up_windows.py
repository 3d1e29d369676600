"""Gives max poolings with ``ceil_mode`` their windows as pads, where libraries disagree about the last window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

__all__ = ["RoundUpWindows", "Windows", "windows_of"]


class Windows(NamedTuple):
    """The windows of a pooling along one axis, with ``ceil_mode``."""

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    @property
    def reach(self) -> int:
        """The number of elements from the first to the last of a window."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def windows(self) -> int:
        """The number of windows: rounded up, without one that starts behind the image and its pads at the start."""
        count = math.ceil((self.size + self.begin + self.end - self.reach) / self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.size + self.begin else count

    @property
    def needed(self) -> int:
        """The pads at the end that the last window covers."""
        return max(0, (self.windows - 1) * self.stride + self.reach - self.size - self.begin)


def windows_of(pool: ir.Node) -> list[Windows] | None:
    """Returns the windows of a pooling along each axis; None if the size of its input is dynamic or unknown."""
    kernel = pool.attributes.get_ints("kernel_shape") or ()
    rank = len(kernel)
    shape = pool.inputs[0].shape if pool.inputs and pool.inputs[0] is not None else None
    sizes = [size for size in (list(shape)[2:] if shape is not None else []) if isinstance(size, int)]
    if len(sizes) != rank:
        return None
    ones = [1] * rank
    pads: Sequence[int] = pool.attributes.get_ints("pads", [0] * 2 * rank)
    strides, dilations = (pool.attributes.get_ints(name, ones) for name in ("strides", "dilations"))
    return [Windows(*each) for each in zip(sizes, kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)]


class RoundUpWindows(ir.passes.InPlacePass):
    """Replaces ``ceil_mode`` of a MaxPool by pads at the end if its last window could start behind the image.

    ONNX Runtime has no such window; ONNX's own shape inference (1.23) and other libraries count it.

    Preconditions: values have their shapes.
    Postconditions: no MaxPool with a fixed size of input has ``ceil_mode`` and a window that could start behind the
        image. Shapes behind a changed MaxPool are unknown, and left to `InferShapes`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        pools = [node for node in model.graph.all_nodes() if node.op_type == "MaxPool" and node.domain == ""]
        modified = [_made_explicit(pool) for pool in pools]
        return ir.passes.PassResult(model, modified=any(modified))


def _made_explicit(pool: ir.Node) -> bool:
    axes = windows_of(pool)
    fixed = pool.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or not pool.attributes.get_int("ceil_mode", 0)
    if fixed or axes is None or all(axis.end + axis.stride <= axis.reach for axis in axes):
        return False
    pads = [*(axis.begin for axis in axes), *(axis.needed for axis in axes)]
    pool.attributes["pads"] = ir.AttrInt64s("pads", pads)
    del pool.attributes["ceil_mode"]
    _forget_shapes(pool)
    return True


def _forget_shapes(pool: ir.Node) -> None:
    stack, seen = [pool], {pool}
    while stack:
        for value in stack.pop().outputs:
            value.shape = None
            new = {use.node for use in value.uses()} - seen
            seen |= new
            stack += new
