from __future__ import annotations

from pathlib import Path

import attention_graphs as small
import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import run_unfused

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.graph.passes import optimize
from edgekit.quantize.calibrate.collect import (
    CalibrationTable,
    collect_statistics,
    observed_tensors,
    ranges_from_statistics,
)
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import Precision
from tests.decibels import signal_to_noise_db

MASKED = f"{small.TURNED}\n qs = Mul(qh, scale)\n d = MatMul(qs, kt)\n scores = Add(d, m)\n {small.SOFTMAX}"
TURN_LAST = "kt = Transpose<perm = [0, 1, 3, 2]>(kh)"
GUARD = "w = Softmax<axis = -1>(scores)\n nan = IsNaN(w)\n weights = Where(nan, zero, w)"


@pytest.mark.parametrize(
    ("body", "fused"),
    [(small.PLAIN, 1), (MASKED, 1), (f"{small.TURNED}\n {small.SCORES}\n {GUARD}", 0)],
    ids=["plain", "masked", "guarded"],
)
def test_the_note_says_how_many_attentions_the_plugin_fuses(body: str, fused: int, tmp_path: Path) -> None:
    inputs = ", float[2, 1, 1, 7] m" if body == MASKED else ""
    model, folder, library = small.graph(body, inputs=inputs), tmp_path / "engine", backend("openvino")
    feeds = small.feeds() | ({"m": np.zeros((2, 1, 1, 7), np.float32)} if inputs else {})
    onnx.save(model, tmp_path / "graph.onnx")
    folder.mkdir()
    result = library.build(tmp_path / "graph.onnx", folder, BuildOptions(precision=Precision.FP32, threads=1))
    assert result.notes == (f"attention: {fused} of 1 run as one kernel each, which OpenVINO fuses itself",)
    engine = library.load(folder / result.engine, threads=1)
    np.testing.assert_allclose(engine.run(feeds)["y"], run_unfused(model, feeds)[0], rtol=1e-5, atol=1e-5)


def test_a_graph_without_attention_has_no_note(tmp_path: Path) -> None:
    folder, library = tmp_path / "engine", backend("openvino")
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    text = "g (float[2, 3] a, float[3, 4] b) => (float[2, 4] y) { y = MatMul(a, b) }"
    onnx.save(onnx.parser.parse_model(header + text), tmp_path / "graph.onnx")
    folder.mkdir()
    options = BuildOptions(precision=Precision.FP32, threads=1)
    assert library.build(tmp_path / "graph.onnx", folder, options).notes == ()


@pytest.mark.skipif(not backend("openvino").scheme().attention_keys, reason="needs x86 with VNNI")
@pytest.mark.parametrize("turned", [small.TURNED, "kh = Transpose<perm = [0, 2, 1, 3]>(k4)\n" + TURN_LAST])
def test_attention_on_integers_is_one_kernel_with_the_results_of_its_graph(turned: str, tmp_path: Path) -> None:
    keys = 96
    model = small.graph(f"{turned}\n {small.SCORES}\n {small.SOFTMAX}", keys=keys)
    graph, feeds = optimize(ir.from_proto(model)), [small.feeds(seed, keys=keys) for seed in range(3)]
    statistics = collect_statistics(
        graph, observed_tensors(graph), [(str(i), feed) for i, feed in enumerate(feeds)], method="minmax"
    ).statistics
    table = CalibrationTable(
        method="minmax", set="", set_digest="", graph_digest="", images=3,
        ranges=ranges_from_statistics(statistics, "minmax"),
    )  # fmt: skip
    library = backend("openvino")
    scheme = msgspec.structs.replace(library.scheme(), attention_queries=1)
    quantized = quantized_from_graph(graph, table, scheme, feeds=feeds).graph
    save_graph(quantized, tmp_path / "graph.onnx")
    folder = tmp_path / "engine"
    folder.mkdir()
    result = library.build(tmp_path / "graph.onnx", folder, BuildOptions(precision=Precision.INT8, threads=1))
    assert result.notes == ("attention: 1 of 1 run as one kernel each, which OpenVINO fuses itself, 1 on integers",)
    engine = library.load(folder / result.engine, threads=1)
    typed = onnx.load(tmp_path / "graph.onnx")
    for feed in feeds:
        expected, got = run_unfused(typed, feed)[0], engine.run(feed)["y"]
        # Products of integers are exact; the Softmax of one may be rounded to the next step of the other.
        assert signal_to_noise_db([expected], [got]) > 40
        assert signal_to_noise_db(run_unfused(model, feed), [got]) > 25
