"""Graphs in FP16 and BF16: nodes that stay in float32, accuracy, and whether ONNX Runtime and TensorRT take them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.engine.tensorrt.scheme import SCHEME
from edgekit.errors import GraphError, UsageError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import optimize
from edgekit.models.factory import module_from_recipe
from edgekit.quantize.half.cast import half_from_graph
from edgekit.quantize.half.check import rounding_graph
from edgekit.quantize.plan import QuantPolicy
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.recipe.schema import load_recipe
from edgekit.specs import Precision, TensorSpec

FP16, BF16 = Precision.FP16, Precision.BF16
HALVES = pytest.mark.parametrize("precision", [FP16, BF16])
CHAIN = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { a = Conv (x, w)  r = Relu (a)  y = Conv (r, w) }"
IN, OUT = "float[1, 4, 8, 8] x", "float[1, 4, 8, 8] y"


@pytest.fixture
def halved(calibrated, feeds_for):
    """Casts a graph and checks that it is valid; returns the result and each output's relative error."""

    def run(graph, precision=FP16, *, scale=1.0, feeds=None, **options):
        feeds = feeds or [{n: np.asarray(a * scale, a.dtype) for n, a in f.items()} for f in feeds_for(graph, 2)]
        exact = Evaluator(graph, threads=1)
        expected = [exact.run(arrays) for arrays in feeds]
        done = half_from_graph(graph, precision, calibrated(graph, feeds).ranges, **options)
        require_valid(done.graph)
        return done, cast_errors(done.graph, feeds, expected)

    return run


TOLERANCE = {FP16: 5e-2, BF16: 1e-1}
"""Relative errors of 26 and 20 dB, the limits of a build."""


def cast_errors(graph, feeds, expected):
    """The largest error of each float output, relative to the norm of the reference."""
    rounded = Evaluator(rounding_graph(graph), threads=1)
    worst = {}
    for arrays, reference in zip(feeds, expected, strict=True):
        for name, array in rounded.run(dict(arrays)).items():
            if array.dtype.kind == "f":
                error = np.linalg.norm(array - reference[name]) / np.linalg.norm(reference[name])
                worst[name] = max(worst.get(name, 0.0), float(error))
    return worst


def require_valid(graph):
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def types(graph):
    return {node.name: node.outputs[0].dtype.name for node in graph.graph if node.op_type != "Cast"}


def casts(graph):
    return [(node.inputs[0].name, node.outputs[0].name) for node in graph.graph if node.op_type == "Cast"]


@HALVES
def test_a_chain_is_half_between_casts_at_the_graph_s_ends(graph_of, weights, halved, precision) -> None:
    graph = graph_of(CHAIN, w=weights(4, 4, 1, 1))
    done, errors = halved(graph, precision)
    graph = done.graph
    graph = done.graph
    half = {FP16: "FLOAT16", BF16: "BFLOAT16"}[precision]
    assert types(graph) == {"a": half, "r": half, "y": half}
    assert [value.dtype.name for value in (*graph.graph.inputs, *graph.graph.outputs)] == ["FLOAT", "FLOAT"]
    assert graph.graph.initializers["w"].const_value.dtype.name == half
    assert (done.halved, done.kept, done.lost, done.casts) == (3, {}, {}, 2)
    assert 0 < errors["y"] < TOLERANCE[precision] / 5


@HALVES
def test_inputs_and_outputs_become_half_with_io(graph_of, weights, halved, precision) -> None:
    graph = graph_of(CHAIN, w=weights(4, 4, 1, 1))
    done, errors = halved(graph, precision, io=True)
    graph = done.graph
    graph = done.graph
    assert done.casts == 0 and errors["y"] < TOLERANCE[precision]
    assert {value.dtype.itemsize for value in (*graph.graph.inputs, *graph.graph.outputs)} == {2}


