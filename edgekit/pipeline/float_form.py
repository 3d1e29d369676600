"""Reads a quantized file as a float model, for a target that does not compute with its integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import onnx_ir as ir

from edgekit.engine.backend import backend
from edgekit.graph.file import is_quantized
from edgekit.graph.load.upgrade_opset import upgrade_opset
from edgekit.graph.passes import FoldConstants, InferShapes, NameNodes
from edgekit.graph.passes.decompose_contrib import DecomposeContrib
from edgekit.graph.passes.dequantize_weights import DequantizeWeights
from edgekit.graph.passes.inline_functions import inlined
from edgekit.graph.passes.remove_dynamic_quantization import RemoveDynamicQuantization, removed_quantization_note
from edgekit.graph.passes.remove_static_quantization import RemoveStaticQuantization
from edgekit.lower.qlinear_as_qdq import QLinearAsQdq
from edgekit.lower.require_signed_integers import other_integers
from edgekit.lower.round_in_floats import other_product
from edgekit.lower.tensorrt_operators import use_tensorrt_operators
from edgekit.specs import Precision

__all__ = ["FloatForm", "use_float_form"]

_FLOAT8 = frozenset(
    {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ}
)


class FloatForm(NamedTuple):
    """How a quantized file became a float model.

    Attributes:
        note: what the user is told.
        of_file: makes the same float model of the graph of the file, as it was before it was upgraded, for comparisons.
    """

    note: str
    of_file: Callable[[ir.Model], ir.Model]


def use_float_form(graph: ir.Model, name: str, target: str, precision: Precision | None = None) -> FloatForm | None:
    """Makes a quantized graph a float one, in place, if the target does not have its integers.

    Args:
        graph: a loaded graph.
        name: name of its file, for messages.
        target: name of the backend.
        precision: of the engine; files of FP8, of 16 bits and of 4 bits stay as they are on the CPU unless it is INT8,
            or the backend rounds FP8 otherwise.

    Returns:
        How; None if the graph was not changed: it is a float graph, the target takes its integers, or it has a form
        that cannot be replaced.
    """
    library = backend(target)
    keeps_fp8 = library.on_gpu or (library.rounds_to_fp8 and precision is not Precision.INT8)
    if not keeps_fp8 and _remove_static(graph, _FLOAT8):
        note = (
            f"the file is quantized to FP8, which {target} has no kernels for: it is read as floats there, with the "
            "numbers that its weights stand for, and compared with these"
        )
        return FloatForm(note, partial(_without_static, name=name, types=_FLOAT8))
    if not library.scheme().dynamic and RemoveDynamicQuantization()(graph).modified:
        DequantizeWeights()(graph)
        DecomposeContrib()(graph)
        InferShapes()(graph)
        return FloatForm(removed_quantization_note(graph, target), _without_dynamic)
    where = _integers_without_kernels(graph, on_gpu=library.on_gpu, precision=precision)
    if where is None or not _remove_static(graph):
        return None
    note = (
        f"the file is quantized to integers that {target} does not have ({where}): it is read as floats, with the "
        "numbers that its weights stand for, and compared with these; INT8 is calibrated again"
    )
    return FloatForm(note, partial(_without_static, name=name))


def _integers_without_kernels(graph: ir.Model, *, on_gpu: bool, precision: Precision | None) -> str | None:
    """Says which integers of a file a target does not have, and where; None if it has all, or they may stay."""
    if not is_quantized(graph) or not (on_gpu or precision is Precision.INT8):
        return None
    if not on_gpu:
        return other_product(graph)
    lowered = graph.clone(deep_copy=False)
    use_tensorrt_operators(lowered)
    other = other_integers(lowered)
    return None if other is None else f"{other.found} at node '{other.node.name or other.node.outputs[0].name}'"


def _without_dynamic(graph: ir.Model) -> ir.Model:
    RemoveDynamicQuantization()(graph)
    return graph


def _without_static(graph: ir.Model, name: str, types: frozenset[ir.DataType] | None = None) -> ir.Model:
    graph = upgrade_opset(inlined(graph), name)
    InferShapes()(graph)
    _remove_static(graph, types)
    return graph


def _remove_static(graph: ir.Model, types: frozenset[ir.DataType] | None = None) -> bool:
    """Removes static quantization to some types, or to all, or changes nothing; returns whether it did."""
    if types is not None and types.isdisjoint(
        value.dtype for node in graph.graph.all_nodes() for value in node.outputs
    ):
        return False
    found = graph.clone(deep_copy=False)
    NameNodes()(found)
    FoldConstants()(found)
    if types is None:
        QLinearAsQdq()(found)
        InferShapes()(found)
    if not RemoveStaticQuantization(types)(found).modified:
        return False
    InferShapes()(found)
    graph.graph = found.graph
    return True
