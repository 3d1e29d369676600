"""Engines of many operators, against ONNX Runtime without optimizations on the original file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from operator_graphs import Graph, feeds_of, float_graphs, merged, original_outputs, quantized_graphs

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    channels_from_statistics,
    collect_statistics,
    graph_digest,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision

TARGETS = pytest.mark.parametrize("target", ["cpu", "openvino"])
AT_ONCE = 40
MIN_SNR_DB = 12.0
"""Of an INT8 engine against the original, on the inputs of the calibration; a minimum over many values is small."""
MIN_ENGINE_SNR_DB = 30.0
"""Of an INT8 engine against its own Q/DQ graph: kernels round a few values to the next integer."""

Arrays = dict[str, np.ndarray]


def engine_outputs(target: str, graph: Path, precision: Precision, feeds: Arrays) -> Arrays:
    library, folder = backend(target), graph.parent / "engine"
    folder.mkdir(exist_ok=True)
    result = library.build(graph, folder, BuildOptions(precision=precision, threads=1))
    return library.load(folder / result.engine, threads=1).run(feeds)


def snr_db(exact: np.ndarray, got: np.ndarray) -> float:
    signal, noise = np.square(exact.astype(np.float64)).sum(), np.square(exact.astype(np.float64) - got).sum()
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def check_float(target: str, graphs: Sequence[Graph], folder: Path) -> list[str]:
    model, feeds = merged(graphs), feeds_of(graphs)
    onnx.save(model, folder / "model.onnx")
    save_graph(optimize(graph_from_onnx(folder / "model.onnx")), folder / "graph.onnx")
    got = engine_outputs(target, folder / "graph.onnx", Precision.FP32, feeds)
    return [
        f"{graphs[int(name[1 : name.index('.')])].name}: {got[name].shape}, expected {array.shape}"
        for name, array in original_outputs(model, feeds).items()
        if got[name].shape != array.shape
        or got[name].dtype != array.dtype
        or not np.allclose(got[name], array, rtol=1e-3, atol=1e-4, equal_nan=True)
    ]


def check_quantized(target: str, graphs: Sequence[Graph], folder: Path) -> list[str]:
    model, feeds = merged(graphs), feeds_of(graphs)
    onnx.save(model, folder / "model.onnx")
    graph = optimize(graph_from_onnx(folder / "model.onnx"))
    seen = collect_statistics(graph, observed_tensors(graph), [("it", feeds)], method="minmax", threads=1).statistics
    table = CalibrationTable(
        method="minmax",
        set="random",
        set_digest="random",
        graph_digest=graph_digest(graph),
        images=1,
        ranges=ranges_from_statistics(seen, "minmax"),
        channels=channels_from_statistics(graph, seen),
    )
    typed = quantized_from_graph(graph, table, backend(target).scheme()).graph
    save_graph(typed, folder / "graph.onnx")
    got = engine_outputs(target, folder / "graph.onnx", Precision.INT8, feeds)
    exact, rounded = original_outputs(model, feeds), Evaluator(typed).run(feeds)
    differing = []
    for name, array in exact.items():
        same = got[name].shape == array.shape
        found = (snr_db(array, got[name]), snr_db(rounded[name], got[name])) if same else (-np.inf, -np.inf)
        if found[0] < MIN_SNR_DB or found[1] < MIN_ENGINE_SNR_DB:
            which = graphs[int(name[1 : name.index(".")])].name
            differing.append(f"{which}: {found[0]:.1f} dB, and {found[1]:.1f} dB against its own graph")
    return differing


def batches(graphs: Sequence[Graph]) -> list[Sequence[Graph]]:
    return [graphs[first : first + AT_ONCE] for first in range(0, len(graphs), AT_ONCE)]


@TARGETS
@pytest.mark.parametrize("group", float_graphs())
def test_fp32_engines_compute_what_the_original_does(target: str, group: str, tmp_path: Path) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    assert [each for some in batches(float_graphs()[group]) for each in check_float(target, some, tmp_path)] == []


@TARGETS
@pytest.mark.parametrize("group", quantized_graphs())
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow, id="all"), pytest.param(3, id="a third")])
def test_int8_engines_are_as_near_to_the_original_as_their_graphs(
    target: str, group: str, step: int, tmp_path: Path
) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[target])
    graphs = quantized_graphs()[group][::step]
    assert [each for some in batches(graphs) for each in check_quantized(target, some, tmp_path)] == []
