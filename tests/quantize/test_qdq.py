from __future__ import annotations

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.engine.backend import backend
from edgekit.errors import CalibrationError
from edgekit.graph.insert import zero_point
from edgekit.quantize.plan import plan_from_graph
from edgekit.quantize.qdq import insert_qdq, parameters_from_range, weight_scales
from edgekit.quantize.quantize import quantized_from_graph
from edgekit.specs import QuantScheme

CPU = msgspec.structs.replace(backend("cpu").scheme(), weight_bits=8, stem_channels=0)
TENSORRT = QuantScheme(
    activation_dtype="int8",
    operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    fused_activations=frozenset({"LeakyRelu", "Relu", "Clip"}),
)

below = st.floats(-(2.0**127), 0.0, width=32)
above = st.floats(0.0, 2.0**127, width=32)


@settings(max_examples=300, deadline=None)
@given(lo=below, hi=above)
@example(lo=0.0, hi=0.0)
@example(lo=-0.0, hi=1e-45)
@example(lo=0.0, hi=6.0)
@example(lo=-1.0, hi=1.0)
def test_uint8_has_zero_and_reaches_both_ends_within_half_a_step(lo, hi):
    how = parameters_from_range(lo, hi, "uint8")
    assert how.scale.dtype == np.float32 and how.scale > 0 and np.isfinite(how.scale)
    assert how.zero_point.dtype == np.uint8 and how.zero_point.shape == ()
    scale, zero = float(how.scale), int(how.zero_point)
    for end in (lo, hi):
        nearest = np.clip(round(end / scale) + zero, 0, 255)
        assert abs(scale * (nearest - zero) - end) <= scale * 0.5001
    if hi - lo > 1e-17:  # and all integers are used
        assert scale * 255 == pytest.approx(hi - lo, rel=1e-6)
    # The integers do not exceed a range from zero: only then does ONNX Runtime remove a Clip.
    if lo == 0 and hi > 1e-17:
        assert zero == 0 and np.float32(np.float32(255) * how.scale) <= hi


@settings(max_examples=300, deadline=None)
@given(lo=below, hi=above)
@example(lo=0.0, hi=0.0)
@example(lo=-1e-45, hi=0.0)
def test_int8_is_symmetric_and_reaches_both_ends(lo, hi):
    how = parameters_from_range(lo, hi, "int8")
    assert how.zero_point.dtype == np.int8 and how.zero_point == 0
    assert how.scale > 0 and np.isfinite(how.scale)
    reach, largest = 127 * float(how.scale), max(-lo, hi)
    assert largest <= reach * (1 + 1e-6)
    if largest > 1e-17:
        assert reach <= largest


@settings(max_examples=50, deadline=None)
@given(factor=st.floats(1e-6, 1e6), bits=st.sampled_from([7, 8]))
def test_the_largest_weight_of_a_channel_gets_the_largest_integer(factor, bits):
    weight = np.random.default_rng(0).standard_normal((4, 3, 2)) * factor
    for axis in range(3):
        scales = weight_scales(weight, axis, bits)
        others = tuple(a for a in range(3) if a != axis)
        np.testing.assert_allclose(scales * (2 ** (bits - 1) - 1), np.abs(weight).max(others))
    assert weight_scales(weight, None, bits) == pytest.approx(np.abs(weight).max() / (2 ** (bits - 1) - 1))


def test_channels_of_zeros_or_of_next_to_nothing_have_a_scale_that_can_be_divided_by():
    weight = np.array([[0.0, 0.0], [1e-44, 0.0], [1.0, -2.0]], np.float32)
    scales = weight_scales(weight, 0, 8).astype(np.float32)
    assert (scales > 1e-20).all()
    np.testing.assert_array_equal(np.rint(weight / scales[:, None])[:2], 0)


PRODUCTS = {
    "Conv": ("(float[1, 4, 8, 8] x) => (float[1, 6, 6, 6] y) { y = Conv (x, w, b) }", (6, 4, 3, 3), 0, 6),
    "depthwise Conv": (
        "(float[1, 4, 8, 8] x) => (float[1, 8, 6, 6] y) { y = Conv <group = 4> (x, w, b) }",
        (8, 1, 3, 3),
        0,
        8,
    ),
    "ConvTranspose": (
        "(float[1, 4, 8, 8] x) => (float[1, 6, 10, 10] y) { y = ConvTranspose (x, w, b) }",
        (4, 6, 3, 3),
        1,
        6,
    ),
    "Gemm": ("(float[5, 4] x) => (float[5, 6] y) { y = Gemm (x, w, b) }", (4, 6), 1, 6),
    "Gemm transB": ("(float[5, 4] x) => (float[5, 6] y) { y = Gemm <transB = 1> (x, w, b) }", (6, 4), 0, 6),
    "MatMul": ("(float[5, 4] x) => (float[5, 6] y) { p = MatMul (x, w)  y = Add (p, b) }", (4, 6), 1, 6),
    "stacked MatMul": (
        "(float[2, 5, 4] x) => (float[2, 5, 6] y) { p = MatMul (x, w)  y = Add (p, b) }",
        (2, 4, 6),
        None,
        6,
    ),
}


