"""Counts the axes of a Resize from the first one: runtimes take negative ones otherwise, or not at all."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["PositiveAxes"]


class PositiveAxes(ir.passes.InPlacePass):
    """Replaces negative ``axes`` of a ``Resize``.

    OpenVINO 2026.4 refuses them. ONNX Runtime 1.32 takes sizes of other axes where ``keep_aspect_ratio_policy`` is
    given too: from 16x16 to at most 24x9 it makes 16x16 instead of 9x9.

    Preconditions: values have their shapes.
    Postconditions: no Resize of a known rank has a negative axis.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph.all_nodes():
            data = node.inputs[0] if node.op_type == "Resize" and node.domain == "" else None
            axes = node.attributes.get_ints("axes", ())
            if data is None or data.shape is None or all(axis >= 0 for axis in axes):
                continue
            node.attributes["axes"] = ir.AttrInt64s("axes", [axis % len(data.shape) for axis in axes])
            modified = True
        return ir.passes.PassResult(model, modified=modified)