def test_onnxruntime_takes_the_graph_in_fp16(graph_of, weights, feeds_for, run_in_onnxruntime) -> None:
    graph = graph_of(CHAIN, w=weights(4, 4, 3, 3))
    feeds = feeds_for(graph)
    expected = run_in_onnxruntime(graph, feeds)
    graph = half_from_graph(graph, FP16).graph
    for exact, got in zip(expected, run_in_onnxruntime(graph, feeds), strict=True):
        np.testing.assert_allclose(got["y"], exact["y"], rtol=0, atol=1e-2 * np.abs(exact["y"]).max())


@pytest.mark.parametrize("size", [1.0, 1e3, 1e4, 1e5])
def test_layer_normalization_is_accurate_for_inputs_of_any_size(graph_of, weights, halved, size) -> None:
    text = """g (float[1, 16, 64] x) => (float[1, 16, 64] y) {
        a = MatMul (x, w)  n = LayerNormalization (a, s, b)  y = MatMul (n, w) }"""
    graph = graph_of(text, w=weights(64, 64), s=np.ones(64, np.float32), b=np.zeros(64, np.float32))
    done, errors = halved(graph, scale=size)
    graph = done.graph
    graph = done.graph
    assert errors["y"] < 2e-3
    assert done.kept["n"] == "it sums squares" and "y" not in done.kept
    assert ("a" in done.kept) == (size >= 1e4)  # four times the calibrated max is more than 65504


@pytest.mark.parametrize("size", [1.0, 1e3, 1e5])
def test_a_decomposed_normalization_is_float32_throughout(graph_of, weights, halved, size) -> None:
    text = """g (float[1, 16, 64] x) => (float[1, 16, 64] y) {
        a = MatMul (x, w)  m = ReduceMean (a, axis)  d = Sub (a, m)  q = Pow (d, two)  v = ReduceMean (q, axis)
        e = Add (v, epsilon)  r = Sqrt (e)  n = Div (d, r)  y = MatMul (n, w) }"""
    # Along the last axis, it would become one operator.
    constants = {"two": np.float32(2), "epsilon": np.float32(1e-12), "axis": np.array([1])}
    graph = graph_of(text, w=weights(64, 64), **constants)
    done, errors = halved(graph, scale=size)
    graph = done.graph
    graph = done.graph
    assert errors["y"] < 2e-3
    assert {"m", "q", "v", "e", "r"} <= done.kept.keys()
    assert "y" not in done.kept


@HALVES
@pytest.mark.parametrize(("size", "kept"), [(1.0, False), (1e4, True)])
def test_large_softmax_inputs_are_computed_in_float32(graph_of, weights, halved, precision, size, kept) -> None:
    text = """g (float[1, 16, 64] x) => (float[1, 16, 64] y) {
        s = MatMul (x, w)  k = Mul (s, size)  p = Softmax <axis = -1> (k)  y = MatMul (p, w) }"""
    graph = graph_of(text, w=weights(64, 64), size=np.float32(size))
    done, errors = halved(graph, precision)
    graph = done.graph
    graph = done.graph
    assert ({"s", "k", "p"} <= done.kept.keys()) == kept
    assert errors["y"] < TOLERANCE[precision] / 2


def test_a_mask_of_the_lowest_float_stays_one(graph_of, weights, halved) -> None:
    text = """g (float[1, 8, 8] x) => (float[1, 8, 8] y) {
        s = MatMul (x, w)  k = Add (s, mask)  p = Softmax <axis = -1> (k)  y = MatMul (p, w) }"""
    mask = np.triu(np.full((8, 8), np.finfo(np.float32).min), 1)
    done, errors = halved(graph_of(text, w=weights(8, 8), mask=mask))
    graph_of = done.graph
    assert errors["y"] < 2e-3
    assert done.kept == {"k": "its constant 'mask' reaches 3.4e+38", "p": "'k' reaches 3.4e+38"}


@HALVES
def test_exponentials_of_box_sizes_are_float32(graph_of, weights, halved, precision) -> None:
    text = f"g ({IN}) => ({OUT}) {{ a = Conv (x, w)  c = Clip (a, lo, hi)  e = Exp (c)  y = Mul (e, anchors) }}"
    limits = {"lo": np.float32(-12), "hi": np.float32(12), "anchors": np.float32(16)}
    done, errors = halved(graph_of(text, w=weights(4, 4, 1, 1), **limits), precision, scale=30.0)
    graph_of = done.graph
    assert {"e", "y"} <= done.kept.keys()  # 162755 is outside the range of FP16
    assert errors["y"] < TOLERANCE[precision]


