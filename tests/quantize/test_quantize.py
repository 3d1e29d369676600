"""Quantized graphs in real engines: every planned product runs on integers, and outputs agree."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.quantize.calibrate.observers import METHODS
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import EVERY_ATTENTION, Precision

INT8 = BuildOptions(precision=Precision.INT8, threads=1)
LIBRARIES = {"cpu": "onnxruntime", "openvino": "openvino"}
PADDED = "<pads = [1, 1, 1, 1]>"

# Name -> text and the shapes of its weights.
GRAPHS = {
    "LeakyRelu": (
        """(float[1, 4, 12, 12] x) => (float[1, 5, 8, 8] y) {
            a = Conv (x, w, b)  l = LeakyRelu <alpha = 0.1> (a)  y = Conv (l, v) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 3, 3)},
    ),
    "Relu": (
        """(float[1, 4, 12, 12] x) => (float[1, 5, 8, 8] y) {
            a = Conv (x, w, b)  l = Relu (a)  y = Conv (l, v) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 3, 3)},
    ),
    "Relu at the end": (
        "(float[1, 4, 12, 12] x) => (float[1, 8, 10, 10] y) { a = Conv (x, w, b)  y = Relu (a) }",
        {"w": (8, 4, 3, 3), "b": (8,)},
    ),
    "Relu beside another reader": (
        """(float[1, 4, 12, 12] x) => (float[1, 5, 8, 8] y, float[1, 8, 10, 10] z) {
            a = Conv (x, w)  l = Relu (a)  y = Conv (l, v)  z = Neg (a) }""",
        {"w": (8, 4, 3, 3), "v": (5, 8, 3, 3)},
    ),
    "SiLU": (
        """(float[1, 4, 12, 12] x) => (float[1, 5, 8, 8] y) {
            a = Conv (x, w, b)  s = Sigmoid (a)  l = Mul (a, s)  y = Conv (l, v) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 3, 3)},
    ),
    "HardSwish": (
        """(float[1, 4, 12, 12] x) => (float[1, 5, 8, 8] y) {
            a = Conv (x, w, b)  l = HardSwish (a)  y = Conv (l, v) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 3, 3)},
    ),
    "residual": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 4, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  r = Relu (a)  c = Conv {PADDED} (r, w)  s = Add (c, r)  t = Relu (s)
            d = Conv {PADDED} (t, w)  y = Add (d, t) }}""",
        {"w": (4, 4, 3, 3), "b": (4,)},
    ),
    "concatenation of pooled and resized branches": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 5, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  r = LeakyRelu (a)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
            c = Conv (p, v)  u = Resize <mode = "nearest"> (c, , twice)
            q = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (r)
            m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
            k = Concat <axis = 1> (u, q, m, r)  y = Conv (k, t) }}""",
        {"w": (4, 4, 3, 3), "b": (4,), "v": (6, 4, 1, 1), "t": (5, 18, 1, 1)},
    ),
    "interpolation": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 5, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            u = Resize <mode = "linear"> (p, , twice)  c = Resize <mode = "cubic"> (p, , twice)
            k = Concat <axis = 1> (u, a, c)  y = Conv (k, v) }}""",
        {"w": (4, 4, 3, 3), "b": (4,), "v": (5, 12, 1, 1)},
    ),
    "split and joined": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 8, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  s0, s1 = Split <axis = 1, num_outputs = 2> (a)
            c = Conv {PADDED} (s1, v)  y = Concat <axis = 1> (s0, c) }}""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (4, 4, 3, 3)},
    ),
    "dense block": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 5, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  c = Conv {PADDED} (a, w)  k = Concat <axis = 1> (a, c)  r = Relu (k)
            y = Conv (r, v) }}""",
        {"w": (4, 4, 3, 3), "b": (4,), "v": (5, 8, 1, 1)},
    ),
    "squeeze and excitation": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 8, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  g = GlobalAveragePool (a)  c = Conv (g, v)  r = Relu (c)  d = Conv (r, u)
            s = Sigmoid (d)  y = Mul (a, s) }}""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (4, 8, 1, 1), "u": (8, 4, 1, 1)},
    ),
    "grouped and depthwise": (
        """(float[1, 16, 12, 12] x) => (float[1, 5, 12, 12] y) {
            a = Conv <group = 16, pads = [1, 1, 1, 1]> (x, w, b)  l = Relu (a)  c = Conv <group = 2> (l, v)
            y = Conv (c, u) }""",
        {"w": (16, 1, 3, 3), "b": (16,), "v": (8, 8, 1, 1), "u": (5, 8, 1, 1)},
    ),
    "classifier": (
        """(float[2, 4, 12, 12] x) => (float[2, 10] y) {
            a = Conv (x, w, b)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)
            y = Gemm <transB = 1> (f, v, c) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (10, 8), "c": (10,)},
    ),
    "classifier of means": (
        """(float[1, 4, 12, 12] x) => (float[1, 10] y) {
            a = Conv (x, w, b)  m = ReduceMean <keepdims = 0> (a, axes)  y = Gemm (m, v, c) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 10), "c": (1, 10)},
    ),
    "perceptron": (
        """(float[4, 16] x) => (float[4, 6] y) {
            a = Gemm (x, w, b)  r = Relu (a)  c = Gemm (r, v, d)  y = Softmax (c) }""",
        {"w": (16, 32), "b": (32,), "v": (32, 6), "d": (6,)},
    ),
    "attention": (
        """(float[1, 8, 16] x) => (float[1, 8, 16] y) {
            q = MatMul (x, w)  c = Add (q, b)  k = MatMul (x, v)  t = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (c, t)  p = Softmax (s)  u = MatMul (x, z)  y = MatMul (p, u) }""",
        {"w": (16, 12), "b": (12,), "v": (16, 12), "z": (16, 16)},
    ),
    "MatMul at the end": (
        "(float[4, 16] x) => (float[4, 6] y) { y = MatMul (x, w) }",
        {"w": (16, 6)},
    ),
    "stacked MatMul": (
        "(float[2, 8, 16] x) => (float[2, 8, 6] y) { a = MatMul (x, w)  y = Neg (a) }",
        {"w": (2, 16, 6)},
    ),
    "one dimension": (
        """(float[1, 4, 32] x) => (float[1, 5, 28] y) {
            a = Conv (x, w, b)  l = Relu (a)  y = Conv (l, v) }""",
        {"w": (8, 4, 3), "b": (8,), "v": (5, 8, 3)},
    ),
    "three dimensions": (
        """(float[1, 4, 7, 7, 7] x) => (float[1, 5, 3, 3, 3] y) {
            a = Conv (x, w, b)  l = Relu (a)  y = Conv (l, v) }""",
        {"w": (8, 4, 3, 3, 3), "b": (8,), "v": (5, 8, 3, 3, 3)},
    ),
    "transposed": (
        """(float[1, 4, 8, 8] x) => (float[1, 5, 15, 15] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  l = Relu (a)
            y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (l, v, c) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 5, 3, 3), "c": (5,)},
    ),
    "transposed in groups": (
        """(float[1, 4, 8, 8] x) => (float[1, 6, 15, 15] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  l = Relu (a)
            y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], group = 2> (l, v, c) }""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 3, 3, 3), "c": (6,)},
    ),
    "shared weights": (
        """(float[1, 4, 12, 12] x) => (float[1, 4, 8, 8] y, float[1, 4, 10, 10] z) {
            a = Conv (x, w, b)  y = Conv (a, w, b)  n = Neg (x)  z = Conv (n, w, b) }""",
        {"w": (4, 4, 3, 3), "b": (4,)},
    ),
    "cut of the input": (
        """(float[1, 8, 12, 12] x) => (float[1, 4, 10, 10] y) {
            s = Slice (x, zero, four, one)  a = Conv (s, w, b)  y = Relu (a) }""",
        {"w": (4, 4, 3, 3), "b": (4,)},
    ),
}
CONSTANTS = {
    "twice": np.array([1, 1, 2, 2], np.float32),
    "axes": np.array([2, 3]),
    "zero": np.array([0]),
    "four": np.array([4]),
    "one": np.array([1]),
}
# The products that stay in float, by target and graph.
IN_FLOAT = {
    ("cpu", "transposed"): {"y"},
    ("cpu", "transposed in groups"): {"y"},
    ("openvino", "transposed in groups"): {"y"},
    ("openvino", "attention"): {"s", "y"},
}
# The noise of weights doubles with each bit that they lack.
DB_PER_BIT = 20 * np.log10(2)


@pytest.fixture(params=sorted(LIBRARIES))
def target(request):
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


@pytest.fixture
def graph(graph_of, weights):
    def build(name):
        text, shapes = (GRAPHS | EQUALIZED)[name]
        arrays = {}
        for seed, (key, shape) in enumerate(shapes.items()):
            arrays[key] = weights(*shape, seed=seed) if len(shape) > 1 else weights(*shape, 1, seed=seed).ravel()
        constants = {key: CONSTANTS[key] for key in CONSTANTS.keys() & set(re.findall(r"\w+", text))}
        return graph_of(f"g {text}", **arrays, **constants)

    return build


def scheme_of(target):
    return msgspec.structs.replace(backend(target).scheme(), stem_channels=0, float_attention=())


@pytest.fixture
def engine(tmp_path):
    """Builds the engine of a quantized graph; the build checks that layers run in the planned types."""

    def build(target, graph):
        path = tmp_path / "graph.onnx"
        save_graph(graph, path)
        onnx.checker.check_model(path, full_check=True)
        result = backend(target).build(path, tmp_path, INT8)
        return backend(target).load(tmp_path / result.engine, threads=1), result.layers

    return build


@pytest.mark.parametrize("name", GRAPHS)
def test_every_planned_product_runs_on_integers_and_outputs_agree(
    graph, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, target, name
):
    quantized = graph(name)
    feeds = feeds_for(quantized)
    exact = run_in_onnxruntime(quantized, feeds)
    quantized, plan, *_ = quantized_from_graph(quantized, calibrated(quantized, feeds), scheme_of(target))
    built, layers = engine(target, quantized)
    assert set(plan.skipped) == IN_FLOAT.get((target, name), set())
    if target == "cpu":  # OpenVINO may fuse several products into one layer
        products = [node for node in plan.nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
        assert layers.get("int8", 0) == len(products) and layers.get("float32", 0) == len(plan.skipped)
    assert [spec.name for spec in built.outputs] == list(exact[0])
    assert min(sqnr_db(exact, [built.run(arrays) for arrays in feeds]).values()) > 25
    assert min(sqnr_db(exact, run_in_onnxruntime(quantized, feeds)).values()) > 25


def test_attention_in_float_runs_between_integer_products(
    graph, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db
):
    quantized = graph("attention")
    feeds = feeds_for(quantized)
    exact = run_in_onnxruntime(quantized, feeds)
    scheme = msgspec.structs.replace(scheme_of("cpu"), float_attention=EVERY_ATTENTION)
    quantized, plan, *_ = quantized_from_graph(quantized, calibrated(quantized, feeds), scheme)
    built, layers = engine("cpu", quantized)
    assert set(plan.skipped) == {"s", "y"} and layers["int8"] == 3
    assert sqnr_db(exact, [built.run(arrays) for arrays in feeds])["y"] > 25


@pytest.mark.parametrize("method", METHODS)
def test_outputs_agree_with_every_calibration_method(
    graph, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, target, method
):
    quantized = graph("concatenation of pooled and resized branches")
    feeds = feeds_for(quantized)
    exact = run_in_onnxruntime(quantized, feeds)
    quantized = quantized_from_graph(quantized, calibrated(quantized, feeds, method), scheme_of(target)).graph
    built, _ = engine(target, quantized)
    # With so few values, entropy clips those that occur once.
    assert sqnr_db(exact, [built.run(arrays) for arrays in feeds])["y"] > (20 if method == "entropy" else 25)


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_may_have_seven_bits(graph, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, target, bits):
    quantized = graph("residual")
    feeds = feeds_for(quantized)
    exact = run_in_onnxruntime(quantized, feeds)
    scheme = msgspec.structs.replace(scheme_of(target), weight_bits=bits)
    quantized = quantized_from_graph(quantized, calibrated(quantized, feeds), scheme).graph
    built, _ = engine(target, quantized)
    assert sqnr_db(exact, [built.run(arrays) for arrays in feeds])["y"] > 25


@pytest.mark.parametrize("limits", [(0, 6), (0, 1.1), (0, 0.3), (0, 0.7), (-1, 1), (-0.3, 0.7), (0.1, 1), (-3, 0)])
def test_clips_of_any_limits_are_built(
    graph_of, weights, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, target, limits
):
    text = """g (float[1, 4, 12, 12] x) => (float[1, 5, 8, 8] y) {
        a = Conv (x, w)  c = Clip (a, lo, hi)  y = Conv (c, v) }"""
    lo, hi = (np.float32(limit) for limit in limits)
    # All limits are reached, so they are the limits of the range.
    quantized = graph_of(text, w=10 * weights(8, 4, 3, 3), v=weights(5, 8, 3, 3), lo=lo, hi=hi)
    feeds = feeds_for(quantized)
    exact = run_in_onnxruntime(quantized, feeds)
    table = calibrated(quantized, feeds)
    assert table.ranges["c"] == (min(lo, 0), max(hi, 0))
    scheme = scheme_of(target)
    quantized = quantized_from_graph(quantized, table, scheme).graph
    built, layers = engine(target, quantized)
    assert layers == {"int8": 2}
    # A narrow Clip after large weights makes their noise the largest.
    least = 25 - DB_PER_BIT * (8 - scheme.weight_bits)
    assert sqnr_db(exact, [built.run(arrays) for arrays in feeds])["y"] > least


# Tensors next to and after those whose channels are equalized.
EQUALIZED = {
    "pooled before its Relu": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 5, 6, 6] y) {{
            a = Conv {PADDED} (x, w, b)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)  r = Relu (p)
            c = Conv (r, v)  y = Neg (c) }}""",
        {"w": (8, 4, 3, 3), "b": (8,), "v": (5, 8, 1, 1)},
    ),
    "interpolated before its Relu": (
        """(float[1, 4, 6, 6] x) => (float[1, 5, 12, 12] y) {
            a = Conv (x, w, b)  u = Resize <mode = "linear"> (a, , twice)  r = Relu (u)  y = Conv (r, v) }""",
        {"w": (8, 4, 1, 1), "b": (8,), "v": (5, 8, 1, 1)},
    ),
    "concatenated to a sum": (
        f"""(float[1, 4, 12, 12] x) => (float[1, 5, 12, 12] y) {{
            a = Conv {PADDED} (x, w, b)  r = LeakyRelu <alpha = 0.1> (a)  c = Conv {PADDED} (r, v)
            q = LeakyRelu <alpha = 0.1> (c)  s = Add (q, r)  d = Conv (r, u)  l = LeakyRelu <alpha = 0.1> (d)
            k = Concat <axis = 1> (l, s)  y = Conv (k, t) }}""",
        {"w": (4, 4, 3, 3), "b": (4,), "v": (4, 4, 3, 3), "u": (4, 4, 1, 1), "t": (5, 8, 1, 1)},
    ),
    "Relu concatenated to LeakyRelu": (
        """(float[1, 4, 12, 12] x) => (float[1, 5, 10, 10] y) {
            a = Conv (x, w, b)  r = Relu (a)  c = Conv (x, v)  l = LeakyRelu <alpha = 0.1> (c)
            k = Concat <axis = 1> (r, l)  y = Conv (k, t) }""",
        {"w": (4, 4, 3, 3), "b": (4,), "v": (4, 4, 3, 3), "t": (5, 8, 1, 1)},
    ),
    "LeakyRelu of numbers that are all below zero": (
        """(float[1, 4, 12, 12] x) => (float[1, 8, 12, 12] y) {
            n = Abs (x)  a = Conv (n, w, b)  y = LeakyRelu <alpha = 0.1> (a) }""",
        {"w": (8, 4, 1, 1), "b": (8,)},
    ),
    **{name: GRAPHS[name] for name in ("residual", "concatenation of pooled and resized branches", "dense block")},
}


