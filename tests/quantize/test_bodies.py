"""Products in the bodies of If, Loop and Scan are quantized on cpu, by what the bodies see when they run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgekit
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.quantize.bodies import NEVER_RAN, inputs_that_choose, products_in_bodies
from edgekit.quantize.dynamic import dynamic_graph
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph

CPU = backend("cpu").scheme()

BRANCHES = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 16] x, int64 rate, float[1] unused) => (float[1, 8] y, float[1] z) {
    h = MatMul (x, w)  fast = Constant <value = int64 {16000}> ()  is = Equal (rate, fast)
    y = If <then_branch = a () => (float[1, 8] p) { p = MatMul (h, v) },
            else_branch = b () => (float[1, 8] q) {
                r = Relu (h)
                q = If <then_branch = c () => (float[1, 8] s) { s = MatMul (r, v) },
                        else_branch = d () => (float[1, 8] t) { t = MatMul (r, u) }> (is) }> (is)
    z = Identity (unused) }"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    proto = onnx.parser.parse_model(BRANCHES)
    draw = np.random.default_rng(0)
    for name, sizes in (("w", (16, 32)), ("v", (32, 8)), ("u", (32, 8))):
        weights = draw.normal(0, 0.2, sizes).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(proto, tmp_path / "network.onnx")
    return tmp_path / "network.onnx"


def test_products_in_branches_and_the_input_that_chooses_are_found(network: Path) -> None:
    graph = graph_from_onnx(network)
    assert sorted(node.outputs[0].name or "" for node in products_in_bodies(graph)) == ["p", "s", "t"]
    assert inputs_that_choose(graph) == ["rate"]


def test_products_in_branches_are_quantized_on_cpu(network: Path, run_in_onnxruntime, sqnr_db) -> None:
    place = edgekit.build(network, target="cpu", output="out", profile=False, progress=False)
    assert read_manifest(place).layers == {"int8": 4}
    assert not [note for note in read_manifest(place).notes if "inside of If" in note]
    draw = np.random.default_rng(1)
    for rate in (16000, 8000):
        common = {"rate": np.array(rate, np.int64), "unused": np.ones(1, np.float32)}
        feeds = [{"x": draw.normal(size=(1, 16)).astype(np.float32), **common} for _ in range(8)]
        with edgekit.load(place) as session:
            got = [session.run(feed) for feed in feeds]
        assert sqnr_db(run_in_onnxruntime(network, feeds), got)["y"] > 30


def test_a_target_without_integers_in_bodies_says_what_stays_in_float(network: Path) -> None:
    options = {"target": "null", "profile": False, "progress": False}
    place = edgekit.build(network, output="out", **options)
    notes = [note for note in read_manifest(place).notes if "inside of If" in note]
    assert len(notes) == 1 and "p, s, t" in notes[0] and notes[0].endswith("input={'rate': VALUE}")
    fixed = edgekit.build(network, output="fixed", input={"rate": 16000}, **options)
    assert not [note for note in read_manifest(fixed).notes if "inside of If" in note]
    assert read_manifest(fixed).layers["int8"] == 2


LOOP = """<ir_version: 10, opset_import: ["" : 18]>
g (float[4, 24] x, int64 n) => (float[4, 24] y) {
    go = Constant <value = bool {1}> ()
    y = Loop <body = b (int64 i, bool c, float[4, 24] h) => (bool d, float[4, 24] o) {
        p = MatMul (h, w)  q = Tanh (p)  r = MatMul (q, v)  o = Add (r, x)  d = Identity (c) }> (n, go, x) }"""


def test_a_body_is_calibrated_on_all_its_runs_and_computes_with_rounded_numbers(calibrated) -> None:
    proto = onnx.parser.parse_model(LOOP)
    draw = np.random.default_rng(0)
    w, v = (draw.normal(0, 0.3, (24, 24)).astype(np.float32) for _ in range(2))
    for name, array in (("w", w), ("v", v)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = optimize(ir.from_proto(proto))
    feeds = [{"x": draw.normal(size=(4, 24)).astype(np.float32), "n": np.array(3, np.int64)} for _ in range(4)]
    # The states and the values between both products, as numpy computes them.
    seen: dict[str, list[np.ndarray]] = {"h": [], "q": []}
    for feed in feeds:
        state = feed["x"]
        for _ in range(3):
            seen["h"].append(state)
            seen["q"].append(np.tanh(state @ w))
            state = seen["q"][-1] @ v + feed["x"]
    table = calibrated(graph, feeds)
    for name, arrays in seen.items():
        np.testing.assert_allclose(table.ranges[name], (np.min(arrays), np.max(arrays)), atol=1e-5)
    found = quantized_from_graph(graph, table, msgspec.structs.replace(CPU, weight_bits=8))
    body = next(found.graph.graph.subgraphs())
    assert [node.op_type for node in body].count("QuantizeLinear") == 2 and not found.plan.skipped

    def rounded(array: np.ndarray, name: str) -> np.ndarray:
        lo, hi = table.ranges[name]
        scale = (hi - lo) / 255
        zero = np.rint(-lo / scale)
        return (np.clip(np.rint(array / scale) + zero, 0, 255) - zero) * scale

    exact = [np.rint(each / (s := np.abs(each).max(0) / 127)) * s for each in (w, v)]
    state = feeds[0]["x"]
    for _ in range(3):
        state = rounded(np.tanh(rounded(state, "h") @ exact[0]), "q") @ exact[1] + feeds[0]["x"]
    np.testing.assert_allclose(Evaluator(found.graph).run(feeds[0])["y"], state, atol=0.05)


LONG = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 8] x, int64 n) => (float[1, 8] y, float[?, 8] last) {
    go = Constant <value = bool {1}> ()  nothing = Constant <value = float[1] {0.0}> ()
    y, last = Loop <body = b (int64 i, bool c, float[1, 8] h, float[M, 8] before) =>
        (bool d, float[1, 8] o, float[M, 8] after) {
            f = Cast <to = 1> (i)  g = Add (h, f)  after = MatMul (g, w)  o = Identity (h)  d = Identity (c)
        }> (n, go, x, nothing) }"""


