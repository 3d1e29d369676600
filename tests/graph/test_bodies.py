"""Bodies of If, Loop and Scan, run as graphs of their own, see what ONNX Runtime gives them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.graph.bodies import bodies_with_layers, changed_bodies, put_back, run_as_node
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.passes import optimize

LOOP = """g (float[2, 8] x, int64 n) => (float[2, 8] y, float[k, 2, 8] all) {
    go = Constant <value = bool {1}> ()
    s = MatMul (x, w)
    y, all = Loop <body = b (int64 i, bool c, float[2, 8] h) => (bool d, float[2, 8] o, float[2, 8] each) {
        p = MatMul (h, w)  q = Add (p, s)  o = Tanh (q)  each = Identity (o)
        four = Constant <value = int64 {4}> ()  d = Less (i, four) }> (n, go, x) }"""
SCAN = """g (float[5, 2, 8] x, float[2, 8] h) => (float[2, 8] y, float[5, 2, 8] all) {
    y, all = Scan <num_scan_inputs = 1, scan_input_directions = [1],
        body = b (float[2, 8] s, float[2, 8] e) => (float[2, 8] o, float[2, 8] each) {
            p = MatMul (s, w)  q = Add (p, e)  o = Tanh (q)  each = Identity (o) }> (h, x) }"""
BRANCHES = """g (float[2, 8] x, bool c) => (float[2, 8] y) {
    s = MatMul (x, w)
    y = If <then_branch = a () => (float[2, 8] p) { p = MatMul (s, w) },
            else_branch = b () => (float[2, 8] q) { r = Relu (s)  q = MatMul (r, x2) }> (c) }"""


def model(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    draw = np.random.default_rng(0)
    for name in ("w", "x2"):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(draw.normal(0, 0.3, (8, 8)).astype(np.float32), name)
        )
    return optimize(ir.from_proto(proto))


def feed(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def steps(graph: ir.Model, arrays: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The first output that is not a condition, of each run of each body, by its attribute."""
    bodies = bodies_with_layers(graph)
    also = {name for body in bodies for name in body.decides} - set(arrays)
    values = {**arrays, **Evaluator(graph, also=sorted(also)).run(arrays)}
    found: dict[str, list[np.ndarray]] = {}
    for body in bodies:
        evaluator, own = Evaluator(body.graph), found.setdefault(body.attribute, [])
        first = 1 if body.node.op_type == "Loop" else 0

        def run(inputs, evaluator=evaluator, own=own, first=first):
            outputs = evaluator.run(inputs)
            own.append(outputs[evaluator.outputs[first]])
            return outputs

        run_as_node(body, values, run)
    return found


@pytest.mark.parametrize("count", [0, 3, 9])
def test_a_loop_runs_as_often_and_on_the_same_states(count: int) -> None:
    graph, arrays = model(LOOP), {"x": feed(2, 8), "n": np.array(count, np.int64)}
    expected = Evaluator(graph).run(arrays)["all"]
    assert len(expected) == min(count, 5)
    found = steps(graph, arrays)["body"]
    assert len(found) == len(expected)
    np.testing.assert_allclose(np.array(found).reshape(expected.shape), expected, atol=1e-6)


def test_a_scan_reads_its_rows_in_their_direction() -> None:
    graph, arrays = model(SCAN), {"x": feed(5, 2, 8), "h": feed(2, 8, seed=1)}
    found = np.array(steps(graph, arrays)["body"])
    np.testing.assert_allclose(found, Evaluator(graph).run(arrays)["all"], atol=1e-6)


@pytest.mark.parametrize("condition", [True, False])
def test_only_the_branch_that_is_chosen_runs(condition: bool) -> None:
    graph, arrays = model(BRANCHES), {"x": feed(2, 8), "c": np.array(condition)}
    found = steps(graph, arrays)
    own, other = ("then_branch", "else_branch") if condition else ("else_branch", "then_branch")
    assert not found[other]
    np.testing.assert_allclose(found[own][0], Evaluator(graph).run(arrays)["y"], atol=1e-6)


@pytest.mark.parametrize("text", [LOOP, SCAN, BRANCHES])
def test_a_body_that_is_taken_out_and_put_back_computes_the_same(text: str) -> None:
    graph = model(text)
    arrays = {"x": feed(*((5, 2, 8) if text == SCAN else (2, 8))), "h": feed(2, 8, seed=1), "n": np.array(3, np.int64)}
    arrays |= {"c": np.array(False)}
    arrays = {value.name: arrays[value.name] for value in graph.graph.inputs}
    expected, before = Evaluator(graph).run(arrays), ir.to_proto(graph).SerializeToString()
    for body in bodies_with_layers(graph):
        assert "w" in body.graph.graph.initializers or "x2" in body.graph.graph.initializers
        put_back(graph, body)
    assert changed_bodies(graph, lambda body: True)
    for name, array in Evaluator(graph).run(arrays).items():
        np.testing.assert_array_equal(array, expected[name])
    # Constants from outside are still those from outside.
    assert len(ir.to_proto(graph).SerializeToString()) < 1.1 * len(before)


def test_bodies_are_simplified_like_the_graph() -> None:
    text = """g (float[1, 3, 8, 8] x, bool c) => (float[1, 4, 8, 8] y) {
        y = If <then_branch = a () => (float[1, 4, 8, 8] p) {
                    k = Conv (x, f)  p = BatchNormalization (k, s, s, s, s) },
                else_branch = b () => (float[1, 4, 8, 8] q) { q = Conv (x, f) }> (c) }"""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    for name, array in (("f", feed(4, 3, 1, 1)), ("s", np.array([1, 2, 3, 4], np.float32))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    plain, graph = ir.from_proto(proto), optimize(ir.from_proto(proto))
    assert [node.op_type for body in graph.graph.subgraphs() for node in body] == ["Conv", "Conv"]
    for condition in (True, False):
        arrays = {"x": feed(1, 3, 8, 8), "c": np.array(condition)}
        np.testing.assert_allclose(Evaluator(graph).run(arrays)["y"], Evaluator(plain).run(arrays)["y"], rtol=1e-5)
