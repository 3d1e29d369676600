"""Pads the integer input of a quantized convolution with a separate operator, instead of in the convolution."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import (
    NotApplicable,
    RewritePass,
    constant,
    dequantizer,
    element_count,
    initializer,
    new_node,
    stored_constant,
)

__all__ = ["MIN_WEIGHTS", "PadIntegerInputs"]

MIN_WEIGHTS = 10
"""Min number of weights per input element for which the copy pays off.

Measured on YOLOv3-416, two threads, with 54 (13 x 13 x 512): 0.15 ms of 2.05 are saved for a copy of 0.01 ms; with 14
(26 x 26 x 512, to half of that): 0.12 ms for 0.03; with 7 (26 x 26 x 256): 0.02 ms for 0.02; with 2: nothing.
"""


class PadIntegerInputs(RewritePass):
    """Adds a ``Pad`` of the integers before a padded ``Conv(DQ)`` or ``Conv(MaxPool(DQ))``, if that saves time.

    With ``x = s (q - z)``, a convolution of ``x`` is that of ``s q`` minus ``s z`` times the weights' sum. oneDNN,
    OpenVINO's kernel library, computes this sum in advance, except for a padded convolution: an output at the border
    uses only some of the weights, so oneDNN sums all of them again in each run. With 1024 x 512 x 3 x 3 weights this is
    a tenth of the time of a 13 x 13 convolution. An input that is padded with ``z`` in advance has no border. Zero
    points of 0, after a ReLU, cost nothing; those after LeakyReLU, SiLU and HardSwish are not 0.

    Args:
        opt_counts: number of elements of values at the opt shapes, by name; see `usual_element_counts`.

    Preconditions: operators are standard ones of opset 13 or later. Values have their shapes. Scales, zero points and
        weights are initializers.
    Postconditions: a Conv has no pads any more if it reads uint8 with one scale and a zero point other than 0, and has
        `MIN_WEIGHTS` or more 8-bit weights per input element. It reads a DequantizeLinear of its own after a Pad; a
        MaxPool between DequantizeLinear and Conv is copied before the Pad and pools integers. Inputs of other nodes
        stay, and unused nodes are left to `RemoveDead`. A Conv whose weights or zero point are external stays as it is.
    """

    operator = "Conv"

    def __init__(self, opt_counts: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._opt_counts = opt_counts or {}

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        pads = node.attributes.get_ints("pads", ())
        if not any(pads):
            raise NotApplicable("it has no pads")
        pool = _pool_before(node)
        source = dequantizer(node.inputs[0] if pool is None else pool.inputs[0])
        if source is None or not _is_shifted(source):
            raise NotApplicable("it does not read uint8 with one scale and a zero point other than 0")
        self._require_gain(node)
        y, half = node.outputs[0].name, len(pads) // 2
        around = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], dtype=np.int64)
        nodes = _padded(source, pool, initializer(graph, f"{y}.pads", around), f"{y}")
        graph.insert_before(node, nodes)
        node.replace_input_with(0, nodes[-1].outputs[0])
        del node.attributes["pads"]

    def _require_gain(self, node: ir.Node) -> None:
        """Raises `NotApplicable` unless the convolution has enough 8-bit weights for the copy to pay off."""
        source = dequantizer(node.inputs[1])
        weights = stored_constant(source.inputs[0]) if source is not None else None
        if weights is None or node.inputs[0] is None:
            raise NotApplicable("its weights are not 8-bit constants, or are external")
        elements = element_count(node.inputs[0], self._opt_counts)
        if elements is None or weights.size < MIN_WEIGHTS * elements:
            read = "an unknown number of" if elements is None else elements
            raise NotApplicable(f"the copy does not pay off for {weights.size} weights and {read} elements")


def _pool_before(node: ir.Node) -> ir.Node | None:
    """Returns the MaxPool that ``node`` reads, if it does not output indices."""
    pool = node.inputs[0].producer() if node.inputs[0] is not None else None
    return pool if pool is not None and pool.op_type == "MaxPool" and len(pool.outputs) == 1 else None


def _is_shifted(source: ir.Node) -> bool:
    """Whether the input is uint8 with one scale and a zero point other than 0."""
    scale, zero = constant(source.inputs[1]), stored_constant(source.inputs[2])
    if scale is None or zero is None or scale.shape.numpy() or zero.dtype != ir.DataType.UINT8:
        return False
    return bool(zero.numpy().any())


def _padded(source: ir.Node, pool: ir.Node | None, pads: ir.Value, y: str) -> list[ir.Node]:
    """Copies the nodes before a convolution, named after its output ``y``, with the Pad before the DQ."""
    x, scale, zero = source.inputs
    pooled = []
    if pool is not None:
        pooled.append(new_node("MaxPool", [x], name=f"{y}.pooled", output=f"{y}.pooled"))
        pooled[0].attributes.update(pool.attributes)
        x = pooled[0].outputs[0]
    padded = new_node("Pad", [x, pads, zero], name=f"{y}.padded", output=f"{y}.padded")
    real = new_node("DequantizeLinear", [padded.outputs[0], scale, zero], name=f"{y}.real", output=f"{y}.real")
    return [*pooled, padded, real]
