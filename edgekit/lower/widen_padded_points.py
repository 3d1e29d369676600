"""Gives padded 1x1 convolutions a kernel of two elements, for a backend that loses the pads of the others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, stored_constant

__all__ = ["WidenPaddedPoints", "widen_weights"]


class WidenPaddedPoints(RewritePass):
    """Adds an element of zero to the kernel of a ``Conv`` of one element that has pads and a stride.

    OpenVINO 2026.4 moves the stride of such a convolution in front of it and of the elementwise operators before it,
    as a MaxPool of one element: where the convolution has pads, other elements are left. It does so in FP32 and INT8,
    with a Pad before the convolution, and with the stride of another convolution of one element behind it. A kernel of
    two elements keeps its stride. It multiplies twice as often, and needs no size of the image.

    Preconditions: values have their shapes; the opset is 13 or newer.
    Postconditions: no Conv of one group with a kernel of one element has pads, or reads a Pad, if it has a stride or
        passes its result on to such a convolution with a stride. Names stay; results are equal.
    """

    operator = "Conv"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        rank = _rank_of_point(node)
        if rank is None:
            raise NotApplicable("its kernel has more than one element, or it has groups")
        pads = list(node.attributes.get_ints("pads", [0] * 2 * rank))
        if not any(pads) and not _reads_pad(node):
            raise NotApplicable("it has no pads")
        if not _has_stride(node) and not _strides_behind(node):
            raise NotApplicable("it has no stride")
        widen_weights(node, graph, rank)
        pads[-1] += 1
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1] * (rank - 1) + [2])
        dilations = node.attributes.get_ints("dilations", [1] * rank)
        node.attributes["dilations"] = ir.AttrInt64s("dilations", [*dilations[:-1], 1])


def _rank_of_point(node: ir.Node) -> int | None:
    """Returns the number of spatial axes of a convolution of one element and one group; None for others."""
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shape is None or node.attributes.get_int("group", 1) != 1 or any(size != 1 for size in shape[2:]):
        return None
    return len(shape) - 2


def _reads_pad(node: ir.Node) -> bool:
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    while before is not None and before.op_type in ("DequantizeLinear", "QuantizeLinear"):
        before = before.inputs[0].producer() if before.inputs[0] is not None else None
    return before is not None and before.op_type == "Pad"


def _has_stride(node: ir.Node) -> bool:
    return any(stride != 1 for stride in node.attributes.get_ints("strides", ()))


def _strides_behind(node: ir.Node) -> bool:
    """Whether a convolution of one element with a stride reads the result, with no other convolution between."""
    waiting, seen = [*node.outputs], set[ir.Node]()
    while waiting:
        for user in [use.node for use in waiting.pop().uses()]:
            if user in seen:
                continue
            seen.add(user)
            point = user.op_type == "Conv" and _rank_of_point(user) is not None
            if point and _has_stride(user):
                return True
            if point or user.op_type != "Conv":
                waiting += user.outputs
    return False


def widen_weights(node: ir.Node, graph: ir.Graph, rank: int, columns: int = 1) -> None:
    """Pads the weights of a ``Conv`` by zeros at the end of the last axis; weights of 8 bits stay in 8 bits.

    Args:
        node: the convolution, whose attributes stay as they are.
        graph: its graph.
        rank: axes of the kernel.
        columns: elements to add.
    """
    weights, name = node.inputs[1], f"{node.outputs[0].name}.wide"
    around = initializer(graph, f"{name}.pads", np.asarray([0] * (2 * rank + 3) + [columns], np.int64))
    source = weights.producer() if weights is not None else None
    zero = source.inputs[2] if source is not None and len(source.inputs) > 2 else None
    fill = _same_everywhere(graph, f"{name}.zero_point", zero)
    if source is None or source.op_type != "DequantizeLinear" or (zero is not None and fill is None):
        wide = new_node("Pad", [weights, around], name=name, output=name)
        graph.insert_before(node, [wide])
        node.replace_input_with(1, wide.outputs[0])
        return
    stored = _padded_constant(graph, name, source.inputs[0], fill, columns)
    if stored is None:
        pad = new_node("Pad", [source.inputs[0], around, *([fill] if fill else [])], name=name, output=name)
        graph.insert_before(node, [pad])
        stored = pad.outputs[0]
    real = new_node("DequantizeLinear", [stored, *source.inputs[1:]], name=f"{name}.real", output=f"{name}.real")
    real.attributes.update(source.attributes)
    if weights is not None and weights.shape is not None and weights.shape.is_static():
        *others, width = weights.shape.numpy()
        real.outputs[0].type, real.outputs[0].shape = weights.type, ir.Shape([*others, width + columns])
    graph.insert_before(node, [real])
    node.replace_input_with(1, real.outputs[0])


def _padded_constant(
    graph: ir.Graph, name: str, weights: ir.Value | None, fill: ir.Value | None, columns: int
) -> ir.Value | None:
    """Returns stored weights with more elements as stored weights, which later passes read; None for others."""
    tensor, zero = stored_constant(weights), stored_constant(fill)
    if tensor is None or tensor.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    array = tensor.numpy()
    ends = [(0, 0)] * (array.ndim - 1) + [(0, columns)]
    return initializer(graph, name, np.pad(array, ends, constant_values=zero.numpy().item() if zero is not None else 0))


def _same_everywhere(graph: ir.Graph, name: str, zero: ir.Value | None) -> ir.Value | None:
    """Returns a zero point that is the same for all channels as a value without axes; None if it is not."""
    tensor = stored_constant(zero)
    array = tensor.numpy() if tensor is not None else None
    if array is None or not array.size or (array != array.flat[0]).any():
        return None
    return initializer(graph, name, array.reshape(-1)[:1].reshape(()))
