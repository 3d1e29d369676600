"""Rewrites a graph for OpenVINO on the processor of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions
from edgekit.specs import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["lower_for_processor", "may_lower", "narrow_for_processor"]

# The first opset with an axis of DequantizeLinear; Pad and MaxPool take 8-bit integers since 12.
MIN_OPSET = 13


def may_lower() -> bool:
    """Whether this is x86 with VNNI, where lowering was measured. On other CPUs, graphs are not lowered."""
    here = cpu()
    return here.arch == "x86_64" and here.fast_int8


def narrow_for_processor(model: ir.Model, options: BuildOptions) -> int:
    """Rounds 8-bit weights to 7 bits where their products overflow (`scheme_of_processor`); returns how many were."""
    # These need onnx_ir, which runtime-only boards lack.
    from edgekit.lower.narrow_weights import NarrowWeights
    from edgekit.lower.rewriting import lower

    here, narrow = cpu(), NarrowWeights()
    if options.precision is Precision.INT8 and here.arch == "x86_64" and not here.fast_int8:
        lower(model, [narrow])
    return narrow.count


def lower_for_processor(model: ir.Model, options: BuildOptions) -> tuple[bool, list[str]]:
    """Applies the rewrites that were measured to be faster here; returns whether any did, and channels-last outputs."""
    # These need onnx_ir, which runtime-only boards lack.
    from edgekit.lower.outputs_channels_last import OutputsChannelsLast
    from edgekit.lower.pad_integer_inputs import PadIntegerInputs
    from edgekit.lower.quantize_before_moves import QuantizeBeforeMoves
    from edgekit.lower.rewriting import lower, usual_element_counts
    from edgekit.lower.rows_on_three_axes import RowsOnThreeAxes
    from edgekit.lower.split_float_weights import SplitFloatWeights

    opsets = [version for domain, version in model.opset_imports.items() if domain in ("", "ai.onnx")]
    if not may_lower() or min(opsets, default=0) < MIN_OPSET:
        return False, []
    if options.precision is not Precision.INT8:
        return lower(model, [RowsOnThreeAxes()]), []
    outputs = OutputsChannelsLast()
    opt_counts = usual_element_counts(model, options.shapes)
    passes = SplitFloatWeights(fused=False), PadIntegerInputs(opt_counts), QuantizeBeforeMoves(), RowsOnThreeAxes()
    return lower(model, [*passes, outputs]), outputs.turned