def test_values_that_are_cast_to_integers_are_computed_in_float32(graph_of, weights, halved) -> None:
    text = f"""g ({IN}) => (int64[1, 4, 8, 8] i, {OUT}) {{
        a = Conv (x, w)  b = Mul (a, size)  f = Floor (b)  i = Cast <to = 7> (f)  y = Sigmoid (a) }}"""
    graph = graph_of(text, w=weights(4, 4, 1, 1), size=np.float32(1000))
    assert halved(graph)[0].kept.keys() == {"b", "f"}


@pytest.mark.parametrize(("size", "words", "scale"), [(2e5, "reaches", 1e-2), (1e-5, "reaches no more than", 1e3)])
def test_weights_that_do_not_fit_keep_their_node_in_float32(graph_of, weights, halved, size, words, scale) -> None:
    text = f"g ({IN}) => ({OUT}) {{ a = Conv (x, odd)  y = Conv (a, w) }}"
    w = weights(4, 4, 1, 1)
    done, errors = halved(graph_of(text, odd=w * np.float32(size), w=w), scale=scale)
    graph_of = done.graph
    assert done.kept.keys() == {"a"} and errors["y"] < 2e-3
    assert done.kept["a"].startswith(f"its constant 'odd' {words} ")


def test_lost_digits_of_small_weights_are_reported(graph_of, weights, halved) -> None:
    small = weights(8, 8, 1, 1) * np.float32(3e-5)
    small[0, 0] = 7e-5
    text = "g (float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) { y = Conv (x, small) }"
    done, _ = halved(graph_of(text, small=small), scale=10.0)
    graph_of = done.graph
    assert done.lost.keys() == {"small"} and 2**-11 < done.lost["small"] < 2**-8


def test_a_weight_shared_by_a_float_and_a_half_node_exists_in_both_types(graph_of, weights, halved) -> None:
    text = f"g ({IN}) => ({OUT}, float[1, 4, 8, 8] z) {{ y = Conv (x, w)  z = Conv (x, w) }}"
    graph = graph_of(text, w=weights(4, 4, 1, 1))
    done, errors = halved(graph, keep_float=["z"])
    graph = done.graph
    graph = done.graph
    assert done.kept == {"z": "kept by 'z'"} and errors["z"] == 0.0 < errors["y"]
    assert {name: value.dtype.name for name, value in graph.graph.initializers.items()} == {
        "w": "FLOAT",
        "w_fp16": "FLOAT16",
    }


def test_error_on_a_pattern_that_matches_no_node(graph_of, weights) -> None:
    with pytest.raises(UsageError, match="'nothing' matches no node"):
        graph_of = half_from_graph(graph_of(CHAIN, w=weights(4, 4, 1, 1)), FP16, keep_float=["nothing"]).graph


def test_scales_of_a_resize_stay_float32_and_its_image_does_not(graph_of, weights, halved) -> None:
    text = f"""g ({IN}) => (float[1, 4, 16, 16] y) {{
        a = Conv (x, w)  r = Resize <mode = "linear"> (a, , twice)  y = Relu (r) }}"""
    graph = graph_of(text, w=weights(4, 4, 1, 1), twice=np.array([1, 1, 2, 2], np.float32))
    done, errors = halved(graph)
    graph = done.graph
    graph = done.graph
    assert done.kept == {} and errors["y"] < 2e-3
    assert graph.graph.initializers["twice"].const_value.dtype == ir.DataType.FLOAT


def test_subgraphs_read_and_output_float32(graph_of, weights, halved) -> None:
    text = f"""g ({IN}, bool b) => ({OUT}) {{
        a = Conv (x, w)
        c = If (b) <then_branch = t () => (float[1, 4, 8, 8] p) {{ p = Relu (a) }},
                    else_branch = e () => (float[1, 4, 8, 8] q) {{ q = Add (a, v) }}>
        y = Conv (c, w) }}"""
    graph = graph_of(text, w=weights(4, 4, 1, 1), v=weights(4, 1, 1))
    done, errors = halved(graph)
    graph = done.graph
    graph = done.graph
    assert done.kept == {"c": "it has subgraphs"} and errors["y"] < 2e-3