@pytest.mark.parametrize("gain", [0.01, 50])
@pytest.mark.parametrize("name", EQUALIZED)
def test_equalization_harms_no_tensor_of_any_size(
    graph, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, target, name, gain
):
    ratios = []
    for equalize in (False, True):
        quantized = graph(name)
        feeds = [{"x": (gain * arrays["x"]).astype(np.float32)} for arrays in feeds_for(quantized)]
        exact = run_in_onnxruntime(quantized, feeds)
        quantized = quantized_from_graph(
            quantized, calibrated(quantized, feeds, equalize=equalize), scheme_of(target)
        ).graph
        built, _ = engine(target, quantized)
        ratios.append(sqnr_db(exact, [built.run(arrays) for arrays in feeds])["y"])
    plain, equalized = ratios
    assert equalized > min(plain - 4, 28)


def test_layers_that_are_kept_in_float_are(graph, engine, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, target):
    quantized = graph("residual")
    feeds = feeds_for(quantized)
    exact = run_in_onnxruntime(quantized, feeds)
    quantized, plan, *_ = quantized_from_graph(
        quantized, calibrated(quantized, feeds), scheme_of(target), QuantPolicy(keep_float=("c",))
    )
    built, layers = engine(target, quantized)
    assert plan.skipped == {"c": "kept by 'c'"} and layers == {"int8": 2, "float32": 1}
    assert sqnr_db(exact, [built.run(arrays) for arrays in feeds])["y"] > 25


