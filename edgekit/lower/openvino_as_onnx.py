"""Rewrites graphs so that OpenVINO computes what ONNX says."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS
from edgekit.graph.passes.mask_attention_windows import MaskAttentionWindows
from edgekit.lower.add_bias_to_scores import AddBiasToScores
from edgekit.lower.clip_before_quantizer import ClipBeforeQuantizer
from edgekit.lower.compare_as_less import CompareAsLess, CompareWithZero
from edgekit.lower.concat_integers import ConcatIntegers
from edgekit.lower.cut_gathered_elements import CutGatheredElements
from edgekit.lower.dequantize_exactly import STEPPED, DequantizeExactly
from edgekit.lower.dft_over_first_axis import DftOverFirstAxis
from edgekit.lower.explicit_pads import ExplicitPads
from edgekit.lower.float_factors import FloatRows
from edgekit.lower.full_rank_slopes import FullRankSlopes
from edgekit.lower.gather_one_after_product import GatherOneAfterProduct
from edgekit.lower.keep_infinity import KeepInfinity
from edgekit.lower.keep_masks_finite import KeepMasksFinite
from edgekit.lower.name_passed_states import NamePassedStates
from edgekit.lower.pad_outside_windows import PadOutsideWindows
from edgekit.lower.pass_outer_values import PassOuterValues
from edgekit.lower.pool_before_points import PoolBeforePoints
from edgekit.lower.power_as_product import PowerAsProduct
from edgekit.lower.propagate_nan import PropagateNan
from edgekit.lower.qlinear_as_qdq import QLinearAsQdq
from edgekit.lower.quantize_before_max import QuantizeBeforeMax
from edgekit.lower.quantize_behind_concat import QuantizeBehindConcat
from edgekit.lower.range_of_nothing import RangeOfNothing
from edgekit.lower.read_maximum_twice import ReadMaximumTwice
from edgekit.lower.reduce_of_no_axes import ReduceOfNoAxes
from edgekit.lower.replace_hard_sigmoid import ReplaceHardSigmoid
from edgekit.lower.require_same_results import require_same_results
from edgekit.lower.require_small_integers import require_small_integers
from edgekit.lower.resize_as_product import ResizeAsProduct
from edgekit.lower.rewriting import lower
from edgekit.lower.scalar_conditions import ScalarConditions
from edgekit.lower.separate_tied_weights import SeparateTiedWeights
from edgekit.lower.sort_top_k import SortTopK
from edgekit.lower.stop_dequantizers import STOPPING, StopDequantizers
from edgekit.lower.truncate_to_integers import TRUNCATING, TruncateToIntegers
from edgekit.lower.unsigned_integers import UnsignedIntegers
from edgekit.lower.vectors_as_matrices import VectorsAsMatrices
from edgekit.lower.weights_without_zero_point import WeightsWithoutZeroPoint
from edgekit.lower.widen_kernel_rows import WidenKernelRows
from edgekit.lower.widen_padded_points import WidenPaddedPoints
from edgekit.lower.wrap_integers import WRAPPING, WrapIntegers
from edgekit.lower.wrap_pads import WrapPads

__all__ = ["compute_as_onnx"]


def compute_as_onnx(model: ir.Model) -> bool:
    """Replaces what OpenVINO computes otherwise than ONNX; returns whether anything was replaced.

    Raises:
        GraphError: names a node that cannot be replaced.
    """
    require_small_integers(model)
    require_same_results(model)
    pools = [ExplicitPads(operator) for operator in ("AveragePool", "LpPool", "MaxPool")]
    maxima = ("GlobalMaxPool", "ReduceMax", "ReduceMin")
    norms = [ReduceOfNoAxes(operator) for operator in ("ReduceL1", "ReduceL2", "ReduceLogSum")]
    others = [ReplaceHardSigmoid(), SeparateTiedWeights(), CutGatheredElements(), DftOverFirstAxis(), SortTopK()]
    others += [WrapPads(), RangeOfNothing(), FullRankSlopes(), GatherOneAfterProduct(), AddBiasToScores()]
    others += [VectorsAsMatrices()]
    integers = [*map(WrapIntegers, WRAPPING), *map(TruncateToIntegers, TRUNCATING), PowerAsProduct()]
    comparisons = [CompareAsLess("Greater"), CompareAsLess("GreaterOrEqual"), CompareWithZero()]
    extrema = map(KeepInfinity, ("ReduceMax", "ReduceMin"))
    unusual = [*comparisons, *map(PropagateNan, ("Max", "Min", "Clip", "Relu")), *extrema]
    return lower(
        model,
        [
            MaskAttentionWindows(causal=True),
            QLinearAsQdq(),
            UnsignedIntegers(),
            *map(WeightsWithoutZeroPoint, sorted(PRODUCTS)),
            *map(FloatRows, ("Gemm", "MatMul")),
            ClipBeforeQuantizer(),
            *map(DequantizeExactly, STEPPED),
            *pools,
            ResizeAsProduct(),
            *map(QuantizeBeforeMax, maxima),
            WidenKernelRows(),  # reads shapes, which the next pass does not write
            PadOutsideWindows(),
            WidenPaddedPoints(),
            PoolBeforePoints(),
            *map(StopDequantizers, STOPPING),
            *map(KeepMasksFinite, ("Add", "Sub")),
            ConcatIntegers(),
            QuantizeBehindConcat(),
            *norms,
            *others,
            *integers,
            *unusual,
            *map(ReadMaximumTwice, maxima),
            *map(ScalarConditions, ("If", "Loop")),
            NamePassedStates(),
            PassOuterValues(),
        ],
    )
