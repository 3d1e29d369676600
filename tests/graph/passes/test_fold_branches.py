"""A scalar input that is fixed decides which branches are taken; what it decides is computed once."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.file import fix_inputs
from edgekit.graph.passes import optimize

RATES = """g (float[1, 8] x, int64 sr) => (float[a] y) {
    wide = Equal (sr, rate)
    n = If (wide) <
        then_branch = t () => (float[b, c] h) {
            zeros = ConstantOfShape <value = int64[1] {0}> (two)
            pads = Concat <axis = 0> (zeros, amount)
            h = Pad (x, pads)
        },
        else_branch = e () => (float[d, f] l) { l = Slice (x, zero, four, one) }
    >
    sizes = Shape (n)
    length = Gather (sizes, last)
    long = Equal (length, ten)
    y = If (long) <
        then_branch = p () => (float[i] v) { v = ReduceSum <keepdims = 0> (n, one) },
        else_branch = q () => (float[j] u) { u = ReduceMax <keepdims = 0> (n, one) }
    >
}"""
VECTORS = {"two": [2], "amount": [0, 2], "zero": [0], "four": [4], "one": [1]}
NUMBERS = {"rate": 16000, "last": -1, "ten": 10}


@pytest.mark.parametrize(("rate", "expected"), [(16000, ["Pad", "ReduceSum"]), (8000, ["Slice", "ReduceMax"])])
def test_branches_that_a_fixed_input_decides_are_folded(run_in_onnxruntime, graph_of, rate, expected):
    weights = {name: np.array(value) for name, value in {**VECTORS, **NUMBERS}.items()}
    graph = graph_of(RATES, **weights)
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    right = x.sum(axis=1) if rate == 16000 else x[:, :4].max(axis=1)
    wanted = run_in_onnxruntime(graph, {"x": x, "sr": np.array(rate)})[0]
    np.testing.assert_allclose(wanted, right, rtol=1e-5)

    fix_inputs(graph, {"sr": rate})
    optimize(graph)
    assert [node.op_type for node in graph.graph.all_nodes()] == expected
    assert [value.name for value in graph.graph.inputs] == ["x"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, {"x": x})[0], wanted, rtol=1e-6)


def test_branches_that_an_input_decides_stay(run_in_onnxruntime, graph_of):
    graph = graph_of(RATES, **{name: np.array(value) for name, value in {**VECTORS, **NUMBERS}.items()})
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    feeds = [{"x": x, "sr": np.array(rate)} for rate in (16000, 8000)]
    wanted = [run_in_onnxruntime(graph, feed)[0] for feed in feeds]
    optimize(graph)
    for feed, array in zip(feeds, wanted, strict=True):
        np.testing.assert_allclose(run_in_onnxruntime(graph, feed)[0], array, rtol=1e-6)
