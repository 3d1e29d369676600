"""`MoveNanGuard`, `ScaleQueries` and `AddWindowMasks`, each alone and as part of `optimize`."""

from __future__ import annotations

from collections.abc import Callable

import attention_graphs as small
import numpy as np
import onnx
import onnx_ir as ir
import openvino
import pytest

from edgekit.graph.attention import find_attention
from edgekit.graph.passes import AddWindowMasks, MoveNanGuard, RemoveDead, ScaleQueries, optimize

Run = Callable[[ir.Model | onnx.ModelProto, dict[str, np.ndarray]], list[np.ndarray]]

GUARDED = (
    f"{small.TURNED}\n qs = Mul(qh, scale)\n dots = MatMul(qs, kt)\n mask = Where(m, zero, minus)\n"
    " scores = Add(dots, mask)\n p = Softmax<axis = -1>(scores)\n nan = IsNaN(p)\n weights = Where(nan, zero, p)"
)


def operators(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def applied(model: onnx.ModelProto, one: ir.passes.InPlacePass) -> ir.Model:
    graph = ir.from_proto(model)
    assert one(graph).modified
    assert not one(graph).modified
    RemoveDead()(graph)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    return graph


def visible(batch: int = small.BATCH, queries: int = small.QUERIES, keys: int = small.KEYS) -> np.ndarray:
    """A mask in which the first query sees nothing, and the second one key."""
    mask = np.random.default_rng(3).random((batch, 1, queries, keys)) < 0.6
    mask[:, :, 0] = False
    mask[:, :, 1] = np.arange(keys) == 2
    return mask


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_guard_is_moved_behind_the_product_and_rows_without_keys_stay_zero(
    run_in_onnxruntime: Run, dynamic: bool
) -> None:
    sizes = "N, 1, S, T" if dynamic else "2, 1, 5, 7"
    model = small.graph(GUARDED, inputs=f", bool[{sizes}] m", dynamic=dynamic)
    feeds = {**small.feeds(), "m": visible()}
    (expected,) = run_in_onnxruntime(model, feeds)
    graph = applied(model, MoveNanGuard())
    (attention,) = find_attention(graph)
    assert not attention.guard
    (got,) = run_in_onnxruntime(graph, feeds)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert not expected[:, 0].any() and expected[:, 1].all()


def test_openvino_computes_zeros_for_rows_without_keys_too(run_in_onnxruntime: Run) -> None:
    model = small.graph(GUARDED, inputs=", bool[2, 1, 5, 7] m")
    feeds = {**small.feeds(), "m": visible()}
    (expected,) = run_in_onnxruntime(model, feeds)
    proto = ir.to_proto(applied(model, MoveNanGuard()))
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(proto.SerializeToString(), b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(compiled(feeds)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("all_hidden", [False, True])
def test_a_guard_is_dropped_if_a_constant_mask_shows_a_key_to_each_query(
    run_in_onnxruntime: Run, all_hidden: bool
) -> None:
    model = small.graph(GUARDED.replace("Where(m, zero, minus)", "Identity(c)"), inputs=", float[5, 7] c")
    del model.graph.input[3]
    mask = np.where(visible()[0, 0], 0, -np.inf).astype(np.float32)
    mask[0] = -np.inf if all_hidden else 0
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "c"))
    next(node for node in model.graph.node if "mask" in node.input).input[1] = "c"
    (expected,) = run_in_onnxruntime(model, small.feeds())
    graph = applied(model, MoveNanGuard())
    assert ("IsNaN" in operators(graph)) == all_hidden
    np.testing.assert_allclose(run_in_onnxruntime(graph, small.feeds())[0], expected, rtol=1e-6, atol=1e-6)


def test_a_guard_stays_behind_the_product_if_a_constant_condition_hides_all_keys(run_in_onnxruntime: Run) -> None:
    body = GUARDED.replace(
        " mask = Where(m, zero, minus)\n scores = Add(dots, mask)", " scores = Where(m, dots, minus)"
    )
    model = small.graph(body, inputs=", bool[5, 7] m")
    del model.graph.input[3]
    model.graph.initializer.append(onnx.numpy_helper.from_array(visible()[0, 0], "m"))
    (expected,) = run_in_onnxruntime(model, small.feeds())
    graph = applied(model, MoveNanGuard())
    assert "IsNaN" in operators(graph)
    np.testing.assert_allclose(run_in_onnxruntime(graph, small.feeds())[0], expected, rtol=1e-6, atol=1e-6)


def test_a_guarded_attention_that_is_a_graph_output_keeps_its_name(run_in_onnxruntime: Run) -> None:
    model = small.graph(GUARDED, inputs=", bool[2, 1, 5, 7] m", outputs=", float[2, 3, 5, 8] mean")
    feeds = {**small.feeds(), "m": visible()}
    expected = run_in_onnxruntime(model, feeds)
    graph = applied(model, MoveNanGuard())
    assert [output.name for output in graph.graph.outputs] == ["y", "mean"]
    for got, wanted in zip(run_in_onnxruntime(graph, feeds), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


SCALED = {
    "Mul": "d = MatMul(qh, kt)\n scores = Mul(d, scale)",
    "Mul, constant first": "d = MatMul(qh, kt)\n scores = Mul(scale, d)",
    "Div and a mask": "d = MatMul(qh, kt)\n e = Div(d, four)\n scores = Add(e, m)",
    "Mul and a scaled query": "qs = Mul(qh, root)\n d = MatMul(qs, kt)\n scores = Mul(d, root)",
}


@pytest.mark.parametrize("scores", SCALED)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_queries_are_scaled_instead_of_scores(run_in_onnxruntime: Run, scores: str, dtype: str) -> None:
    inputs = ", float[2, 1, 1, 7] m" if "mask" in scores else ""
    model = small.graph(f"{small.TURNED}\n {SCALED[scores]}\n {small.SOFTMAX}", inputs=inputs, dtype=dtype)
    kind = np.float16 if dtype == "float16" else np.float32
    feeds = {name: array.astype(kind) for name, array in small.feeds().items()}
    if inputs:
        feeds["m"] = np.where(visible()[:, :, 1:2], 0, -1e4).astype(kind)
    (expected,) = run_in_onnxruntime(model, feeds)
    graph = applied(model, ScaleQueries())
    (attention,) = find_attention(graph)
    assert not attention.score_scales
    assert attention.scale == pytest.approx(0.25)
    tolerance = 2e-3 if dtype == "float16" else 1e-6
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], expected, rtol=tolerance, atol=tolerance)