@pytest.fixture
def product(graph_of, weights):
    def build(kind):
        text, shape, axis, channels = PRODUCTS[kind]
        array = weights(*shape)
        if axis is not None:  # channels of very different size
            array = array * (10.0 ** np.arange(channels)).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        array = array.astype(np.float32)
        return graph_of(f"g {text}", w=array, b=weights(channels, 1).ravel()), array, axis

    return build


def dequantized_weight(
    run_in_onnxruntime, graph, feeds, op_types=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
):
    """Returns the integers of the product's weight, its scales, and the dequantized weight from ONNX Runtime."""
    (node,) = [node for node in graph.graph if node.op_type in op_types]
    dequantize = node.inputs[1].producer()
    integers, scales = (value.const_value.numpy() for value in dequantize.inputs[:2])
    graph.graph.outputs.append(node.inputs[1])
    return integers, scales, run_in_onnxruntime(graph, feeds[:1])[0][node.inputs[1].name]


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("float_bias", [False, True], ids=["int32 bias", "float bias"])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_weights_are_within_a_step(
    product, feeds_for, calibrated, run_in_onnxruntime, kind, bits, per_channel, float_bias
):
    graph, array, axis = product(kind)
    scheme = msgspec.structs.replace(
        CPU,
        operators=CPU.operators | {"ConvTranspose"},
        weight_bits=bits,
        per_channel_weights=per_channel,
        float_bias=float_bias,
    )
    feeds = feeds_for(graph)
    graph = quantized_from_graph(graph, calibrated(graph, feeds), scheme).graph
    integers, scales, restored = dequantized_weight(run_in_onnxruntime, graph, feeds)
    assert integers.dtype == np.int8 and np.abs(integers).max() == 2 ** (bits - 1) - 1
    if per_channel and axis is not None:
        assert scales.shape == (array.shape[axis],)
        scales = scales.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    else:
        assert scales.shape == ()
    errors = (restored - array) / scales
    if "Conv" in kind and kind != "ConvTranspose":  # rounded so that a kernel's errors cancel
        assert (np.abs(errors) <= 1.001).all()
        assert (np.abs(errors.sum((2, 3))) <= 0.51 + 1e-3 * (2 ** (bits - 1))).all()
    else:
        assert (np.abs(errors) <= 0.501).all()


@pytest.mark.parametrize("scheme", [CPU, TENSORRT], ids=["cpu", "TensorRT"])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_quantized_products_match_the_float_ones(
    product, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, kind, scheme
):
    graph, _, _ = product(kind)
    scheme = msgspec.structs.replace(scheme, operators=scheme.operators | {"ConvTranspose"})
    feeds = feeds_for(graph)
    exact = run_in_onnxruntime(graph, feeds)
    graph = quantized_from_graph(graph, calibrated(graph, feeds), scheme).graph
    assert sqnr_db(exact, run_in_onnxruntime(graph, feeds))["y"] > 30


@pytest.mark.parametrize("float_bias", [False, True], ids=["int32 bias", "float bias"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-20, 1e-9])
def test_a_large_bias_is_preserved_with_tiny_weights(
    graph_of, weights, feeds_for, calibrated, run_in_onnxruntime, size, per_channel, float_bias
):
    kernels = weights(3, 4, 3, 3) * np.array([size, 1, size], np.float32).reshape(-1, 1, 1, 1)
    biases = np.array([1000, 0, -0.001], np.float32)
    graph = graph_of("g (float[1, 4, 8, 8] x) => (float[1, 3, 6, 6] y) { y = Conv (x, w, b) }", w=kernels, b=biases)
    scheme = msgspec.structs.replace(
        TENSORRT, activation_dtype="uint8", per_channel_weights=per_channel, float_bias=float_bias
    )
    feeds = feeds_for(graph)
    (exact, *_) = run_in_onnxruntime(graph, feeds)
    graph = quantized_from_graph(graph, calibrated(graph, feeds), scheme).graph
    (got, *_) = run_in_onnxruntime(graph, feeds)
    np.testing.assert_allclose(got["y"][:, 0], exact["y"][:, 0], rtol=1e-3)
    np.testing.assert_allclose(got["y"][:, 2], exact["y"][:, 2], atol=1e-4)


def test_float_weights_are_removed_and_the_graph_is_valid(product, feeds_for, calibrated):
    graph, _, _ = product("Conv")
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), CPU).graph
    assert not {"w", "b"} & set(graph.graph.initializers)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert {tensor.data_type for tensor in proto.graph.initializer if tensor.dims and np.prod(tensor.dims) > 6} == {
        onnx.TensorProto.INT8
    }


