"""Where pairs stand around attention on integers, and what they do to results."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import backend
from edgekit.graph.passes import optimize
from edgekit.quantize.calibrate.collect import CalibrationTable, observed_tensors
from edgekit.quantize.integer_attention import part_source
from edgekit.quantize.plan import QuantPolicy, plan_from_graph
from edgekit.quantize.quantize import quantized_from_graph
from tests.decibels import signal_to_noise_db

KEYS, SIZE, WIDTH = 48, 8, 16
SCHEME = msgspec.structs.replace(backend("openvino").scheme(), attention_keys=KEYS)
OPSETS = pytest.mark.parametrize("opset", [13, 17, 18, 19, 21])

PACKED = """g (float[1, {keys}, {width}] x) => (float[1, {keys}, {width}] y)
    <int64[5] split = {{1, {keys}, 3, 2, {size}}}, int64[3] merge = {{1, {keys}, {width}}}, int64[1] first = {{0}}> {{
    packed = MatMul (x, wqkv)
    five = Reshape (packed, split)
    turned = Transpose <perm = [2, 0, 3, 1, 4]> (five)
    q1, k1, v1 = Split <axis = 0{parts}> (turned)
    q2 = Squeeze (q1, first)  k = Squeeze (k1, first)  v = Squeeze (v1, first)
    q = Mul (q2, root)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    scores = MatMul (q, kt)
    weights = Softmax <axis = -1> (scores)
    mean = MatMul (weights, v)
    back = Transpose <perm = [0, 2, 1, 3]> (mean)
    merged = Reshape (back, merge)
    y = MatMul (merged, wo)
}}"""


@pytest.fixture
def attention(weights):
    def build(opset=20, keys=KEYS, **more):
        text = PACKED.format(keys=keys, size=SIZE, width=WIDTH, parts=", num_outputs = 3" if opset >= 18 else "")
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
        arrays = {"wqkv": weights(WIDTH, 3 * WIDTH), "wo": weights(WIDTH, WIDTH, seed=1), "root": np.float32(0.35)}
        arrays["wqkv"][:, -WIDTH:] *= 0.1  # values are much smaller than queries and keys
        for name, array in (arrays | more).items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        onnx.checker.check_model(proto)
        return optimize(ir.from_proto(proto))

    return build


def pairs_of(graph):
    """Returns the element types of the pairs, by the name of the tensor that is quantized."""
    quantized = (node for node in graph.graph if node.op_type == "QuantizeLinear")
    return {node.inputs[0].name: node.inputs[2].const_value.dtype.name for node in quantized}


@OPSETS
def test_queries_keys_and_values_are_signed_and_weights_are_not(attention, calibrated, feeds_for, opset):
    graph = attention(opset)
    quantized, plan, *_ = quantized_from_graph(graph, calibrated(graph, feeds_for(graph)), SCHEME)
    assert pairs_of(quantized) == {
        "x": "UINT8", "q": "INT8", "k": "INT8", "v": "INT8", "weights": "UINT8", "merged": "UINT8",
    }  # fmt: skip
    assert not plan.skipped
    scores = next(node for node in quantized.graph if node.name == "scores")
    turn = scores.inputs[1].producer()
    assert turn.op_type == "Transpose" and turn.inputs[0].producer().op_type == "DequantizeLinear"


@OPSETS
def test_the_quantized_graph_agrees_with_the_float_graph(attention, calibrated, feeds_for, run_in_onnxruntime, opset):
    graph = attention(opset)
    feeds = feeds_for(graph)
    quantized = quantized_from_graph(graph, calibrated(graph, feeds), SCHEME, feeds=feeds).graph
    expected, got = (run_in_onnxruntime(each, feeds) for each in (graph, quantized))
    assert signal_to_noise_db([each["y"] for each in expected], [each["y"] for each in got]) > 25


def test_parts_of_one_tensor_have_ranges_of_their_own(attention, calibrated, feeds_for, run_in_onnxruntime):
    graph = attention()
    feeds = feeds_for(graph)
    assert {"k1", "v1"} <= {value.name for value in observed_tensors(graph)}
    x = np.concatenate([feed["x"] for feed in feeds])
    largest = np.abs(x @ graph.graph.initializers["wqkv"].const_value.numpy()).reshape(-1, 3, WIDTH).max((0, 2))
    quantized = quantized_from_graph(graph, calibrated(graph, feeds), SCHEME).graph
    scales = {
        node.inputs[0].name: float(node.inputs[1].const_value.numpy())
        for node in quantized.graph
        if node.op_type == "QuantizeLinear"
    }
    assert scales["k"] == pytest.approx(largest[1] / 127, rel=1e-5)
    assert scales["v"] == pytest.approx(largest[2] / 127, rel=1e-5)
    assert largest[2] < 0.3 * largest[1]


def test_the_part_of_a_tensor_is_found_through_reshapes(attention):
    values = {value.name: value for node in attention().graph for value in node.outputs}
    assert part_source(values["k"]).name == "k1" and part_source(values["merged"]).name == "mean"


def test_few_keys_stay_in_float(attention):
    plan = plan_from_graph(attention(keys=KEYS - 1), SCHEME)
    assert plan.skipped.keys() == {"scores", "mean"} and not plan.signed


def test_few_queries_stay_in_float(attention):
    few, enough = (msgspec.structs.replace(SCHEME, attention_queries=queries) for queries in (KEYS + 1, KEYS))
    assert plan_from_graph(attention(), few).skipped.keys() == {"scores", "mean"}
    assert plan_from_graph(attention(), enough).signed


@pytest.mark.parametrize("kept", ["scores", "mean"])
def test_an_attention_with_one_product_in_float_is_in_float(attention, kept):
    plan = plan_from_graph(attention(), SCHEME, QuantPolicy((kept,)))
    assert plan.skipped.keys() == {"scores", "mean"} and plan.skipped[kept] == f"kept by '{kept}'"


@pytest.mark.parametrize(
    "policy", [QuantPolicy(refused=frozenset({"mean"})), QuantPolicy(noisy_attention=frozenset({"mean"}))]
)
def test_a_refused_or_noisy_attention_is_in_float(attention, policy):
    assert plan_from_graph(attention(), SCHEME, policy).skipped.keys() == {"scores", "mean"}


def test_a_table_of_an_earlier_format_is_not_taken(tmp_path, attention):
    from edgekit.quantize.calibrate.table import cached_table, keep_table

    key = {"graph_digest": "g", "set_digest": "s", "method": "minmax"}
    table = CalibrationTable(**key, set="", images=1, ranges={"x": (0.0, 1.0)})
    keep_table(msgspec.structs.replace(table, format=1), tmp_path)
    assert cached_table(tmp_path, **key) is None
    keep_table(table, tmp_path)
    assert cached_table(tmp_path, **key) == table
