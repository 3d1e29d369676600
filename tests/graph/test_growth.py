"""Reading, planning and quantizing take time and steps in proportion to the number of nodes."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import onnx_ir as ir
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.graph.stats import stats_from_graph
from edgekit.quantize.calibrate.collect import CalibrationTable, observed_tensors
from edgekit.quantize.plan import QuantPolicy, plan_from_graph
from edgekit.quantize.quantize import quantized_from_graph
from tools.bench.grown_graphs import CHANNELS, grown

SMALL, FACTOR = 40, 4
EXPONENT = 1.1
STEPS = FACTOR**EXPONENT
# Loops inside of C, such as `in` on a list, are no steps; the time finds them, and is too uncertain for a tight bound.
TURNS = 3
"""Other programs, and the collection of other tests' garbage, only add to the time of a turn."""
SECONDS = FACTOR**1.5


def table(graph: ir.Model) -> CalibrationTable:
    """Ranges as a calibration would measure them."""
    names = [str(value.name) for value in observed_tensors(graph)]
    convolutions = [str(node.outputs[0].name) for node in graph.graph if node.op_type == "Conv"]
    ones = (tuple([-1.0] * CHANNELS), tuple([1.0] * CHANNELS))
    return CalibrationTable(
        method="minmax",
        set="",
        set_digest="",
        graph_digest="",
        images=1,
        ranges=dict.fromkeys(names, (-1.0, 1.0)),
        channels=dict.fromkeys(convolutions, ones),
    )


def read_and_optimized(file: Path) -> object:
    return optimize(graph_from_onnx(file))


def counted(file: Path) -> object:
    return stats_from_graph(graph_from_onnx(file))


def observed(file: Path) -> object:
    graph = graph_from_onnx(file)
    return Evaluator(graph, also=[str(value.name) for node in graph.graph for value in node.outputs])


def planned(file: Path) -> object:
    return plan_from_graph(graph_from_onnx(file), backend("cpu").scheme(), QuantPolicy(keep_heads=True))


def quantized(target: str) -> Callable[[Path], object]:
    def run(file: Path) -> object:
        graph = graph_from_onnx(file)
        return quantized_from_graph(graph, table(graph), backend(target).scheme())

    return run


def timed(run: Callable[[], object]) -> float:
    gc.collect()
    started = time.process_time()
    run()
    return time.process_time() - started


def cost(run: Callable[[], object]) -> tuple[int, float]:
    """Calls of Python functions, and seconds of the processor in the fastest of a few turns."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    seconds = min(timed(run) for _ in range(TURNS))
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls, seconds


@pytest.mark.parametrize("kind", [pytest.param("branches", marks=pytest.mark.slow), "shapes", "sums"])
@pytest.mark.parametrize("run", [read_and_optimized, counted, observed, planned], ids=lambda run: run.__name__)
def test_a_stage_takes_time_in_proportion_to_the_nodes(
    run: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    _require_linear(run, kind, tmp_path)


@pytest.mark.parametrize("kind", ["residual", pytest.param("branches", marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", ["cpu", "openvino", "tensorrt"])
def test_quantizing_takes_time_in_proportion_to_the_nodes(target: str, kind: str, tmp_path: Path) -> None:
    _require_linear(quantized(target), kind, tmp_path)


def _require_linear(run: Callable[[Path], object], kind: str, folder: Path) -> None:
    small = grown(kind, SMALL, folder / "small.onnx")
    large = grown(kind, SMALL * FACTOR, folder / "large.onnx")
    run(small)  # imports
    calls, seconds = cost(lambda: run(small))
    more_calls, more_seconds = cost(lambda: run(large))
    assert more_calls <= STEPS * calls
    assert more_seconds <= SECONDS * max(seconds, 0.1)


def test_shapes_that_many_nodes_compute_from_each_other_are_evaluated_once(tmp_path: Path) -> None:
    from edgekit.graph.shape_values import elements_of

    value = ir.Value(name="x", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.FLOAT))
    shape = ir.node("Shape", [value])
    for _ in range(60):  # 2 ** 60 paths
        shape = ir.node("Add", [shape.outputs[0], shape.outputs[0]])
    assert elements_of(shape.outputs[0]) == (4.0 * 2**60,)