def test_the_shape_of_a_value_is_read_in_the_type_that_it_has(graph_of, weights, halved) -> None:
    text = f"g ({IN}) => (int64[4] s, {OUT}) {{ a = Conv (x, w)  y = Exp (a)  s = Shape (y) }}"
    graph = graph_of(text, w=weights(4, 4, 1, 1))
    graph = halved(graph)[0].graph
    assert len(casts(graph)) == 2


def test_casts_that_cancel_are_removed(graph_of, weights, halved) -> None:
    text = f"""g ({IN}) => ({OUT}) {{
        h = Cast <to = 10> (x)  r = Relu (h)  f = Cast <to = 1> (r)  a = Conv (f, w)  b = Cast <to = 10> (a)
        s = Relu (b)  y = Cast <to = 1> (s) }}"""
    graph = graph_of(text, w=weights(4, 4, 1, 1))
    graph = halved(graph)[0].graph
    assert casts(graph) == [("x", "h"), ("s", "y")]


def test_operators_without_bf16_stay_float32(graph_of, weights, halved) -> None:
    text = f"g ({IN}) => (float[1, 4, 8, 3] y, int64[1, 4, 8, 3] i) {{ a = Conv (x, w)  y, i = TopK (a, k) }}"
    done, _ = halved(graph_of(text, w=weights(4, 4, 1, 1), k=np.array([3])), BF16)
    graph_of = done.graph
    assert done.kept == {"y": "ONNX does not support BFLOAT16 for it"}


