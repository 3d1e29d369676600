"""Attention in one operator of ONNX Runtime becomes ONNX's operators; the right values are computed here in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.load.onnx_file import graph_from_onnx

BATCH, LENGTH, KEYS, HEADS, WIDTH = 2, 5, 7, 2, 8
HIDDEN = -10000.0
RANDOM = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def right_attention(query, key, value, *, scale=None, added=0.0):
    """``(B, S, C)`` each; what is added to the scores broadcasts to ``(B, heads, S, T)``."""
    q, k, v = (
        each.astype(np.float64).reshape(BATCH, each.shape[1], HEADS, -1).transpose(0, 2, 1, 3)
        for each in (query, key, value)
    )
    scores = q @ k.transpose(0, 1, 3, 2) * (scale or q.shape[-1] ** -0.5) + added
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result = weights / weights.sum(-1, keepdims=True) @ v
    return result.transpose(0, 2, 1, 3).reshape(BATCH, query.shape[1], -1)


def model_of(operator, feeds, weights, names, **attributes):
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    node = helper.make_node(operator, names, ["y"], name="op", domain="com.microsoft", num_heads=HEADS, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, types[str(a.dtype)], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def decomposed(model, folder):
    onnx.save(model, folder / "m.onnx")
    graph = graph_from_onnx(folder / "m.onnx")
    if all(not node.domain for node in graph.graph):
        onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    return graph


LATER = np.triu(np.full((LENGTH, LENGTH), -np.inf), 1)
LENGTHS = np.array([3, 5], np.int32)
SHOWN = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], np.int32)
PAIRS = (RANDOM.random((BATCH, LENGTH, LENGTH)) < 0.6).astype(np.int32)
BIAS = random(BATCH, HEADS, LENGTH, LENGTH)

CASES = {
    "plain": ({}, {}, 0.0),
    "scale": ({}, {"scale": 0.2}, 0.0),
    "lengths": ({"mask": LENGTHS}, {}, HIDDEN * (np.arange(LENGTH) >= LENGTHS[:, None])[:, None, None]),
    "keys": ({"mask": SHOWN}, {}, HIDDEN * (SHOWN == 0)[:, None, None]),
    "hidden by -3": ({"mask": SHOWN}, {"mask_filter_value": -3.0}, -3.0 * (SHOWN == 0)[:, None, None]),
    "pairs": ({"mask": PAIRS}, {}, HIDDEN * (PAIRS == 0)[:, None]),
    "bias": ({"bias": BIAS}, {}, BIAS),
    "causal": ({}, {"unidirectional": 1}, LATER),
    "causal keys": ({"mask": SHOWN}, {"unidirectional": 1}, LATER + HIDDEN * (SHOWN == 0)[:, None, None]),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_attention_is_products_and_a_softmax(run_in_onnxruntime, tmp_path, case):
    more, attributes, added = CASES[case]
    x, w, b = random(BATCH, LENGTH, WIDTH), random(WIDTH, 3 * WIDTH) / 2, random(3 * WIDTH) / 2
    names = ["x", "w", "b", "mask" if "mask" in more else "", "", "bias" if "bias" in more else ""]
    feeds = {"x": x, **more}
    model = model_of("Attention", feeds, {"w": w, "b": b}, names, **attributes)
    right = right_attention(*np.split(x.astype(np.float64) @ w + b, 3, -1), scale=attributes.get("scale"), added=added)
    graph = decomposed(model, tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    assert [node.name for node in graph.graph if node.op_type == "MatMul"][0] == "op"
    np.testing.assert_allclose(run_in_onnxruntime(ir.to_proto(graph), feeds)[0], right, atol=1e-5)
    np.testing.assert_allclose(run_in_onnxruntime(model, feeds)[0], right, atol=1e-5)  # the formula is the operator's


def test_values_may_have_another_width(run_in_onnxruntime, tmp_path):
    x, w, b = random(BATCH, LENGTH, WIDTH), random(WIDTH, 20), random(20)
    model = model_of("Attention", {"x": x}, {"w": w, "b": b}, ["x", "w", "b"], qkv_hidden_sizes=[8, 8, 4])
    right = right_attention(*np.split(x.astype(np.float64) @ w + b, [8, 16], -1))
    graph = decomposed(model, tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    np.testing.assert_allclose(run_in_onnxruntime(ir.to_proto(graph), {"x": x})[0], right, atol=1e-5)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_to_other_keys(run_in_onnxruntime, tmp_path, mask, bias):
    feeds = {"q": random(BATCH, LENGTH, WIDTH), "k": random(BATCH, KEYS, WIDTH), "v": random(BATCH, KEYS, WIDTH)}
    b, shown = random(3 * WIDTH), np.array([[1, 1, 1, 1, 0, 0, 0], [1] * KEYS], np.int32)
    names = ["q", "k", "v", "b" if bias else "", "mask" if mask else ""]
    given = {**feeds, **({"mask": shown} if mask else {})}
    model = model_of("MultiHeadAttention", given, {"b": b} if bias else {}, names)
    factors = [each + part * bias for each, part in zip(feeds.values(), np.split(b, 3), strict=True)]
    right = right_attention(*factors, added=HIDDEN * (shown == 0)[:, None, None] * mask)
    graph = decomposed(model, tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    np.testing.assert_allclose(run_in_onnxruntime(ir.to_proto(graph), given)[0], right, atol=1e-5)


def by_head(rows):
    return rows.reshape(BATCH, rows.shape[1], HEADS, -1).transpose(0, 2, 1, 3)


def joined(rows):
    return rows.transpose(0, 2, 1, 3).reshape(BATCH, rows.shape[2], -1)


@pytest.mark.parametrize("causal", [False, True])
def test_packed_attention_to_keys_of_before(run_in_onnxruntime, tmp_path, causal):
    x, w, b = random(BATCH, LENGTH, WIDTH), random(WIDTH, 3 * WIDTH), random(3 * WIDTH)
    past = random(2, BATCH, HEADS, 3, WIDTH // HEADS)
    feeds = {"x": x, "past": past}
    model = model_of("Attention", feeds, {"w": w, "b": b}, ["x", "w", "b", "", "past"], unidirectional=int(causal))
    model.graph.node[0].output.append("present")
    model.graph.output.append(helper.make_tensor_value_info("present", TensorProto.FLOAT, None))
    query, *new = np.split(x.astype(np.float64) @ w + b, 3, -1)
    present = [np.concatenate([old, by_head(each)], 2) for old, each in zip(past, new, strict=True)]
    added = np.triu(np.full((LENGTH, LENGTH + 3), -np.inf), 4) if causal else 0.0
    right = right_attention(query, *map(joined, present), added=added)
    graph = decomposed(model, tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    for each in (model, ir.to_proto(graph)):
        got = run_in_onnxruntime(each, feeds)
        np.testing.assert_allclose(got[0], right, atol=1e-5)
        np.testing.assert_allclose(got[1], np.stack(present), atol=1e-5)


@pytest.mark.parametrize("past", [False, True])
def test_keys_and_values_are_kept_for_the_next_step(run_in_onnxruntime, tmp_path, past):
    feeds = {name: random(BATCH, LENGTH, WIDTH) for name in ("q", "k", "v")}
    b = random(3 * WIDTH)
    old = [random(BATCH, HEADS, 3, WIDTH // HEADS)[:, :, : 3 * past] for _ in range(2)]
    if past:
        feeds |= {"old_k": old[0], "old_v": old[1]}
    names = ["q", "k", "v", "b", *(["", "", "old_k", "old_v"] if past else [])]
    model = model_of("MultiHeadAttention", feeds, {"b": b}, names)
    model.graph.node[0].output.extend(["keys", "values"])
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("keys", "values"))
    biased = [feeds[name] + part for name, part in zip("qkv", np.split(b, 3), strict=True)]
    kept = [np.concatenate([before, by_head(each)], 2) for before, each in zip(old, biased[1:], strict=True)]
    right = right_attention(biased[0], *map(joined, kept))
    graph = decomposed(model, tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    for each in (model, ir.to_proto(graph)):
        for got, expected in zip(run_in_onnxruntime(each, feeds), (right, *kept), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_keys_and_values_of_an_encoder_are_given_by_heads(run_in_onnxruntime, tmp_path, bias):
    feeds = {
        "q": random(BATCH, LENGTH, WIDTH),
        **{name: random(BATCH, HEADS, KEYS, WIDTH // HEADS) for name in ("k", "v")},
    }
    b = random(3 * WIDTH)
    model = model_of("MultiHeadAttention", feeds, {"b": b} if bias else {}, ["q", "k", "v", "b" if bias else ""])
    right = right_attention(feeds["q"] + bias * b[:WIDTH], joined(feeds["k"]), joined(feeds["v"]))
    graph = decomposed(model, tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    for each in (model, ir.to_proto(graph)):  # of a bias, only the part of the queries is added
        np.testing.assert_allclose(run_in_onnxruntime(each, feeds)[0], right, atol=1e-5)


@pytest.mark.parametrize("packed", ["all", "keys and values"])
def test_factors_may_be_one_tensor(run_in_onnxruntime, tmp_path, packed):
    """ONNX Runtime has kernels for these on GPUs alone."""
    factors = [random(BATCH, LENGTH, HEADS, WIDTH // HEADS) for _ in range(3)]
    right = right_attention(*(each.reshape(BATCH, LENGTH, WIDTH) for each in factors))
    if packed == "all":
        feeds = {"qkv": np.stack(factors, 3)}
    else:
        feeds = {"q": factors[0].reshape(BATCH, LENGTH, WIDTH), "kv": np.stack(factors[1:], 3)}
    graph = decomposed(model_of("MultiHeadAttention", feeds, {}, list(feeds)), tmp_path)
    assert {node.domain for node in graph.graph} == {""}
    np.testing.assert_allclose(run_in_onnxruntime(ir.to_proto(graph), feeds)[0], right, atol=1e-5)


def test_a_mask_of_start_and_end_stays(tmp_path):
    x, w, b = random(BATCH, LENGTH, WIDTH), random(WIDTH, 3 * WIDTH), random(3 * WIDTH)
    feeds = {"x": x, "limits": np.array([5, 5, 0, 1], np.int32)}
    graph = decomposed(model_of("Attention", feeds, {"w": w, "b": b}, ["x", "w", "b", "limits"]), tmp_path)
    assert [node.op_type for node in graph.graph if node.domain] == ["Attention"]
