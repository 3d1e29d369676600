"""Measures the error of a graph in half precision against its float32 original."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import AccuracyError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import inserted_cast
from edgekit.graph.passes import NameNodes
from edgekit.quantize.plan import selects
from edgekit.specs import Precision

__all__ = ["TOLERANCE", "cast_errors", "require_small_errors", "rounding_graph"]

TOLERANCE = {Precision.FP16: 5e-2, Precision.BF16: 1e-1}
"""Max relative error of an output: an SNR of 26 and 20 dB."""

PROBABILITIES = frozenset({"HardSigmoid", "Sigmoid", "Softmax"})
PASSED_ON = frozenset({"Cast", "Concat"})
MIN_PROBABILITY = 1e-3
"""If all probabilities of an output are below this, the error is measured relative to this number."""

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

Arrays = Mapping[str, np.ndarray]


def cast_errors(
    graph: ir.Model, feeds: Iterable[Arrays], expected: Iterable[Arrays], *, threads: int = 0
) -> dict[str, float]:
    """Computes the relative error of each output: the norm of the difference divided by that of the reference.

    The norm is taken over the whole output: single elements may be far off, such as at the edge of a letter in a text
    detector's map. For very small probabilities, the error is relative to `MIN_PROBABILITY`.

    Args:
        graph: a half-precision graph from `edgekit.quantize.half.cast.half_from_graph`.
        feeds: inputs of the float graph, by name.
        expected: outputs of the float graph, for each input.
        threads: number of threads; 0: ONNX Runtime's default.

    Returns:
        The largest error of each float output whose shape is not data-dependent; infinite if infinities or NaNs
        differ from the reference.

    Raises:
        GraphError: ONNX Runtime cannot run the graph.
    """
    evaluator = Evaluator(rounding_graph(graph), threads=threads)
    floors = {str(value.name): MIN_PROBABILITY if _is_probability(value) else 0.0 for value in graph.graph.outputs}
    worst: dict[str, float] = {}
    for arrays, reference in zip(feeds, expected, strict=True):
        for name, array in evaluator.run(dict(arrays)).items():
            if array.dtype.kind == "f" and array.shape == reference[name].shape:
                worst[name] = max(worst.get(name, 0.0), _relative_error(array, reference[name], floors[name]))
    return worst


def require_small_errors(
    errors: Mapping[str, float], precision: Precision, *, tolerance: float | None = None, given: str = ""
) -> None:
    """Raises `AccuracyError`, naming the worst output, if an error exceeds ``tolerance`` (None: `TOLERANCE`)."""
    allowed = TOLERANCE[precision] if tolerance is None else tolerance
    worst = max(errors, key=lambda name: errors[name], default="")
    if worst and not errors[worst] <= allowed:
        raise AccuracyError(
            f"output '{worst}' in {str(precision).upper()}{given}: expected a relative error of at most "
            f"{allowed:g} against FP32, got {errors[worst]:.2g}",
            hint=f"keep the layers before it in float ({argument('keep_float', like='PATTERN')}), or build it "
            f"with {argument('precision', 'fp32')}",
        )


def rounding_graph(graph: ir.Model) -> ir.Model:
    """Makes a graph that computes in float32 and rounds to half precision wherever ``graph`` stores half precision.

    ONNX Runtime runs FP16 on the CPU by casting to float32 and back, but removes the casts between two nodes, so that
    nothing is rounded or overflows there; it supports few operators in BF16. GPUs accumulate in float32 and store
    half precision, which is what this graph does.

    Args:
        graph: not modified; weights are shared with it.

    Returns:
        A copy with float32 inputs and outputs.
    """
    copy = graph.clone(deep_copy=False)
    main = copy.graph
    computing = [node for node in main if node.op_type != "Cast"]
    for value in (*main.inputs, *(output for node in computing for output in node.outputs)):
        if value.dtype in HALVES:
            _round(main, value)
    for node in computing:
        _read_wide(main, node)
    for index, value in enumerate(main.outputs):
        if value.dtype in HALVES:
            name, value.name = value.name, f"{value.name}_half"
            main.outputs[index] = _cast(main, value, ir.DataType.FLOAT)
            main.outputs[index].name = name
    NameNodes()(copy)
    return copy


def _read_wide(main: ir.Graph, node: ir.Node) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in HALVES:
            node.replace_input_with(index, _cast(main, value, ir.DataType.FLOAT))


def _round(main: ir.Graph, value: ir.Value) -> None:
    """Makes ``value`` float32, and all its consumers read it rounded."""
    dtype = value.dtype
    assert dtype is not None
    uses = [(use.node, use.idx) for use in value.uses()]
    value.type = ir.TensorType(ir.DataType.FLOAT)  # the copy shares its types with the graph
    rounded = _cast(main, value, dtype)
    for node, index in uses:
        node.replace_input_with(index, rounded)
    for index, output in enumerate(main.outputs):
        if output is value and not value.is_graph_input():
            rounded.name, value.name = value.name, f"{value.name}_exact"
            main.outputs[index] = rounded


def _cast(main: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return inserted_cast(main, value, dtype, f"{value.name}_as_{dtype.name.lower()}")


def _is_probability(value: ir.Value) -> bool:
    """Whether ``value`` holds probabilities, from 0 to 1."""
    node = value.producer()
    while node is not None and (selects(node) or node.op_type in PASSED_ON) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in PROBABILITIES


def _relative_error(array: np.ndarray, reference: np.ndarray, floor: float) -> float:
    a, b = array.astype(np.float64), reference.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, a - np.where(same, 0.0, b))
    if not difference.any():
        return 0.0
    size = max(float(np.linalg.norm(b[np.isfinite(b)])), floor * float(np.sqrt(b.size)))
    if not np.isfinite(difference).all() or not size:
        return float("inf")
    return float(np.linalg.norm(difference)) / size
