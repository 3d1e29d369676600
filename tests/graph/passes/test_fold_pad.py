from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.graph.passes import FoldPad, optimize

pads_2d = st.tuples(*[st.integers(0, 2)] * 4)


def operators(graph):
    return [node.op_type for node in graph.graph]


def padded(graph_of, reader, pads, fill, **weights):
    full = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
    text = f"agraph (float[1, 2, 9, 8] x) => (float[n, c, h, w0] y) {{ p = Pad (x, pads, fill) {reader} }}"
    return graph_of(text, pads=full, fill=np.array(fill, np.float32), **weights)


def assert_same_after(run, graph):
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 9, 8)).astype(np.float32)}
    before = run(graph, feeds)[0]
    optimize(graph)
    np.testing.assert_allclose(run(graph, feeds)[0], before, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    pads=pads_2d,
    kernel=st.integers(2, 4),
    stride=st.integers(1, 3),
    ceil=st.booleans(),
    own=st.booleans(),
    fill=st.sampled_from([-np.inf, float(np.finfo(np.float32).min), 0.0]),
)
def test_pad_before_max_pool_computes_the_same(run_in_onnxruntime, graph_of, pads, kernel, stride, ceil, own, fill):
    own_pads = [1, 0, 0, 1] if own else [0] * 4
    reader = (
        f"y = MaxPool <kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], "
        f"ceil_mode = {int(ceil)}, pads = {own_pads}> (p)"
    )
    graph = padded(graph_of, reader, pads, fill)
    assert_same_after(run_in_onnxruntime, graph)
    fits = all(pad + own_pad < kernel for pad, own_pad in zip(pads, own_pads, strict=True))
    if fits and not ceil and fill != 0:
        assert operators(graph) == ["MaxPool"]
    elif any(pads) and not (fits and fill != 0):  # in ceil mode a Pad stays only where the last window needs it
        assert operators(graph) == ["Pad", "MaxPool"]


@settings(max_examples=25, deadline=None)
@given(
    pads=pads_2d,
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    own=st.booleans(),
    fill=st.sampled_from([0.0, 1.0]),
)
@example(pads=(0, 0, 0, 0), kernel=1, stride=1, own=False, fill=1.0)
def test_pad_before_convolution_computes_the_same(run_in_onnxruntime, graph_of, pads, kernel, stride, own, fill):
    reader = f"y = Conv <strides = [{stride}, {stride}], pads = {[int(own)] * 4}> (p, w)"
    weight = np.random.default_rng(1).standard_normal((3, 2, kernel, kernel)).astype(np.float32)
    graph = padded(graph_of, reader, pads, fill, w=weight)
    assert_same_after(run_in_onnxruntime, graph)
    assert operators(graph) == (["Conv"] if fill == 0 or not any(pads) else ["Pad", "Conv"])


@settings(max_examples=25, deadline=None)
@given(pads=pads_2d, kernel=st.integers(2, 4), counted=st.booleans(), own=st.booleans(), ceil=st.booleans())
def test_pad_before_average_pool_computes_the_same(run_in_onnxruntime, graph_of, pads, kernel, counted, own, ceil):
    own_pads = [1, 1, 0, 0] if own else [0] * 4
    reader = (
        f"y = AveragePool <kernel_shape = [{kernel}, {kernel}], count_include_pad = {int(counted)}, "
        f"ceil_mode = {int(ceil)}, pads = {own_pads}> (p)"
    )
    graph = padded(graph_of, reader, pads, 0.0)
    assert_same_after(run_in_onnxruntime, graph)
    fits = all(pad + own_pad < kernel for pad, own_pad in zip(pads, own_pads, strict=True))
    if fits and not ceil and (counted or not any(own_pads)):
        assert operators(graph) == ["AveragePool"]


def test_pad_with_axes_is_folded_and_stays_for_its_other_reader(run_in_onnxruntime, graph_of):
    text = """
    agraph (float[1, 2, 9, 8] x) => (float[n, c, h, w0] y, float[n, c, h2, w2] z) {
        p = Pad (x, pads, fill, axes)
        y = MaxPool <kernel_shape = [2, 2]> (p)
        z = Exp (p)
    }"""
    graph = graph_of(
        text, pads=np.array([0, 1], np.int64), fill=np.array(-np.inf, np.float32), axes=np.array([-1], np.int64)
    )
    assert_same_after(run_in_onnxruntime, graph)
    pool = next(node for node in graph.graph if node.op_type == "MaxPool")
    assert list(pool.attributes["pads"].as_ints()) == [0, 0, 0, 1]
    assert sorted(operators(graph)) == ["Exp", "MaxPool", "Pad"]


@pytest.mark.parametrize("pads", [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0, 0]], ids=["channels", "a crop"])
def test_pad_of_channels_and_crops_stay(graph_of, pads):
    pool = "y = MaxPool <kernel_shape = [2, 2]> (p)"
    text = f"agraph (float[1, 2, 9, 8] x) => (float[n, c, h, w0] y) {{ p = Pad (x, pads) {pool} }}"
    graph = graph_of(text, pads=np.array(pads, np.int64))
    assert not FoldPad()(graph).modified
