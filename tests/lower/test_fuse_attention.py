from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import attention_graphs as small
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import rewritten, run_unfused, stays

import edgekit
from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.graph.passes import InferShapes
from edgekit.lower.fuse_attention import FuseAttention
from edgekit.quantize.plan import plan_from_graph
from edgekit.specs import EVERY_ATTENTION, Precision, QuantScheme, ShapeRange

PACKED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, S, 72] x) => (float[N, S, 24] y)
<int64[5] split = {0, 0, 3, 3, 8}, int64[3] merge = {0, 0, 24}, float scale = {0.25}, int64[1] first = {0},
 int64[1] second = {1}, int64[1] third = {2}, int64[1] last = {3}, int64 one = {1}>
{
  x5 = Reshape(x, split)
  moved = Transpose<perm = [2, 0, 3, 1, 4]>(x5)
  q5 = Slice(moved, first, second, first)
  q = Squeeze(q5, first)
  k = Gather<axis = 0>(moved, one)
  v5 = Slice(moved, third, last, first)
  v = Squeeze(v5, first)
  qs = Mul(q, scale)
  kt = Transpose<perm = [0, 1, 3, 2]>(k)
  scores = MatMul(qs, kt)
  weights = Softmax<axis = -1>(scores)
  mean = MatMul(weights, v)
  merged = Transpose<perm = [0, 2, 1, 3]>(mean)
  y = Reshape(merged, merge)
}
"""
SEPARATE = "kh = Transpose<perm = [0, 2, 1, 3]>(k4)\n kt = Transpose<perm = [0, 1, 3, 2]>(kh)"


def packed() -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(PACKED), data_prop=True)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("turned", [small.TURNED, SEPARATE])
@pytest.mark.parametrize("dynamic", [False, True])
def test_attention_and_its_transposes_become_one_operator_of_the_same_result(turned: str, dynamic: bool) -> None:
    model = small.graph(f"{turned}\n {small.SCORES}\n {small.SOFTMAX}", dynamic=dynamic)
    fused, modified = rewritten(model, FuseAttention())
    assert modified
    assert set(operators(fused)) == {"Reshape", "MultiHeadAttention"}
    assert {opset.domain: opset.version for opset in fused.opset_import}["com.microsoft"] == 1
    sizes = [{}, {"batch": 1, "queries": 1, "keys": 33}] if dynamic else [{}]
    for feeds in (small.feeds(**size) for size in sizes):
        (expected,) = run_unfused(model, feeds)
        np.testing.assert_allclose(run_unfused(fused, feeds)[0], expected, rtol=1e-5, atol=1e-6)


def test_queries_keys_and_values_in_one_tensor_are_read_without_a_transpose() -> None:
    fused, modified = rewritten(packed(), FuseAttention())
    assert modified
    assert "Transpose" not in operators(fused)
    x = np.random.default_rng(0).standard_normal((2, 11, 72), dtype=np.float32)
    (expected,) = run_unfused(packed(), {"x": x})
    np.testing.assert_allclose(run_unfused(fused, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def dynamic_head_size() -> onnx.ModelProto:
    model = small.graph()
    for value in (*model.graph.value_info,):
        if value.name == "v4":
            value.type.tensor_type.shape.dim[3].dim_param = "D"
    return model


def test_what_does_not_fit_stays_and_the_note_says_why(reasons: Callable[[], list[str]]) -> None:
    mask = f"{small.TURNED}\n qs = Mul(qh, scale)\n d = MatMul(qs, kt)\n scores = Add(d, m)\n {small.SOFTMAX}"
    pair = f"{small.SCORES}\n w = Softmax<axis = -1>(scores)\n a = QuantizeLinear(w, s, z)\n"
    pair = f"{small.TURNED}\n {pair} weights = DequantizeLinear(a, s, z)"
    other_split = small.graph()
    other_split.graph.node[3].input[0] = "v"
    for model, reason in (
        (small.graph(mask, inputs=", float[2, 1, 1, 7] m"), "it has a mask"),
        (small.graph(pair, constants=", float s = {0.004}, uint8 z = {0}"), "it is not float32"),
        (small.graph(dtype="float16"), "it is not float32"),
        (dynamic_head_size(), "the number or the size of its heads is not fixed"),
    ):
        one = FuseAttention()
        assert stays(model, one)
        assert [message.rpartition(" stays: ")[2] for message in reasons()] == [reason]
        assert one.notes() == (f"attention: 0 of 1 run as MultiHeadAttention; the others stay as they are: {reason}",)


def test_a_softmax_that_is_no_attention_is_not_counted() -> None:
    one = FuseAttention()
    assert stays(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 20]> g (float[2, 3] x) => (float[2, 3] y) { y = Softmax(x) }'
        ),
        one,
    )
    assert one.notes() == ()


@pytest.mark.parametrize("attention", ["auto", "off"])
def test_the_engine_has_the_operator_unless_it_is_switched_off(
    attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.engine.onnxruntime.lowering.cpu", lambda: here("x86_64", fast=False))
    path, folder, library = tmp_path / "graph.onnx", tmp_path / "engine", backend("cpu")
    onnx.save(small.graph(dynamic=True), path)
    folder.mkdir()
    shapes = {name: ShapeRange((1, 1, 24), (2, 5, 24), (4, 64, 24)) for name in "qkv"}
    result = library.build(path, folder, BuildOptions(precision=Precision.FP32, attention=attention, shapes=shapes))
    fused = attention == "auto"
    assert result.layers == {"float32": 1 if fused else 2}
    assert result.notes == (("attention: 1 of 1 run as MultiHeadAttention",) if fused else ())
    assert ("MultiHeadAttention" in operators(onnx.load(folder / result.engine))) == fused
    engine = library.load(folder / result.engine, threads=1)
    (expected,) = run_unfused(small.graph(dynamic=True), small.feeds())
    np.testing.assert_allclose(engine.run(small.feeds())["y"], expected, rtol=1e-5, atol=1e-6)


def here(arch: str, *, fast: bool) -> object:
    """A stand-in for the description of this CPU."""

    class Cpu:
        compute_threads, fast_int8 = 1, fast
        features: tuple[str, ...] = ()

    Cpu.arch = arch  # type: ignore[attr-defined]
    return Cpu()


def projected() -> onnx.ModelProto:
    """An attention between two linear layers; the one before the output is a head, which stays in float."""
    model = small.graph()
    rng = np.random.default_rng(1)
    for name in ("first", "head"):
        weight = rng.standard_normal((24, 24), dtype=np.float32) / 5
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"{name}.weight"))
    model.graph.node[0].input[0] = "projected"
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["q", "first.weight"], ["projected"], name="first"))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "head.weight"], ["z"], name="head"))
    model.graph.output[0].name = "z"
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


@pytest.mark.parametrize(
    ("arch", "fast", "in_float"), [("x86_64", False, True), ("x86_64", True, True), ("aarch64", False, False)]
)
def test_attention_stays_in_float_where_that_was_measured_to_be_faster(
    arch: str, fast: bool, in_float: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.engine.onnxruntime.scheme.cpu", lambda: here(arch, fast=fast))
    graph = ir.from_proto(projected())
    plan = plan_from_graph(graph, backend("cpu").scheme())
    products = {node.name for node in graph.graph if node.op_type == "MatMul"} - {"first", "head"}
    assert set(plan.skipped) == (products if in_float else set())
    assert {node.name for node in plan.nodes if node.op_type == "MatMul"} - products == {"first", "head"}


def test_a_graph_with_no_other_products_is_quantized_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.engine.onnxruntime.scheme.cpu", lambda: here("x86_64", fast=False))
    plan = plan_from_graph(ir.from_proto(small.graph()), backend("cpu").scheme())
    assert len([node for node in plan.nodes if node.op_type == "MatMul"]) == 2


@pytest.mark.parametrize("attention", ["auto", "off"])
def test_an_int8_build_says_if_it_computes_attention_in_float(
    attention: Literal["auto", "off"], tmp_path: Path
) -> None:
    # The builder runs in a child process, so this cannot be another CPU.
    in_float = attention == "auto" and backend("cpu").scheme().float_attention
    layers = {"int8": 2, "float32": 1} if in_float else {"int8": 4}
    notes = ["attention: 1 of 1 run as MultiHeadAttention"] if in_float else []
    path = tmp_path / "model.onnx"
    onnx.save(projected(), path)
    folder = edgekit.build(
        path, precision="int8", target="cpu", attention=attention, profile=False, output=tmp_path / "engine"
    )
    manifest = read_manifest(folder)
    assert manifest.layers == layers
    assert [text for text in manifest.notes if text.startswith("attention")] == notes
    assert ("--attention off" in manifest.build_command) == (attention == "off")
    (expected,) = run_unfused(projected(), small.feeds())
    with edgekit.load(folder, threads=1) as session:
        got = session.run(small.feeds())["z"]
    assert np.square(got - expected).sum() < 0.01 * np.square(expected).sum()


def test_other_products_of_two_activations_are_quantized_all_the_same() -> None:
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    text = "g (float[2, 3] a, float[3, 4] b) => (float[2, 4] y) { y = MatMul(a, b) }"
    graph = ir.from_proto(onnx.parser.parse_model(header + text))
    graph.graph[0].name = "product"
    InferShapes()(graph)
    operator = frozenset({"MatMul"})
    scheme = QuantScheme(
        activation_dtype="uint8", operators=operator, quantize_outputs=operator, float_attention=EVERY_ATTENTION
    )
    assert [node.name for node in plan_from_graph(graph, scheme).nodes] == ["product"]