def test_a_state_may_start_with_another_shape_and_of_many_steps_some_are_observed(calibrated) -> None:
    """Paddle's exporter starts states that are not defined before the first step with one zero."""
    proto = onnx.parser.parse_model(LONG)
    draw = np.random.default_rng(0)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(draw.normal(0, 0.3, (8, 8)).astype(np.float32), "w"))
    graph = optimize(ir.from_proto(proto))
    feeds = [{"x": np.ones((1, 8), np.float32), "n": np.array(100, np.int64)}]
    table = calibrated(graph, feeds)
    assert table.ranges["g"] == (0, 1 + 96)  # steps 0 to 31, and then 32, 48, 64, 80, 96
    found = quantized_from_graph(graph, table, msgspec.structs.replace(CPU, weight_bits=8))
    assert [node.op_type for node in next(found.graph.graph.subgraphs())].count("QuantizeLinear") == 1
    expected, got = (Evaluator(each).run(feeds[0])["last"] for each in (graph, found.graph))
    np.testing.assert_allclose(got, expected, rtol=0.05, atol=1)


GUARDED = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 16] x, bool c) => (float[1, 8] y) {
    h = MatMul (x, w)
    y = If <then_branch = a () => (float[1, 8] p) { e = Exp (h)  p = MatMul (e, v) },
            else_branch = b () => (float[1, 8] q) { q = MatMul (h, v) }> (c) }"""


def test_a_branch_that_never_ran_stays_in_float(calibrated) -> None:
    proto = onnx.parser.parse_model(GUARDED)
    draw = np.random.default_rng(0)
    for name, sizes in (("w", (16, 32)), ("v", (32, 8))):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(draw.normal(0, 0.2, sizes).astype(np.float32), name)
        )
    graph = optimize(ir.from_proto(proto))
    feeds = [{"x": draw.normal(size=(1, 16)).astype(np.float32), "c": np.array(False)} for _ in range(4)]
    found = quantized_from_graph(graph, calibrated(graph, feeds), CPU)
    assert list(found.plan.skipped.values()) == [NEVER_RAN]
    expected, got = (Evaluator(each).run({**feeds[0], "c": np.array(True)})["y"] for each in (graph, found.graph))
    np.testing.assert_allclose(got, expected, rtol=0.1, atol=0.1)


LSTM = """<ir_version: 10, opset_import: ["" : 18]>
g (float[9, 1, 24] x, bool c) => (float[1, 1, 16] y) {
    y = If <then_branch = a () => (float[1, 1, 16] p) { s, p = LSTM <hidden_size = 16> (x, w, r) },
            else_branch = b () => (float[1, 1, 16] q) { t = MatMul (x, m)  q = ReduceMean (t, axes) }> (c)
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_dynamic_quantization_reaches_an_lstm_in_a_branch(condition: bool, sqnr_db) -> None:
    proto = onnx.parser.parse_model(LSTM)
    draw = np.random.default_rng(0)
    arrays = {name: draw.normal(0, 0.3, sizes).astype(np.float32) for name, sizes in SIZES.items()}
    for name, array in {**arrays, "axes": np.array([0], np.int64)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = optimize(ir.from_proto(proto))
    found = dynamic_graph(graph, CPU, QuantPolicy())
    assert len(found.layers) == 2 and not found.skipped
    operators = {node.op_type for node in found.graph.graph.all_nodes()}
    assert operators >= {"DynamicQuantizeLSTM", "MatMulInteger"} and not operators & {"LSTM", "MatMul"}
    feed = {"x": draw.normal(size=(9, 1, 24)).astype(np.float32), "c": np.array(condition)}
    expected, got = ([Evaluator(each).run(feed)] for each in (graph, found.graph))
    assert sqnr_db(expected, got)["y"] > 25


SIZES = {"w": (1, 64, 24), "r": (1, 64, 16), "m": (24, 16)}


FUNCTION = """<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
g (float[4, 24] x) => (float[4, 24] y) { a = own.layer (x, w)  y = own.layer (a, v) }
<opset_import: ["" : 18], domain: "own">
layer (x, w) => (y) { p = MatMul (x, w)  y = Tanh (p) }"""


def test_products_in_functions_of_the_file_are_quantized(tmp_path: Path) -> None:
    proto, draw = onnx.parser.parse_model(FUNCTION), np.random.default_rng(0)
    for name in ("w", "v"):
        weights = draw.normal(0, 0.3, (24, 24)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(proto, tmp_path / "function.onnx")
    place = edgekit.build(
        tmp_path / "function.onnx", target="cpu", output=tmp_path / "out", profile=False, progress=False
    )
    manifest = read_manifest(place)
    assert manifest.layers == {"int8": 2}
    assert manifest.verification is not None and manifest.verification.sqnr_db["INT8 engine for cpu"] > 30
