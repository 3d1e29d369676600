"""Rewrites a graph for ONNX Runtime: before it optimizes the graph, and in what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions
from edgekit.engine.onnxruntime.scheme import LIMITS
from edgekit.specs import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["has_float_biases", "lower_after", "lower_before", "opt_element_counts"]


def has_float_biases(source: ir.Model) -> bool:
    """Whether a product of integers has a bias that is not quantized."""
    # Needs onnx_ir, which runtime-only boards lack.
    from edgekit.graph.operators import BIASED_PRODUCTS

    for node in source.graph.all_nodes():
        if node.op_type in BIASED_PRODUCTS and len(node.inputs) > 2 and node.inputs[2] is not None:
            producers = [value.producer() if value is not None else None for value in node.inputs]
            quantized = [producer is not None and producer.op_type == "DequantizeLinear" for producer in producers]
            if quantized == [True, True, False]:
                return True
    return False


def opt_element_counts(source: ir.Model, options: BuildOptions) -> Mapping[str, int]:
    """Returns the number of elements of each value at the opt shapes, by name."""
    from edgekit.lower.rewriting import usual_element_counts  # needs onnx_ir, which runtime-only boards lack

    return usual_element_counts(source, options.shapes)


def lower_before(source: ir.Model, options: BuildOptions) -> tuple[bool, tuple[str, ...]]:
    """Replaces patterns that ONNX Runtime does not fuse, or fuses wrongly; returns whether any were, and notes."""
    # These need onnx_ir, which runtime-only boards lack.
    from edgekit.lower.float_factors import FloatFactors
    from edgekit.lower.float_small_biases import FloatSmallBiases
    from edgekit.lower.fuse_attention import FuseAttention
    from edgekit.lower.fuse_integer_matmul import FuseIntegerMatMul
    from edgekit.lower.fuse_rms_norm import FuseRmsNorm
    from edgekit.lower.keep_average_float import KeepAverageFloat
    from edgekit.lower.keep_bounds import KeepBounds
    from edgekit.lower.keep_layout import KeepLayout
    from edgekit.lower.norm_on_last_axis import NormOnLastAxis
    from edgekit.lower.rewriting import lower
    from edgekit.lower.round_in_floats import FEW_BITS, round_in_floats
    from edgekit.lower.signed_weights import SignedWeights
    from edgekit.lower.softmax_on_last_axis import SoftmaxOnLastAxis

    attention = FuseAttention()
    # Measured on x86 only.
    wanted = options.attention == "auto" and cpu().arch == "x86_64"
    in_floats = options.precision is Precision.FP32 and round_in_floats(source, FEW_BITS)
    modified = lower(
        source,
        [
            *map(KeepBounds, ("Relu", "Clip")),
            *map(FloatFactors, ("Gemm", "MatMul")),
            *map(FloatSmallBiases, ("Conv", "Gemm")),
            SignedWeights(),
            FuseIntegerMatMul(),
            KeepAverageFloat(LIMITS),
            *map(KeepLayout, ("Resize", "Pad")),
            SoftmaxOnLastAxis(),
            FuseRmsNorm("Div"),
            FuseRmsNorm("Mul"),
            NormOnLastAxis("Div"),
            NormOnLastAxis("Mul"),
            *([attention] if wanted else []),
        ],
        bodies=True,
    )
    return modified or in_floats, attention.notes()


def lower_after(built: ir.Model, opt_counts: Mapping[str, int]) -> bool:
    """Replaces operators by others that were measured to be faster on this CPU; returns whether any were replaced.

    Measured on x86 only. On Arm, the graph stays as ONNX Runtime wrote it.
    """
    # These need onnx_ir, which runtime-only boards lack.
    from edgekit.lower.merge_dequantizers import MergeDequantizers
    from edgekit.lower.replace_leaky_relu import ReplaceLeakyRelu
    from edgekit.lower.resize_as_gather import ResizeAsGather
    from edgekit.lower.rewriting import lower
    from edgekit.lower.split_float_weights import SplitFloatWeights

    here = cpu()
    if here.arch != "x86_64":
        return False
    # Without VNNI, sums of products with 8-bit weights overflow (`scheme_of_processor`).
    split = [SplitFloatWeights()] if here.fast_int8 else []
    return lower(built, [*split, ReplaceLeakyRelu(opt_counts), ResizeAsGather(), MergeDequantizers()])