def test_bf16_does_not_change_the_semantics_of_a_group_normalization() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 4, 8, 8] x, float[2] s) => (float[1, 4, 8, 8] y) {
            y = GroupNormalization <num_groups = 2> (x, s, s) }"""
    with pytest.raises(GraphError, match="GroupNormalization 'n0' of opset 20 mean"):
        graph = ir.from_proto(onnx.parser.parse_model(text))
        next(iter(graph.graph)).name = "n0"
        graph = half_from_graph(graph, BF16).graph


@HALVES
def test_a_residual_net_is_half_throughout(graph_of, weights, halved, precision) -> None:
    text = """g (float[1, 3, 16, 16] x) => (float[1, 10] y) {
        a = Conv <strides = [2, 2]> (x, stem)  r = Relu (a)  b = Conv (r, w)  s = Relu (b)  c = Conv (s, w)
        t = Add (c, r)  u = Relu (t)  p = GlobalAveragePool (u)  f = Flatten (p)  y = Gemm (f, v, bias) }"""
    named = {"stem": weights(8, 3, 1, 1), "w": weights(8, 8, 1, 1), "v": weights(8, 10), "bias": np.ones(10, "f4")}
    done, errors = halved(graph_of(text, **named), precision)
    graph_of = done.graph
    assert done.kept == {} and errors["y"] < TOLERANCE[precision] / 2


@HALVES
def test_a_transformer_encoder_agrees_and_tensorrt_reads_its_types(halved, parsed, precision) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    graph = optimize(graph_from_module(encoder, [TensorSpec("x", "float32", (1, 16, 64))]))
    done, errors = halved(graph, precision)
    graph = done.graph
    graph = done.graph
    assert max(errors.values()) < TOLERANCE[precision] / 4
    assert set(done.kept.values()) == {"it sums squares"} and len(done.kept) == 4
    half = {FP16: "HALF", BF16: "BF16"}[precision]
    layers = parsed(graph)
    products = [layer for layer in layers if layer.kind == "MATRIX_MULTIPLY"]
    assert len(products) == 12 and {kind for layer in products for kind in layer.reads} == {half}
    norms = [layer for layer in layers if layer.kind == "NORMALIZATION"]
    assert [layer.gives for layer in norms] == [["FLOAT"]] * 4


@pytest.fixture(scope="module")
def tiny(feeds_for):
    """Makes YOLOv3-tiny as its recipe says, with random weights, and two images of noise."""
    recipe = load_recipe("yolov3-tiny")
    spec = TensorSpec(recipe.inputs[0].name, "float32", recipe.inputs[0].shape)
    module = module_from_recipe(recipe)
    rng = np.random.default_rng(0)
    feeds = [{spec.name: rng.random(spec.shape, np.float32)} for _ in range(2)]
    return lambda: (optimize(graph_from_module(module, [spec], recipe.outputs)), feeds)


@HALVES
def test_yolov3_tiny_agrees_and_tensorrt_reads_its_types(tiny, halved, parsed, precision) -> None:
    graph, feeds = tiny()
    done, errors = halved(graph, precision, feeds=feeds)
    graph = done.graph
    graph = done.graph
    assert done.kept == {} and done.casts == 3
    assert errors.keys() == {"head32", "head16"} and max(errors.values()) < TOLERANCE[precision]
    convolutions = [layer for layer in parsed(graph) if layer.kind == "CONVOLUTION"]
    half = {FP16: "HALF", BF16: "BF16"}[precision]
    assert len(convolutions) == 13
    assert all({*layer.reads, *layer.gives} == {half} for layer in convolutions)


def test_yolov3_tiny_in_int8_has_its_first_two_convolutions_and_its_heads_in_fp16(tiny, calibrated, parsed) -> None:
    graph, feeds = tiny()
    table = calibrated(graph, feeds)
    graph = quantized_from_graph(graph, table, SCHEME, QuantPolicy(keep_float=("head*",))).graph
    expected = [Evaluator(graph, threads=2).run(arrays) for arrays in feeds]
    done = half_from_graph(graph, FP16, table.ranges)
    graph = done.graph
    require_valid(graph)
    # A value halfway between two integers may be rounded either way, an error of one INT8 step.
    assert max(cast_errors(graph, feeds, expected).values()) < 0.1
    assert done.kept == {}
    convolutions = [layer for layer in parsed(graph) if layer.kind == "CONVOLUTION"]
    assert {*(kind for layer in convolutions for kind in layer.reads)} == {"HALF"}
    by_kind = [[source.kind for source in layer.sources if source] for layer in convolutions]
    assert by_kind.count(["DEQUANTIZE", "DEQUANTIZE"]) == 9 and len(by_kind) == 13


def test_integer_biases_become_half(graph_of, weights, halved) -> None:
    text = f"g ({IN}) => ({OUT}) {{ b = DequantizeLinear (bias, scale)  y = Conv (x, w, b) }}"
    graph = graph_of(text, w=weights(4, 4, 1, 1), bias=np.arange(4, dtype=np.int32) << 16, scale=np.float32(1e-6))
    done, errors = halved(graph)
    graph = done.graph
    assert types(graph) == {"y": "FLOAT16"} and errors["y"] < 2e-3


def test_scales_that_half_cannot_represent_stay_float32(graph_of, weights, halved) -> None:
    text = f"""g ({IN}) => ({OUT}) {{
        d = DequantizeLinear <axis = 0> (q, tiny)  a = Conv (x, w)  y = Conv (a, d) }}"""
    graph = graph_of(text, w=weights(4, 4, 1, 1), q=np.full((4, 4, 1, 1), 99, np.int8), tiny=np.full(4, 3e-8, "f4"))
    done, errors = halved(graph)
    graph = done.graph
    graph = done.graph
    assert done.kept["d"] == "its scale 'tiny' is as small as 3e-08" and errors["y"] < 2e-3


def test_an_overflow_between_two_nodes_is_detected_although_onnxruntime_hides_it(graph_of, run_in_onnxruntime) -> None:
    text = "g (float[4] x) => (float[4] y) { a = Mul (x, k)  b = Mul (a, k)  c = Div (b, k)  y = Div (c, k) }"
    graph = graph_of(text, k=np.full(4, 300, np.float32))  # one number for all would be merged
    feeds = [{"x": np.ones(4, np.float32)}]
    graph = half_from_graph(graph, FP16).graph
    assert np.isfinite(run_in_onnxruntime(graph, feeds)[0]["y"]).all()
    assert not np.isfinite(Evaluator(rounding_graph(graph), threads=1).run(feeds[0])["y"]).any()


def test_a_rounding_graph_does_not_modify_its_original(graph_of, weights, feeds_for) -> None:
    graph = graph_of(CHAIN, w=weights(4, 4, 1, 1))
    graph = half_from_graph(graph, FP16).graph
    before = ir.to_proto(graph).SerializeToString()
    require_valid(rounding_graph(graph))
    assert ir.to_proto(graph).SerializeToString() == before


OPERATORS = {
    "Add": 2,
    "Clip": 1,
    "Exp": 1,
    "LeakyRelu": 1,
    "LogSoftmax": 1,
    "Mul": 2,
    "ReduceMax": 1,
    "ReduceMean": 1,
    "Sigmoid": 1,
    "Softmax": 1,
    "Sqrt": 1,
    "Sub": 2,
    "Tanh": 1,
    "Transpose": 1,
}


@st.composite
def texts(draw) -> str:
    """Draws a graph of a few operators, each of which reads earlier values."""
    lines, names = [], ["x", "w"]
    for number in range(draw(st.integers(1, 8))):
        operator = draw(st.sampled_from(sorted(OPERATORS)))
        read = [draw(st.sampled_from(names)) for _ in range(OPERATORS[operator])]
        if operator == "Sqrt":
            lines.append(f"p{number} = Abs ({read[0]})")
            read = [f"p{number}"]
        attributes = "<keepdims = 1>" if operator.startswith("Reduce") else ""
        lines.append(f"v{number} = {operator} {attributes} ({', '.join(read)})")
        names.append(f"v{number}")
    return f"g (float[4, 4] x) => (float[m, n] y) {{ {' '.join(lines)} y = Identity ({names[-1]}) }}"


@settings(max_examples=60, deadline=None)
@given(texts(), st.sampled_from([FP16, BF16]), st.sampled_from([0.01, 1.0, 8.0]))
def test_any_graph_stays_valid_and_nothing_in_it_overflows(
    graph_of, weights, calibrated, text, precision, size
) -> None:
    graph = graph_of(text, w=weights(4, 4))
    feeds = [{"x": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32) * np.float32(size)}]
    expected = [Evaluator(graph, threads=1).run(feeds[0])]
    if not all(np.isfinite(array).all() for array in expected[0].values()):
        return
    graph = half_from_graph(graph, precision, calibrated(graph, feeds).ranges).graph
    require_valid(graph)
    assert np.isfinite(Evaluator(rounding_graph(graph), threads=1).run(feeds[0])["y"]).all()


def test_bits_are_read_from_float32(calibrated, feeds_for):
    text = """<ir_version: 11, opset_import: ["" : 26]>
    g (float[2, 4] x) => (int32[2, 4] y) { r = Relu (x)  y = BitCast <to = 6> (r) }"""
    graph = ir.from_proto(onnx.parser.parse_model(text))
    done = half_from_graph(graph, FP16, calibrated(graph, feeds_for(graph, 2)).ranges)
    require_valid(done.graph)
    x = np.asarray([[0.5, 1, 2, 3], [4, 0, 0.25, 8]], np.float32)
    np.testing.assert_array_equal(Evaluator(done.graph).run({"x": x})["y"], x.view(np.int32))


def test_an_output_may_be_a_constant(calibrated, feeds_for):
    text = """<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 4] x) => (float[2, 4] y, float[2] k) { y = Relu (x)  k = Constant <value_floats = [1.0, 2.0]> () }"""
    graph = optimize(ir.from_proto(onnx.parser.parse_model(text)))
    done = half_from_graph(graph, FP16, calibrated(graph, feeds_for(graph, 2)).ranges)
    require_valid(done.graph)
    outputs = Evaluator(rounding_graph(done.graph)).run({"x": np.ones((2, 4), np.float32)})
    np.testing.assert_array_equal(outputs["k"], [1, 2])