def test_values_outside_the_calibrated_range_saturate(graph, engine, feeds_for, calibrated, target):
    quantized = graph("LeakyRelu")
    feeds = feeds_for(quantized)
    quantized = quantized_from_graph(quantized, calibrated(quantized, feeds), scheme_of(target)).graph
    built, _ = engine(target, quantized)
    largest = max(np.abs(arrays["x"]).max() for arrays in feeds)
    signs = np.sign(feeds[0]["x"])
    far, end = (built.run({"x": (signs * size).astype(np.float32)})["y"] for size in (1000 * largest, 1.01 * largest))
    np.testing.assert_allclose(far, end, atol=1e-4)


def test_the_quantized_graph_is_four_times_smaller(graph_of, weights, feeds_for, calibrated):
    text = "g (float[1, 64, 4, 4] x) => (float[1, 64, 4, 4] y) { a = Conv (x, w)  y = Conv (a, w) }"
    quantized = graph_of(text, w=weights(64, 64, 1, 1))
    before = ir.to_proto(quantized).ByteSize()
    quantized = quantized_from_graph(
        quantized, calibrated(quantized, feeds_for(quantized)), scheme_of("cpu"), QuantPolicy(keep_float=("a",))
    ).graph
    assert ir.to_proto(quantized).ByteSize() < before + 64 * 64 + 4000  # the copy of one consumer
    other = graph_of(text, w=weights(64, 64, 1, 1))
    other = quantized_from_graph(other, calibrated(other, feeds_for(other)), scheme_of("cpu")).graph
    assert ir.to_proto(other).ByteSize() < before / 2 + 4000  # a copy for each consumer
