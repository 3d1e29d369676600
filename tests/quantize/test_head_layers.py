"""Which last layers stay in float: those before boxes, scores and maps, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quantize.head_layers import head_layers


@pytest.fixture
def heads(graph_of, weights):
    def found(text, head_outputs=(), **sizes):
        own = {
            name: weights(*size, seed=i) if isinstance(size, tuple) else size
            for i, (name, size) in enumerate(sizes.items())
        }
        return {node.outputs[0].name for node in head_layers(graph_of(text, **own), head_outputs)}

    return found


ENCODER = """g (int64[1, 16] ids) => (float[1, 16, 32] y) {
    e = Gather (table, ids)  a = MatMul (e, w1)  s = Add (e, a)  b = MatMul (s, w2)  t = Add (s, b)
    y = LayerNormalization (t, scale) }"""
LANGUAGE = """g (int64[1, 16] ids) => (float[1, 16, 500] y, float[1, 16, 32] keys) {
    e = Gather (table, ids)  k = MatMul (e, w1)  l, r = Split <axis = 2, num_outputs = 2> (k)  n = Neg (r)
    keys = Concat <axis = 2> (n, l)  s = Add (e, keys)  y = MatMul (s, w2) }"""
VIT = """g (float[1, 3, 8, 8] x) => (float[1, 16, 32] y) {
    p = Conv <kernel_shape = [2, 2], strides = [2, 2]> (x, w1)  r = Reshape (p, shape)
    e = Transpose <perm = [0, 2, 1]> (r)  a = MatMul (e, w2)  s = Add (e, a)  y = LayerNormalization (s, scale) }"""
RECOGNIZER = """g (float[1, 3, 8, 32] x) => (float[1, 32, 500] y) {
    c = Conv <kernel_shape = [8, 1]> (x, w1)  f = Squeeze (c, axis)  t = Transpose <perm = [0, 2, 1]> (f)
    m = MatMul (t, w2)  y = Softmax (m) }"""
POOLED = """g (float[1, 3, 8, 8] x) => (float[1, 500, 1, 1] y) {
    a = Conv (x, w1)  c = Conv (a, w2)  y = GlobalAveragePool (c) }"""
SPEECH = """g (float[1, 16, 8] x, float[1, 1, 32] state) => (float[1, 8, 20] y) {
    c = Conv <kernel_shape = [1]> (x, w1)  t = Transpose <perm = [2, 0, 1]> (c)  l = LSTM <hidden_size = 32> (t, w2, w3)
    q = Squeeze (l, axis)  y = Transpose <perm = [1, 0, 2]> (q) }"""
TABLE, SCALE = np.ones((500, 32), np.float32), np.ones(32, np.float32)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        pytest.param(ENCODER, {"table": TABLE, "scale": SCALE, "w1": (32, 32), "w2": (32, 32)}, id="text encoder"),
        pytest.param(LANGUAGE, {"table": TABLE, "w1": (32, 32), "w2": (32, 500)}, id="language model with keys"),
        pytest.param(
            VIT,
            {"w1": (32, 3, 2, 2), "w2": (32, 32), "scale": SCALE, "shape": np.array([1, 32, 16])},
            id="image encoder",
        ),
        pytest.param(RECOGNIZER, {"w1": (32, 3, 8, 1), "w2": (32, 500), "axis": np.array([2])}, id="text recognizer"),
        pytest.param(POOLED, {"w1": (32, 3, 1, 1), "w2": (500, 32, 1, 1)}, id="pooled classes"),
    ],
)
def test_last_layers_of_tokens_features_and_classes_are_quantized(heads, text, sizes):
    assert heads(text, **sizes) == set()


def test_what_a_recurrent_layer_reads_is_not_the_last(heads):
    sizes = {"w1": (32, 16, 1), "w2": (1, 128, 32), "w3": (1, 128, 32), "axis": np.array([1])}
    assert heads(SPEECH.replace("[1, 8, 20]", "[1, 8, 32]"), **sizes) == set()


QUERIES = """g (float[1, 3, 8, 8] x) => (float[1, 16, 20] scores, float[1, 16, 4] boxes) {
    p = Conv <kernel_shape = [2, 2], strides = [2, 2]> (x, w1)  r = Reshape (p, shape)
    e = Transpose <perm = [0, 2, 1]> (r)  a = MatMul (e, w2)  scores = MatMul (a, w3)
    h = MatMul (a, w4)  b = MatMul (h, w5)  boxes = Sigmoid (b) }"""
FLAT = """g (float[1, 3, 8, 8] x) => (float[64, 85] y) {
    a = Conv (x, w1)  c = Conv (a, w2)  t = Transpose <perm = [0, 2, 3, 1]> (c)  y = Reshape (t, shape) }"""
JOINED = """g (float[1, 64] x) => (float[1, 24] y) {
    a = Gemm (x, w1)  boxes = Gemm (a, w2)  scores = Gemm (a, w3)  y = Concat <axis = 1> (boxes, scores) }"""
SELECTED = """g (float[1, 64] x) => (float[1, 5] best, int64[1, 5] which) {
    a = Gemm (x, w1)  scores = Gemm (a, w2)  best, which = TopK (scores, k) }"""
REGRESSION = """g (float[1, 3, 8, 8] x) => (float[1, 4] box) {
    a = Conv (x, w1)  p = GlobalAveragePool (a)  f = Flatten (p)  box = Gemm (f, w2) }"""
MASKS = """g (float[1, 3, 8, 8] x) => (float[1, 16, 4, 4] y) {
    p = Conv <kernel_shape = [2, 2], strides = [2, 2]> (x, w1)  r = Reshape (p, shape)
    m = MatMul (r, w2)  y = Reshape (m, square) }"""


@pytest.mark.parametrize(
    ("text", "sizes", "found"),
    [
        pytest.param(
            QUERIES,
            {
                "w1": (64, 3, 2, 2),
                "w2": (64, 64),
                "w3": (64, 20),
                "w4": (64, 64),
                "w5": (64, 4),
                "shape": np.array([1, 64, 16]),
            },
            {"scores", "b"},
            id="boxes of queries",
        ),
        pytest.param(
            FLAT, {"w1": (32, 3, 1, 1), "w2": (85, 32, 1, 1), "shape": np.array([64, 85])}, {"c"}, id="rows of cells"
        ),
        pytest.param(JOINED, {"w1": (64, 64), "w2": (64, 4), "w3": (64, 20)}, {"boxes", "scores"}, id="joined columns"),
        pytest.param(SELECTED, {"w1": (64, 64), "w2": (64, 20), "k": np.array([5])}, {"scores"}, id="selected by TopK"),
        pytest.param(REGRESSION, {"w1": (64, 3, 1, 1), "w2": (64, 4)}, {"box"}, id="one box"),
        pytest.param(
            MASKS,
            {"w1": (32, 3, 2, 2), "w2": (16, 16), "shape": np.array([1, 32, 16]), "square": np.array([1, 16, 4, 4])},
            {"m"},
            id="masks by a matrix product",
        ),
    ],
)
def test_last_layers_before_boxes_scores_and_maps_stay_in_float(heads, text, sizes, found):
    assert heads(text, **sizes) == found


def test_the_outputs_of_a_known_head_stay_in_float_whatever_they_look_like(heads):
    text = (
        "g (float[1, 16, 32] x) => (float[1, 16, 32] a, float[1, 16, 20] b) { a = MatMul (x, w1)  b = MatMul (a, w2) }"
    )
    assert heads(text, w1=(32, 32), w2=(32, 20)) == set()
    assert heads(text, {"b"}, w1=(32, 32), w2=(32, 20)) == {"b"}


ONE_CLASS = """g (float[1, 3, 16, 16] x) => (float[1, 5, 8, 8] y) {
    f = Conv <strides = [2, 2]> (x, w1)  c = Conv (f, w2)  s = Conv (c, wscore)  p = Sigmoid (s)
    d = Conv (f, w3)  b = Conv (d, wbox)  y = Concat <axis = 1> (b, p) }"""
DISTANCES = """g (float[1, 3, 8, 8] x) => (float[1, 4, 64] y) {
    f = Conv (x, w1)  b = Conv (f, wbox)  r = Reshape (b, shape)  t = Transpose <perm = [0, 2, 1, 3]> (r)
    s = Softmax <axis = 1> (t)  m = Conv (s, bins)  y = Reshape (m, out) }"""


def test_the_last_layer_of_one_class_is_its_head_and_not_the_layer_before(heads):
    sizes = {"w1": (64, 3, 2, 2), "w2": (64, 64, 1, 1), "w3": (64, 64, 1, 1), "wscore": (1, 64, 1, 1)}
    assert heads(ONE_CLASS, wbox=(4, 64, 1, 1), **sizes) == {"s", "b"}


def test_the_mean_of_a_distribution_is_decoding_and_the_layer_before_it_is_the_head(heads):
    bins = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
    sizes = {"w1": (64, 3, 1, 1), "wbox": (64, 64, 1, 1), "bins": bins}
    shapes = {"shape": np.array([1, 4, 16, 64]), "out": np.array([1, 4, 64])}
    assert "b" in heads(DISTANCES, **sizes, **shapes) and "f" not in heads(DISTANCES, **sizes, **shapes)


def test_a_transposed_convolution_of_many_channels_to_one_is_the_head(heads):
    text = """g (float[1, 3, 8, 8] x) => (float[1, 1, 16, 16] y) {
        a = Conv (x, w1)  b = Conv (a, w2)  t = ConvTranspose <strides = [2, 2]> (b, w3)  y = Sigmoid (t) }"""
    assert heads(text, w1=(24, 3, 1, 1), w2=(24, 24, 1, 1), w3=(24, 1, 2, 2)) == {"t"}
