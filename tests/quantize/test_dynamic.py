"""INT8 without calibration, compared with products that numpy computes, and with the float graph in ONNX Runtime."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from edgekit.engine.backend import backend
from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.quantize.dynamic import dynamic_graph, weight_only_graph
from edgekit.quantize.plan import QuantPolicy

CPU = backend("cpu").scheme()
NOTHING = QuantPolicy()

PRODUCTS = {
    "MatMul": ("MatMul (x, w)", (24, 40)),
    "Gemm": ("Gemm (x, w, b)", (24, 40)),
    "transposed Gemm": ("Gemm <transB = 1> (x, w, b)", (40, 24)),
}
LSTM = """g (float[9, 2, 24] x, float[2, 2, 16] h, float[2, 2, 16] c)
    => (float[9, 2, 2, 16] y, float[2, 2, 16] hn, float[2, 2, 16] cn)
    { y, hn, cn = LSTM <hidden_size = 16, direction = "bidirectional"> (x, w, r, b, , h, c) }"""


def run(graph: ir.Model, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return Evaluator(graph, threads=1).run(feed)


def db(exact: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - got).sum()))


@pytest.fixture
def product(graph_of, weights):
    def build(name: str, **more: str) -> tuple[ir.Model, np.ndarray, np.ndarray]:
        text, shape = PRODUCTS[name]
        w, b = weights(*shape), weights(40, 1, seed=1).ravel()
        given = {"w": w, "b": b} if ", b" in text else {"w": w}
        graph = graph_of(f"g (float[7, 24] x) => (float[7, 40] y) {{ y = {text} }}", **given)
        return graph, w.T if "transB" in text else w, b if "b" in given else np.zeros(40, np.float32)

    return build


def integers(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Rounds to symmetric int8, with a scale for each slice along another axis than ``axis``; returns real numbers."""
    scales = np.abs(array).max(axis, keepdims=True) / 127
    return np.rint(array / scales) * scales


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_dynamic_product_is_that_of_rounded_factors(product, name):
    graph, w, b = product(name)
    x = (3 * np.random.default_rng(0).normal(size=(7, 24))).astype(np.float32)
    found = dynamic_graph(graph, CPU, NOTHING)
    scale = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = np.clip(np.rint(-min(x.min(), 0) / scale), 0, 255)
    rounded = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
    bits = 2 ** (CPU.weight_bits - 1) - 1
    weights = integers(w, 0) if bits == 127 else np.rint(w / (np.abs(w).max(0) / bits)) * (np.abs(w).max(0) / bits)
    np.testing.assert_allclose(run(found.graph, {"x": x})["y"], rounded @ weights + b, atol=2e-5)
    assert len(found.layers) == 1 and not found.skipped
    assert {node.op_type for node in found.graph.graph} >= {"DynamicQuantizeLinear", "MatMulInteger"}


@pytest.mark.parametrize("name", PRODUCTS)
def test_weights_alone_are_rounded_by_blocks(product, name):
    graph, w, b = product(name)
    x = np.random.default_rng(0).normal(size=(7, 24)).astype(np.float32)
    found = weight_only_graph(graph, CPU, NOTHING)
    exact = x @ w + b
    assert db(exact, x @ integers(w, 0) + b) - 6 < db(exact, run(found.graph, {"x": x})["y"])
    sizes = [value.const_value.nbytes for value in found.graph.graph.initializers.values()]
    assert max(sizes) == 40 * 32  # a block of 32, of which 24 are used


@pytest.mark.parametrize("name", PRODUCTS)
def test_weights_alone_are_dequantized_by_columns_where_the_target_keeps_them(product, name):
    graph, w, b = product(name)
    x = np.random.default_rng(0).normal(size=(7, 24)).astype(np.float32)
    scheme = msgspec.structs.replace(backend("openvino").scheme(), weight_bits=8)
    found = weight_only_graph(graph, scheme, NOTHING)
    np.testing.assert_allclose(run(found.graph, {"x": x})["y"], x @ integers(w, 0) + b, atol=1e-5)
    assert {node.op_type for node in found.graph.graph} <= {"DequantizeLinear", "MatMul", "Gemm"}
    assert max(value.const_value.nbytes for value in found.graph.graph.initializers.values()) == 24 * 40


def test_a_bidirectional_lstm_keeps_its_states(graph_of, weights):
    w, r = (np.stack([weights(64, 24, seed=s), weights(64, 24, seed=s + 1)]) for s in (0, 2))
    graph = graph_of(LSTM, w=w, r=r[:, :, :16], b=weights(2, 128, seed=5))
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(9, 2, 24)), "h": rng.normal(size=(2, 2, 16)), "c": rng.normal(size=(2, 2, 16))}
    feed = {name: array.astype(np.float32) for name, array in feed.items()}
    found = dynamic_graph(graph, CPU, NOTHING)
    exact, got = run(graph, feed), run(found.graph, feed)
    assert [node.op_type for node in found.graph.graph] == ["DynamicQuantizeLSTM"]
    for name in exact:
        assert db(exact[name], got[name]) > 30, name


def test_products_that_read_one_tensor_quantize_it_once(graph_of, weights):
    text = "g (float[3, 24] x) => (float[3, 40] y) { a = MatMul (x, w)  b = MatMul (x, v)  y = Add (a, b) }"
    graph = graph_of(text, w=weights(24, 40), v=weights(24, 40, seed=1))
    found = dynamic_graph(graph, CPU, NOTHING).graph
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in found.graph) == 1
    x = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    assert db(run(graph, {"x": x})["y"], run(found, {"x": x})["y"]) > 35


def test_a_kept_product_stays_and_the_float_graph_does_not_change(product):
    graph, _, _ = product("Gemm")
    before = [node.op_type for node in graph.graph]
    name = next(iter(graph.graph)).name
    with pytest.raises(GraphError, match="kept by"):
        dynamic_graph(graph, CPU, QuantPolicy((str(name),)))
    dynamic_graph(graph, CPU, NOTHING)
    assert [node.op_type for node in graph.graph] == before


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Conv (x, w)", "nothing in the graph can be quantized without calibration"),
        ("y, h = GRU <hidden_size = 4> (x, w, r)", "no integer kernel for GRU"),
    ],
)
def test_what_has_no_dynamic_kernel_is_refused_by_name(graph_of, weights, body, reason):
    conv = "Conv" in body
    shapes = ("1, 3, 8", "1, 4, 8") if conv else ("5, 1, 6", "5, 1, 1, 4")
    given = {"w": weights(4, 3, 1)} if conv else {"w": weights(1, 12, 6), "r": weights(1, 12, 4)}
    graph = graph_of(f"g (float[{shapes[0]}] x) => (float[{shapes[1]}] y) {{ {body} }}", **given)
    with pytest.raises(GraphError, match=reason):
        dynamic_graph(graph, CPU, NOTHING)
