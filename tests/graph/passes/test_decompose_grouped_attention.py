"""Attention with a cache in one operator of ONNX Runtime; the right values are computed here in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize

HEADS, SHARED, WIDTH = 4, 2, 16
RANDOM = np.random.default_rng(0)
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def turned(rows, places, cosines, sines, interleaved):
    """Rotates ``(heads, S, D)``, pair by pair: each pair of channels is a complex number."""
    half = cosines.shape[1]
    result = rows.copy()
    for pair in range(half):
        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        number = rows[..., first] + 1j * rows[..., second]
        number = number * (cosines[places, pair] + 1j * sines[places, pair])
        result[..., first], result[..., second] = number.real, number.imag
    return result


def right(case, feeds, tables):
    """Computes sequence by sequence, query by query, with a list of keys that grows."""
    new = case["new"]
    past = feeds["past_key"].shape[2] if "past_key" in feeds else 0
    total = int(feeds["total"][0])
    results, keys_out, values_out = [], [], []
    for row, last in enumerate(feeds["lengths"]):
        used = 0 if total == new else int(last) + 1 - new
        joined = np.concatenate([feeds[name][row] for name in ("q", "k", "v") if name in feeds], -1).astype(np.float64)
        by_head = joined.reshape(new, -1, WIDTH).transpose(1, 0, 2)
        query, key, value = np.split(by_head, [HEADS, HEADS + SHARED])
        places = feeds["places"][row] if "places" in feeds else used + np.arange(new)
        if tables:
            angles = (*tables.values(), case.get("rotary_interleaved", 0))
            query, key = turned(query, places, *angles), turned(key, places, *angles)
        key, value = (
            np.concatenate([feeds[name][row][:, :used].astype(np.float64), each], 1) if past else each
            for name, each in (("past_key", key), ("past_value", value))
        )
        out = np.zeros((new, HEADS, WIDTH))
        for place in range(new):
            first = max(0, used + place + 1 - case.get("local_window_size", 1000))
            for head in range(HEADS):
                group = head // (HEADS // SHARED)
                end = min(used + place, int(last)) + 1  # behind the end of a shorter prompt, nothing is visible
                if first >= end:
                    continue
                scores = key[group, first:end] @ query[head, place] * case.get("scale", WIDTH**-0.5)
                if limit := case.get("softcap", 0):
                    scores = limit * np.tanh(scores / limit)
                weights = np.exp(scores - scores.max())
                out[place, head] = weights / weights.sum() @ value[group, first:end]
        results.append(out.reshape(new, -1))
        rest = [(0, 0), (0, max(total, past) - key.shape[1]), (0, 0)]
        keys_out.append(np.pad(key, rest))
        values_out.append(np.pad(value, rest))
    return [np.stack(each) for each in (results, keys_out, values_out)]


CASES = {
    "a step": {"new": 1, "past": 5},
    "a part of a prompt": {"new": 3, "past": 5, "scale": 0.3},
    "a prompt": {"new": 4, "past": 0, "batch": 2},
    "a prompt without a cache": {"new": 4, "past": None, "batch": 2},
    "sequences of two lengths": {"new": 1, "past": 5, "batch": 2, "lengths": [3, 5], "do_rotary": 1},
    "a cache with free places": {"new": 2, "past": 9, "total": 6, "lengths": [5]},
    "a prompt into a cache": {"new": 4, "past": 9, "total": 4, "lengths": [3]},
    "fewer keys than places": {"new": 1, "past": 9, "lengths": [5], "do_rotary": 1},
    "one tensor": {"new": 3, "past": 5, "packed": True, "do_rotary": 1},
    "rotated": {"new": 3, "past": 5, "do_rotary": 1},
    "rotated neighbours": {"new": 3, "past": 5, "do_rotary": 1, "rotary_interleaved": 1},
    "places are given": {"new": 3, "past": 5, "do_rotary": 1, "places": True},
    "a window": {"new": 6, "past": 5, "local_window_size": 4},
    "prompts of two lengths": {"new": 4, "past": 0, "batch": 2, "lengths": [1, 3], "do_rotary": 1},
    "prompts of two lengths with a window": {
        "new": 6,
        "past": 0,
        "batch": 2,
        "lengths": [1, 3],
        "local_window_size": 2,
    },
    "a short prompt into a cache": {"new": 4, "past": 9, "total": 4, "lengths": [1]},
    "soft bounds": {"new": 3, "past": 5, "softcap": 2.0},
}


def model_and_feeds(case, *, dynamic):
    new, past, batch = case["new"], case["past"], case.get("batch", 1)
    total = case.get("total", new + (past or 0))
    columns = {"q": HEADS + 2 * SHARED} if case.get("packed") else {"q": HEADS, "k": SHARED, "v": SHARED}
    feeds = {name: random(batch, new, heads * WIDTH) for name, heads in columns.items()}
    if past is not None:
        feeds |= {name: random(batch, SHARED, past, WIDTH) for name in ("past_key", "past_value")}
    feeds["lengths"] = np.array(case.get("lengths", [total - 1] * batch), np.int32)
    feeds["total"] = np.array([total], np.int32)
    names = [each if each in feeds else "" for each in ("q", "k", "v", "past_key", "past_value", "lengths", "total")]
    tables = {}
    if case.get("do_rotary"):
        angles = RANDOM.uniform(0, 6, (32, WIDTH // 2))
        tables = {"cosines": np.cos(angles).astype(np.float32), "sines": np.sin(angles).astype(np.float32)}
        names += list(tables)
    if case.get("places"):
        feeds["places"] = RANDOM.integers(0, 32, (batch, new))
        names.append("places")
    attributes = {name: case[name] for name in case.keys() & OPTIONS}
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["y", "keys", "values"],
        name="op",
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=SHARED,
        **attributes,
    )
    open_axes = {"q": (0, 1), "k": (0, 1), "v": (0, 1), "past_key": (0, 2), "past_value": (0, 2), "lengths": (0,)}
    shapes = {
        name: [f"{name}{i}" if dynamic and i in open_axes.get(name, ()) else n for i, n in enumerate(array.shape)]
        for name, array in feeds.items()
    }
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, TYPES[str(a.dtype)], shapes[n]) for n, a in feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "keys", "values")],
        [numpy_helper.from_array(array, name) for name, array in tables.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds, tables


OPTIONS = {"scale", "do_rotary", "rotary_interleaved", "local_window_size", "softcap"}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_attention_with_a_cache_becomes_products(run_in_onnxruntime, tmp_path, case, dynamic):
    model, feeds, tables = model_and_feeds(CASES[case], dynamic=dynamic)
    onnx.save(model, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    assert {node.domain for node in graph.graph} == {""}
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    expected = right(CASES[case], feeds, tables)
    optimized = optimize(graph.clone())
    for each in (model, ir.to_proto(graph), ir.to_proto(optimized)):  # the formula is the operator's, too
        for got, value in zip(run_in_onnxruntime(each, feeds), expected, strict=True):
            np.testing.assert_allclose(got, value, atol=1e-5)


def test_a_bias_of_the_scores_stays_in_the_operator(tmp_path):
    model, _, _ = model_and_feeds(CASES["a part of a prompt"], dynamic=False)
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1, HEADS, 3, 8]))
    model.graph.node[0].input.extend(["", "", "", "bias"])
    onnx.save(model, tmp_path / "m.onnx")
    assert [n.op_type for n in graph_from_onnx(tmp_path / "m.onnx").graph if n.domain] == ["GroupQueryAttention"]


FORMS = {
    "three dimensions": ((2, 5, 32), {}, 8),
    "heads": ((2, 2, 5, 16), {}, 8),
    "neighbours": ((2, 5, 32), {"interleaved": 1}, 8),
    "the first channels": ((2, 5, 32), {"rotary_embedding_dim": 8, "num_heads": 2}, 4),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_rotary_embeddings_become_products(run_in_onnxruntime, tmp_path, form, first):
    shape, attributes, half = FORMS[form]
    angles = RANDOM.uniform(0, 6, (32, half))
    tables = [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
    feeds = {"x": random(*shape), "places": np.array([7]) if first else RANDOM.integers(0, 32, (2, 5))}
    graph = helper.make_graph(
        [helper.make_node("RotaryEmbedding", ["x", "places", "c", "s"], ["y"], domain="com.microsoft", **attributes)],
        "g",
        [helper.make_tensor_value_info(name, TYPES[str(each.dtype)], each.shape) for name, each in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(each, name) for name, each in zip("cs", tables, strict=True)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    replaced = graph_from_onnx(tmp_path / "m.onnx")
    assert {node.domain for node in replaced.graph} == {""}
    places = np.broadcast_to(7 + np.arange(5), (2, 5)) if first else feeds["places"]
    rows = feeds["x"].astype(np.float64)
    rows = rows if len(shape) == 4 else rows.reshape(2, 5, 2, 16).transpose(0, 2, 1, 3)
    expected = np.stack(
        [turned(each, own, *tables, attributes.get("interleaved", 0)) for each, own in zip(rows, places, strict=True)]
    )
    expected = expected if len(shape) == 4 else expected.transpose(0, 2, 1, 3).reshape(shape)
    for each in (model, ir.to_proto(replaced)):
        np.testing.assert_allclose(run_in_onnxruntime(each, feeds)[0], expected, atol=1e-5)
