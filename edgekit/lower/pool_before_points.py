"""Takes the stride of quantized 1x1 convolutions in front of them, for a backend that moves it too far."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, dequantizer, new_node

__all__ = ["PoolBeforePoints"]


class PoolBeforePoints(RewritePass):
    """Puts a ``MaxPool`` of one element with the stride of 1x1 convolutions before them, where they alone read a DQ.

    OpenVINO 2026.4 moves the stride of such convolutions in front of the elementwise operators before them, as a
    MaxPool of one element: also between the parts of a DequantizeLinear, and then pools and convolves floats. Behind
    the DequantizeLinear, it pools integers. Measured on x86 with VNNI, one thread: the last block of a stage of a
    ResNet-50 that has its stride in the first convolution of a block, with the two convolutions behind it, takes 0.76
    to 0.83 of the time.

    Preconditions: `WidenPaddedPoints` ran. Values have their shapes.
    Postconditions: no 8-bit Conv of one element and one group has a stride, if all readers of its input are such
        convolutions with the same stride. Names stay; results are equal.
    """

    operator = "Conv"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        source = dequantizer(node.inputs[0])
        if source is None or source.outputs[0].is_graph_output():
            raise NotApplicable("it does not read integers with constant parameters, or they are an output too")
        real, strides = source.outputs[0], _strides(node)
        readers = [use.node for use in real.uses()]
        if not strides or any(_strides(reader) != strides for reader in readers):
            raise NotApplicable("it is no 8-bit convolution of one element with a stride, or others read its input")
        name = f"{real.name}.{'x'.join(map(str, strides))}"
        kept = {"kernel_shape": [1] * len(strides), "strides": list(strides)}
        pool = new_node("MaxPool", [real], kept, name=name, output=name)
        graph.insert_after(source, [pool])
        for reader in readers:
            reader.replace_input_with(0, pool.outputs[0])
            del reader.attributes["strides"]


def _strides(node: ir.Node) -> Sequence[int]:
    """Returns the strides of an 8-bit convolution of one element and one group without pads, if it has some."""
    weights = dequantizer(node.inputs[1]) if node.op_type == "Conv" else None
    shape = weights.outputs[0].shape if weights is not None else None
    if shape is None or any(size != 1 for size in shape[2:]) or node.attributes.get_int("group", 1) != 1:
        return ()
    strides = node.attributes.get_ints("strides", ())
    return strides if any(stride != 1 for stride in strides) and not any(node.attributes.get_ints("pads", ())) else ()