def test_scores_of_integer_products_stay_scaled() -> None:
    pair = "qq = QuantizeLinear(qh, s, z)\n qd = DequantizeLinear(qq, s, z)"
    body = f"{small.TURNED}\n {pair}\n d = MatMul(qd, kt)\n scores = Mul(d, scale)\n {small.SOFTMAX}"
    graph = ir.from_proto(small.graph(body, constants=", float s = {0.01}, uint8 z = {128}"))
    assert not ScaleQueries()(graph).modified


WINDOWED = (
    f"{small.TURNED}\n qs = Mul(qh, scale)\n d = MatMul(qs, kt)\n b = Add(d, bias)\n five = Reshape(b, view)\n"
    f" f = Add(five, m)\n scores = Reshape(f, back)\n {small.SOFTMAX}"
)


def windowed(mask_shape: tuple[int, ...], view: str = "1, 2, 3, 5, 7") -> onnx.ModelProto:
    model = small.graph(
        WINDOWED,
        inputs=f", float[{', '.join(map(str, mask_shape))}] m, float[1, 3, 5, 7] bias",
        constants=f", int64[5] view = {{{view}}}, int64[4] back = {{2, 3, 5, 7}}",
    )
    del model.graph.input[3:]
    rng = np.random.default_rng(5)
    arrays = {"m": np.where(rng.random(mask_shape) < 0.3, -100, 0), "bias": rng.standard_normal((1, 3, 5, 7))}
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


@pytest.mark.parametrize(
    ("mask_shape", "view"), [((1, 2, 1, 5, 7), "1, 2, 3, 5, 7"), ((1, 1, 1, 5, 7), "2, 1, 3, 5, 7")]
)
def test_a_window_mask_is_added_in_four_dimensions(
    run_in_onnxruntime: Run, mask_shape: tuple[int, ...], view: str
) -> None:
    model = windowed(mask_shape, view)
    (expected,) = run_in_onnxruntime(model, small.feeds())
    graph = applied(model, AddWindowMasks())
    (attention,) = find_attention(graph)
    assert [mask.view for mask in attention.masks] == [None, None]
    np.testing.assert_allclose(run_in_onnxruntime(graph, small.feeds())[0], expected, rtol=1e-6, atol=1e-6)


def test_a_window_mask_with_a_row_for_each_head_stays() -> None:
    assert not AddWindowMasks()(ir.from_proto(windowed((1, 2, 3, 5, 7)))).modified


def test_optimize_runs_all_three(run_in_onnxruntime: Run) -> None:
    body = (
        f"{small.TURNED}\n d = MatMul(qh, kt)\n e = Mul(d, scale)\n mask = Where(m, zero, minus)\n"
        " scores = Add(e, mask)\n p = Softmax<axis = -1>(scores)\n nan = IsNaN(p)\n weights = Where(nan, zero, p)"
    )
    model = small.graph(body, inputs=", bool[2, 1, 5, 7] m")
    feeds = {**small.feeds(), "m": visible()}
    (expected,) = run_in_onnxruntime(model, feeds)
    graph = optimize(ir.from_proto(model))
    (attention,) = find_attention(graph)
    assert not attention.guard and not attention.score_scales
    assert [node.op_type for node in attention.path] == ["MatMul", "Add", "Softmax", "MatMul"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], expected, rtol=1e-6, atol=1e-6)
