"""Loops whose states include tensors that never change, as Paddle's exporter writes all that a loop reads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.graph.passes import optimize

W = np.random.default_rng(0).normal(0, 0.3, (8, 8)).astype(np.float32)
LOOP = """<ir_version: 10, opset_import: ["" : 18]>
g (float[2, 8] x, int64 n) => (float[2, 8] y, float[8, 8] kept) {
    go = Constant <value = bool {1}> ()
    y, kept = Loop <body = b (int64 i, bool c, float[2, 8] h, float[8, 8] own) =>
        (bool d, float[2, 8] o, float[8, 8] same) {
            p = MatMul (h, own)  o = Tanh (p)  d = Identity (c)  same = Identity (own) }> (n, go, x, w) }"""
SCAN = """<ir_version: 10, opset_import: ["" : 18]>
g (float[2, 8] x, float[3, 2, 8] rows) => (float[2, 8] y, float[8, 8] kept) {
    y, kept = Scan <num_scan_inputs = 1, body = b (float[2, 8] h, float[8, 8] own, float[2, 8] row) =>
        (float[2, 8] o, float[8, 8] same) {
            p = MatMul (h, own)  q = Tanh (p)  o = Add (q, row)  same = Identity (own) }> (x, w, rows) }"""


def graph_of_text(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    return ir.from_proto(proto)


def product(graph: ir.Model) -> ir.Node:
    return next(node for body in graph.graph.subgraphs() for node in body if node.op_type == "MatMul")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_weight_that_a_loop_passes_on_is_a_constant_of_its_body(run_in_onnxruntime, count):
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32), "n": np.array(count, np.int64)}
    before = run_in_onnxruntime(graph_of_text(LOOP), feeds)
    graph = optimize(graph_of_text(LOOP))
    assert product(graph).inputs[1] is graph.graph.initializers["w"]
    y, kept = run_in_onnxruntime(graph, feeds)
    state = feeds["x"]
    for _ in range(count):
        state = np.tanh(state @ W)
    np.testing.assert_allclose(y, state, atol=1e-6)
    np.testing.assert_array_equal(kept, W)
    np.testing.assert_allclose(before[0], y, atol=1e-6)


def test_a_weight_that_a_scan_passes_on_is_a_constant_of_its_body(run_in_onnxruntime):
    draw = np.random.default_rng(1)
    feeds = {name: draw.normal(size=size).astype(np.float32) for name, size in (("x", (2, 8)), ("rows", (3, 2, 8)))}
    graph = optimize(graph_of_text(SCAN))
    assert product(graph).inputs[1] is graph.graph.initializers["w"]
    y, kept = run_in_onnxruntime(graph, feeds)
    state = feeds["x"]
    for row in feeds["rows"]:
        state = np.tanh(state @ W) + row
    np.testing.assert_allclose(y, state, atol=1e-6)
    np.testing.assert_array_equal(kept, W)


def test_a_state_that_changes_stays_a_state(run_in_onnxruntime):
    changing = LOOP.replace("same = Identity (own)", "same = Neg (own)")
    feeds = {"x": np.ones((2, 8), np.float32), "n": np.array(3, np.int64)}
    graph = optimize(graph_of_text(changing))
    assert product(graph).inputs[1].name == "own"
    y, kept = run_in_onnxruntime(graph, feeds)
    np.testing.assert_array_equal(kept, -W)
    np.testing.assert_allclose(y, np.tanh(np.tanh(np.tanh(feeds["x"] @ W) @ -W) @ W), atol=1e-6)


TWO_STATES = LOOP.replace("float[8, 8] kept)", "float[?, 2, 8] rows)", 1).replace(
    "y, kept = Loop", "y, kept, rows = Loop"
)
COLLECTED = TWO_STATES.replace("float[8, 8] same)", "float[8, 8] same, float[2, 8] row)").replace(
    "d = Identity", "row = Neg (o)  d = Identity"
)


def test_a_state_that_nothing_reads_is_no_state_any_more(run_in_onnxruntime):
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32), "n": np.array(3, np.int64)}
    graph = optimize(graph_of_text(COLLECTED))
    loop = next(node for node in graph.graph if node.op_type == "Loop")
    assert [value.name for value in loop.inputs] == ["n", "go", "x"]
    assert [output.name for output in loop.outputs] == ["y", "rows"]
    y, rows = run_in_onnxruntime(graph, feeds)
    states = [feeds["x"]]
    for _ in range(3):
        states.append(np.tanh(states[-1] @ W))
    np.testing.assert_allclose(y, states[-1], atol=1e-6)
    np.testing.assert_allclose(rows, -np.stack(states[1:]), atol=1e-6)


def test_a_state_that_each_step_also_collects_stays(run_in_onnxruntime):
    collected = COLLECTED.replace("row = Neg (o)", "").replace("float[2, 8] row)", "float[8, 8] own)")
    graph = optimize(graph_of_text(collected.replace("float[?, 2, 8] rows)", "float[?, 8, 8] rows)")))
    _, rows = run_in_onnxruntime(graph, {"x": np.ones((2, 8), np.float32), "n": np.array(3, np.int64)})
    np.testing.assert_array_equal(rows, np.stack([W] * 3))