@pytest.mark.parametrize("scheme", [CPU, TENSORRT], ids=["uint8", "int8"])
def test_equal_zero_points_are_one_constant_of_the_graph(graph_of, weights, feeds_for, calibrated, scheme):
    layers = "".join(f"a{i} = Conv (a{i - 1}, w{i})  " for i in range(2, 9))
    text = f"g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {{ a1 = Conv (x, w1)  {layers} y = Conv (a8, w9) }}"
    graph = graph_of(text, **{f"w{i}": weights(4, 4, 1, 1) for i in range(1, 10)})
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), scheme).graph
    read = {node.inputs[2] for node in graph.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")} - {None}
    arrays = [value.const_value.numpy() for value in read]
    assert len(read) == len({(array.dtype, array.shape, array.tobytes()) for array in arrays})
    assert len([array for array in arrays if array.shape]) == 1


@pytest.mark.parametrize("taken", [np.ones(4, np.int8), np.zeros(4, np.uint8), np.zeros(3, np.int8), np.float32(0)])
def test_a_constant_of_the_model_is_no_zero_point_because_of_its_name(graph_of, taken):
    graph = graph_of("g (float[1] x) => (float[1] y) { y = Relu (x) }", zero_point_int8_4_0=taken)
    found = zero_point(graph, np.int8, (4,), 0).const_value.numpy()
    assert found.dtype == np.int8 and found.tolist() == [0, 0, 0, 0]


def test_outputs_keep_their_names_and_order(graph_of, weights, feeds_for, calibrated, run_in_onnxruntime, sqnr_db):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] z, float[1, 4, 6, 6] y, float[1, 4, 8, 8] p) {
        y = Conv (x, w)  z = LeakyRelu (y)  p = Conv (x, v) }"""
    graph = graph_of(text, w=weights(4, 4, 3, 3), v=weights(4, 4, 1, 1))
    feeds = feeds_for(graph)
    exact = run_in_onnxruntime(graph, feeds)
    graph = quantized_from_graph(graph, calibrated(graph, feeds), CPU).graph
    got = run_in_onnxruntime(graph, feeds)
    assert [list(arrays) for arrays in got] == [["z", "y", "p"]] * len(feeds)
    assert min(sqnr_db(exact, got).values()) > 30


def test_shared_weights_and_biases_are_quantized_for_each_reader(
    graph_of, weights, feeds_for, calibrated, run_in_onnxruntime, sqnr_db
):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y, float[1, 4, 6, 6] z) {
        a = Conv (x, w, b)  y = Conv (a, w, b)  n = Softmax <axis = 1> (x)  z = Conv (n, w, b) }"""
    graph = graph_of(text, w=weights(4, 4, 3, 3), b=10 * weights(4, 1).ravel())
    feeds = feeds_for(graph)
    exact = run_in_onnxruntime(graph, feeds)
    graph = quantized_from_graph(graph, calibrated(graph, feeds), CPU).graph
    names = [name for name in graph.graph.initializers if name.startswith("b") and name.endswith("quantized")]
    assert len(names) == 3
    assert min(sqnr_db(exact, run_in_onnxruntime(graph, feeds)).values()) > 25


@pytest.mark.parametrize("taken", ["a_scale", "a_zero_point", "a_quantized", "w_scale", "x_dequantized"])
def test_new_names_do_not_collide_with_existing_names(
    graph_of, weights, feeds_for, calibrated, run_in_onnxruntime, sqnr_db, taken
):
    text = f"""g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) {{
        a = Conv (x, w, {taken})  t = Conv (a, w)  y = Mul (t, {taken}_of) }}"""
    own = {taken: weights(4, 1).ravel(), f"{taken}_of": np.float32(2)}
    graph = graph_of(text, w=weights(4, 4, 3, 3), **own)
    feeds = feeds_for(graph)
    exact = run_in_onnxruntime(graph, feeds)
    graph = quantized_from_graph(graph, calibrated(graph, feeds), CPU).graph
    assert sqnr_db(exact, run_in_onnxruntime(graph, feeds))["y"] > 25
    for named in (graph.graph, [value for node in graph.graph for value in node.outputs]):
        names = [item.name for item in named]
        assert len(names) == len(set(names))


def test_activations_are_symmetric_int8_with_pairs_at_inputs_only_for_tensorrt(
    graph_of, weights, feeds_for, calibrated
):
    text = """g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) {
        a = Conv (x, w)  r = LeakyRelu (a)  y = Conv (r, w) }"""
    graph = graph_of(text, w=weights(4, 4, 3, 3))
    graph = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), TENSORRT).graph
    quantizes = [node for node in graph.graph if node.op_type == "QuantizeLinear"]
    assert [node.inputs[0].name for node in quantizes] == ["x", "r"]
    for node in quantizes:
        zero = node.inputs[2].const_value.numpy()
        assert zero.dtype == np.int8 and zero == 0


def test_error_on_a_tensor_without_a_range(graph_of, weights):
    text = "g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) { a = Conv (x, w)  y = Conv (a, w) }"
    graph = graph_of(text, w=weights(4, 4, 3, 3))
    with pytest.raises(CalibrationError, match="no range was measured for tensor 'a'"):
        insert_qdq(graph, plan_from_graph(graph, TENSORRT), {"x": (-1.0, 1.0)}, TENSORRT)
