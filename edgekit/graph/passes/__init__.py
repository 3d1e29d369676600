"""Passes that simplify a graph without changing its results; `optimize` runs all of them."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.bodies import Body, changed_bodies
from edgekit.graph.passes.add_window_masks import AddWindowMasks
from edgekit.graph.passes.column_of_vector import ColumnOfVector
from edgekit.graph.passes.explicit_same_pads import ExplicitSamePads
from edgekit.graph.passes.fold_affine import FoldAffine
from edgekit.graph.passes.fold_constants import FoldConstants
from edgekit.graph.passes.fold_focus import FoldFocus
from edgekit.graph.passes.fold_gemm_factors import FoldGemmFactors
from edgekit.graph.passes.fold_into_table import FoldIntoTable
from edgekit.graph.passes.fold_norms import FoldNorms
from edgekit.graph.passes.fold_pad import FoldPad
from edgekit.graph.passes.fold_selections import FoldSelections
from edgekit.graph.passes.infer_shapes import InferShapes
from edgekit.graph.passes.look_up_one_hot import LookUpOneHot
from edgekit.graph.passes.merge_arithmetic import MergeArithmetic
from edgekit.graph.passes.merge_identical import MergeIdentical
from edgekit.graph.passes.merge_reshapes import MergeReshapes
from edgekit.graph.passes.move_nan_guard import MoveNanGuard
from edgekit.graph.passes.move_transposes import MoveTransposes
from edgekit.graph.passes.multiply_einsum import MultiplyEinsum
from edgekit.graph.passes.name_nodes import NameNodes
from edgekit.graph.passes.pool_globally import PoolGlobally
from edgekit.graph.passes.positive_axes import PositiveAxes
from edgekit.graph.passes.read_invariants import ReadInvariants
from edgekit.graph.passes.recognize_gelu import RecognizeGelu
from edgekit.graph.passes.recognize_hard_swish import RecognizeHardSwish
from edgekit.graph.passes.recognize_layer_norm import RecognizeLayerNorm
from edgekit.graph.passes.recognize_sigmoid import RecognizeSigmoid
from edgekit.graph.passes.recognize_softmax import RecognizeSoftmax
from edgekit.graph.passes.remove_dead import RemoveDead
from edgekit.graph.passes.remove_identity import RemoveIdentity
from edgekit.graph.passes.round_up_windows import RoundUpWindows
from edgekit.graph.passes.scale_queries import ScaleQueries
from edgekit.graph.passes.time_first import TimeFirst
from edgekit.graph.passes.widen_floats import WidenFloats, is_widened, source_types, types_note, widened

__all__ = [
    "AddWindowMasks",
    "ColumnOfVector",
    "ExplicitSamePads",
    "FoldAffine",
    "FoldConstants",
    "FoldFocus",
    "FoldGemmFactors",
    "FoldIntoTable",
    "FoldNorms",
    "FoldPad",
    "FoldSelections",
    "InferShapes",
    "LookUpOneHot",
    "MergeArithmetic",
    "MergeIdentical",
    "MergeReshapes",
    "MoveNanGuard",
    "MoveTransposes",
    "MultiplyEinsum",
    "NameNodes",
    "PoolGlobally",
    "PositiveAxes",
    "ReadInvariants",
    "RecognizeGelu",
    "RecognizeHardSwish",
    "RecognizeLayerNorm",
    "RecognizeSigmoid",
    "RecognizeSoftmax",
    "RemoveDead",
    "RemoveIdentity",
    "RoundUpWindows",
    "TimeFirst",
    "WidenFloats",
    "optimize",
    "source_types",
    "is_widened",
    "types_note",
    "widened",
]

_MAX_ROUNDS = 10


def optimize(graph: ir.Model) -> ir.Model:
    """Runs all passes repeatedly until none changes the graph; in the bodies of If, Loop and Scan too.

    Names, order, element types and shapes of the graph's inputs and outputs are kept; output values are the same up to
    rounding (folding BatchNorm rounds weights once more).

    Args:
        graph: the graph; changed in place.

    Returns:
        The same graph.

    Raises:
        GraphError: a pass failed on this graph.
    """
    _optimize(graph)
    if changed_bodies(graph, _optimize_body):
        NameNodes()(graph)
        InferShapes()(graph)
    return graph


def _optimize_body(body: Body) -> bool:
    optimize(body.graph)
    return True


def _optimize(graph: ir.Model) -> None:
    rounds = ir.passes.PassManager(
        [
            InferShapes(),
            FoldConstants(),
            FoldNorms(),
            FoldSelections(),
            MultiplyEinsum(),
            MergeIdentical(),
            MergeReshapes(),
            MoveTransposes(),
            RemoveIdentity(),
            ReadInvariants(),
            LookUpOneHot(),
            # Before a mean over pixels, which may be that of a normalization, is a pooling.
            RecognizeLayerNorm(),
            PoolGlobally(),
            # Before numbers in these expressions are folded into the layers beside them.
            RecognizeSigmoid(),
            RecognizeHardSwish(),
            RecognizeGelu(),
            RecognizeSoftmax(),
            MergeArithmetic(),
            FoldIntoTable(),
            FoldPad(),
            FoldFocus(),
            FoldGemmFactors(),
            FoldAffine(),
            RemoveDead(),
        ],
        steps=_MAX_ROUNDS,
        early_stop=True,
    )
    try:
        attention = ir.passes.Sequential(MoveNanGuard(), ScaleQueries(), AddWindowMasks(), RemoveDead())
        ir.passes.Sequential(
            NameNodes(),
            InferShapes(),
            RoundUpWindows(),
            ColumnOfVector(),
            rounds,
            attention,
            NameNodes(),
            InferShapes(),
        )(graph)
    except ir.passes.PassError as e:
        raise GraphError(f"graph '{graph.graph.name}' cannot be optimized: {e.__cause__ or e}") from e
