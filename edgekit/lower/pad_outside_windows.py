"""Pads integers before a convolution whose pads hold a whole window, for a backend that leaves such results unset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, dequantizer, initializer, new_node
from edgekit.lower.stop_dequantizers import in_floats

__all__ = ["PadOutsideWindows"]


class PadOutsideWindows(RewritePass):
    """Adds a ``Pad`` of the integers before a ``Conv(DQ)`` that has pads as wide as its kernel.

    The first or last windows of such a convolution have no element of the image. OpenVINO 2026.4 (its kernel
    ``brgconv_avx512`` for 8 bits, seen with groups) writes there what the memory held before, and may end the process.
    It moves a DequantizeLinear behind other operators, such as a MaxPool: a Conv behind these reads floats instead.

    Preconditions: values have their shapes; the opset is 13 or newer.
    Postconditions: no Conv that reads a DequantizeLinear of one scale has such pads, and no other with such pads reads
        what OpenVINO may have in integers. Names stay; results are equal.
    """

    operator = "Conv"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        pads = node.attributes.get_ints("pads", ())
        if not _holds_window(node, pads):
            raise NotApplicable("each window has an element of the image")
        source = dequantizer(node.inputs[0])
        scale = source.inputs[1] if source is not None else None
        if source is None or scale is None or scale.shape is None or scale.shape.rank():
            _read_floats(node, graph)
            return
        name, half = f"{node.outputs[0].name}.around", len(pads) // 2
        around = initializer(graph, f"{name}.pads", np.asarray([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64))
        integers, *parameters = source.inputs
        padded = new_node("Pad", [integers, around, parameters[1]], name=f"{name}.integers", output=f"{name}.integers")
        real = new_node("DequantizeLinear", [padded.outputs[0], *parameters], name=name, output=name)
        graph.insert_before(node, [padded, real])
        node.replace_input_with(0, real.outputs[0])
        del node.attributes["pads"]


def _read_floats(node: ir.Node, graph: ir.Graph) -> None:
    data = node.inputs[0]
    if data is None or not _is_dequantized(data):
        raise NotApplicable("it reads floats")
    kept = in_floats(graph, data, f"{node.outputs[0].name}.float")
    graph.insert_before(node, [kept])
    node.replace_input_with(0, kept.outputs[0])


def _is_dequantized(value: ir.Value) -> bool:
    """Whether a value is computed from integers, with no layer between."""
    waiting, seen = [value.producer()], set[ir.Node]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node.op_type in PRODUCTS:
            continue
        if node.op_type == "DequantizeLinear":
            return True
        seen.add(node)
        waiting += [each.producer() for each in node.inputs if each is not None and constant(each) is None]
    return False


def _holds_window(node: ir.Node, pads: Sequence[int]) -> bool:
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shape is None or not any(pads):
        return False
    dilations = node.attributes.get_ints("dilations", [1] * (len(shape) - 2))
    spans = [
        (size - 1) * dilation + 1 if isinstance(size, int) else 1
        for size, dilation in zip(shape[2:], dilations, strict=True)
    ]
    return any(pad >= span for pad, span in zip(pads, [*spans, *spans], strict=True))
