"""Computes LeakyRelu on bytes without a look-up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import (
    NotApplicable,
    RewritePass,
    constant,
    element_count,
    initializer,
    new_node,
    replace_node,
)

__all__ = ["LEAST_ELEMENTS", "ReplaceLeakyRelu"]

LEAST_ELEMENTS = 1 << 19
"""Elements from which on two operators are faster than the look-up.

Measured on x86 with AVX-512, two threads, YOLOv3-416: 52 x 52 x 256 takes 0.88 of the look-up's time, larger ones less,
52 x 52 x 128 as long, smaller ones longer.
"""

_DEFAULT_SLOPE = 0.01


class ReplaceLeakyRelu(RewritePass):
    """Replaces large ``QLinearLeakyRelu`` by ``Clip`` and ``QLinearAdd``: ``alpha * x + (1 - alpha) * max(x, 0)``.

    ONNX Runtime computes ``QLinearLeakyRelu`` by a table of 256 bytes, one number after the other. ``Clip`` and
    ``QLinearAdd`` have vector instructions, so that two passes over a tensor are faster than that one, if it is large
    enough to pay for the second operator. Results differ by one step where the exact one lies halfway between two (2 of
    384,000 random cases).

    Args:
        usual: how many elements values have at the usual sizes, by name; see `usual_element_counts`.

    Preconditions: operators are those that ONNX Runtime has fused. Values have their shapes.
    Postconditions: a QLinearLeakyRelu of `LEAST_ELEMENTS` and more, with a constant scale and zero point and a slope
        between 0 and 1, is replaced. The QLinearAdd and its output keep the names of the replaced node and its output.
    """

    operator = "QLinearLeakyRelu"

    def __init__(self, usual: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._usual = usual or {}

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        x, scale, zero, *written = node.inputs
        whole, shift = constant(scale), constant(zero)
        if whole is None or shift is None or whole.shape.numpy() or shift.shape.numpy():
            raise NotApplicable("its scale and zero point are not two constant numbers")
        slope = np.float32(node.attributes.get_float("alpha", _DEFAULT_SLOPE))
        if not 0 < slope < 1:
            raise NotApplicable("its slope is not between 0 and 1")
        elements = element_count(node.outputs[0], self._usual)
        if elements is None or elements < LEAST_ELEMENTS:
            raise NotApplicable(f"the look-up is faster for {elements or 'an unknown number of'} elements")
        y = node.outputs[0].name
        shares = [
            initializer(graph, f"{y}_{part}", np.asarray(np.float32(whole.numpy()) * share))
            for part, share in (("slope", slope), ("rest", np.float32(1) - slope))
        ]
        positive = new_node("Clip", [x, zero], name=f"{node.name}.clip", output=f"{y}_positive")
        terms = [x, shares[0], zero, positive.outputs[0], shares[1], zero]
        add = new_node("QLinearAdd", [*terms, *written], name=node.name, domain=node.domain)
        replace_node(node, [positive, add])
