"""Pads the bytes that a quantized convolution reads, so that the convolution itself does not pad."""

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

__all__ = ["LEAST_WEIGHTS", "PadIntegerInputs"]

LEAST_WEIGHTS = 10
"""Weights for each element of the input, from which on the copy pays.

Measured on YOLOv3-416, two threads, with 54 (13 x 13 x 512): 0.15 ms of 2.05 are saved for a copy of 0.01 ms; with 14
(26 x 26 x 512, to half of that): 0.12 ms for 0.03; with 7 (26 x 26 x 256): 0.02 ms for 0.02; with 2: nothing.
"""


class PadIntegerInputs(RewritePass):
    """Puts a ``Pad`` of the bytes in front of a padded ``Conv(DQ)`` or ``Conv(MaxPool(DQ))``, where that pays.

    With ``x = s (q - z)``, a convolution of ``x`` is that of ``s q`` less ``s z`` times the sum of its weights. oneDNN,
    which OpenVINO computes with, knows that sum beforehand, except where a convolution is padded: an output at the
    border lacks some of the weights, so that it adds all of them up again in each run. With 1024 x 512 x 3 x 3 of them
    that is a tenth of the time it takes at 13 x 13. A copy of the input that is padded with ``z`` already has no
    border. ReLUs leave zero points of zero, which cost nothing. LeakyReLU, SiLU and HardSwish do not.

    Args:
        usual: how many elements values have at the usual sizes, by name; see `usual_element_counts`.

    Preconditions: operators are standard ones of opset 13 or later. Values have their shapes. Scales, zero points and
        weights are initializers.
    Postconditions: a Conv has no pads any more if it reads uint8 of one scale and of a zero point other than 0, and its
        weights are bytes, `LEAST_WEIGHTS` and more for each element that it reads. It reads a DequantizeLinear of its
        own behind a Pad; a MaxPool between DequantizeLinear and Conv is copied in front of the Pad and pools bytes.
        What other nodes read stays, and what nothing reads any more is left to `RemoveDead`. A Conv whose weights or
        zero point lie in a file of weights stays as it is.
    """

    operator = "Conv"

    def __init__(self, usual: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._usual = usual or {}

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        pads = node.attributes.get_ints("pads", ())
        if not any(pads):
            raise NotApplicable("it has no pads")
        pool = _pool_before(node)
        source = dequantizer(node.inputs[0] if pool is None else pool.inputs[0])
        if source is None or not _is_shifted(source):
            raise NotApplicable("it does not read uint8 of one scale and of a zero point other than 0")
        self._require_gain(node)
        y, half = node.outputs[0].name, len(pads) // 2
        around = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], dtype=np.int64)
        nodes = _padded(source, pool, initializer(graph, f"{y}.pads", around), f"{y}")
        graph.insert_before(node, nodes)
        node.replace_input_with(0, nodes[-1].outputs[0])
        del node.attributes["pads"]

    def _require_gain(self, node: ir.Node) -> None:
        """Raises `NotApplicable` unless the convolution has weights of bytes, and so many that the copy pays."""
        source = dequantizer(node.inputs[1])
        weights = stored_constant(source.inputs[0]) if source is not None else None
        if weights is None or node.inputs[0] is None:
            raise NotApplicable("its weights are no constant bytes, or lie in another file")
        elements = element_count(node.inputs[0], self._usual)
        if elements is None or weights.size < LEAST_WEIGHTS * elements:
            read = "an unknown number of" if elements is None else elements
            raise NotApplicable(f"the copy does not pay for {weights.size} weights and {read} elements")


def _pool_before(node: ir.Node) -> ir.Node | None:
    """The MaxPool that ``node`` reads, if it gives out no indices."""
    pool = node.inputs[0].producer() if node.inputs[0] is not None else None
    return pool if pool is not None and pool.op_type == "MaxPool" and len(pool.outputs) == 1 else None


def _is_shifted(source: ir.Node) -> bool:
    """Whether the bytes are uint8 of one scale, and 0 does not stand for 0."""
    scale, zero = constant(source.inputs[1]), stored_constant(source.inputs[2])
    if scale is None or zero is None or scale.shape.numpy() or zero.dtype != ir.DataType.UINT8:
        return False
    return bool(zero.numpy().any())


def _padded(source: ir.Node, pool: ir.Node | None, pads: ir.Value, y: str) -> list[ir.Node]:
    """Copies of what stands before a convolution, named after its output ``y``; the Pad in front of the DQ."""
    x, scale, zero = source.inputs
    pooled = []
    if pool is not None:
        pooled.append(new_node("MaxPool", [x], name=f"{y}.pooled", output=f"{y}.pooled"))
        pooled[0].attributes.update(pool.attributes)
        x = pooled[0].outputs[0]
    padded = new_node("Pad", [x, pads, zero], name=f"{y}.padded", output=f"{y}.padded")
    real = new_node("DequantizeLinear", [padded.outputs[0], scale, zero], name=f"{y}.real", output=f"{y}.real")
    return [*pooled, padded, real]
