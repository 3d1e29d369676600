"""Computes LeakyRelu on 8-bit integers without a look-up table."""

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

__all__ = ["MIN_ELEMENTS", "ReplaceLeakyRelu"]

MIN_ELEMENTS = 1 << 19
"""Min number of elements for which two operators are faster than the look-up table.

Measured on x86 with AVX-512, two threads, YOLOv3-416: 52 x 52 x 256 takes 0.88 of the table's time, larger tensors
less, 52 x 52 x 128 the same time, smaller ones more.
"""

_DEFAULT_SLOPE = 0.01


class ReplaceLeakyRelu(RewritePass):
    """Replaces large ``QLinearLeakyRelu`` by ``Clip`` and ``QLinearAdd``: ``alpha * x + (1 - alpha) * max(x, 0)``.

    ONNX Runtime computes ``QLinearLeakyRelu`` with a table of 256 bytes, one element at a time. ``Clip`` and
    ``QLinearAdd`` use vector instructions, so that two passes over a tensor are faster than one with the table, if the
    tensor is large enough to pay for the second operator. Results differ by one step if the exact one is halfway
    between two (2 of 384,000 random cases).

    Args:
        opt_counts: number of elements of values at the opt shapes, by name; see `usual_element_counts`.

    Preconditions: ONNX Runtime has fused the operators. Values have their shapes.
    Postconditions: a QLinearLeakyRelu of `MIN_ELEMENTS` or more, with a constant scale and zero point and a slope
        between 0 and 1, is replaced. The QLinearAdd and its output keep the names of the replaced node and its output.
    """

    operator = "QLinearLeakyRelu"

    def __init__(self, opt_counts: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._opt_counts = opt_counts or {}

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        x, scale, zero, *written = node.inputs
        scale_tensor, zero_tensor = constant(scale), constant(zero)
        if scale_tensor is None or zero_tensor is None or scale_tensor.shape.numpy() or zero_tensor.shape.numpy():
            raise NotApplicable("its scale and zero point are not constant scalars")
        slope = np.float32(node.attributes.get_float("alpha", _DEFAULT_SLOPE))
        if not 0 < slope < 1:
            raise NotApplicable("its slope is not between 0 and 1")
        elements = element_count(node.outputs[0], self._opt_counts)
        if elements is None or elements < MIN_ELEMENTS:
            raise NotApplicable(f"the look-up table is faster for {elements or 'an unknown number of'} elements")
        y = node.outputs[0].name
        scales = [
            initializer(graph, f"{y}_{part}", np.asarray(np.float32(scale_tensor.numpy()) * factor))
            for part, factor in (("slope", slope), ("rest", np.float32(1) - slope))
        ]
        positive = new_node("Clip", [x, zero], name=f"{node.name}.clip", output=f"{y}_positive")
        terms = [x, scales[0], zero, positive.outputs[0], scales[1], zero]
        add = new_node("QLinearAdd", [*terms, *written], name=node.name, domain=node.domain)
        replace_node(node, [positive, add])
