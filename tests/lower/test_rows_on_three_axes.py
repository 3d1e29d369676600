from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import rewritten, run_unfused, stays

from edgekit.lower.rows_on_three_axes import RowsOnThreeAxes
from tests.lower.models import model_of_text

RNG = np.random.default_rng(0)
CONSTANTS = {
    "scale": RNG.uniform(0.5, 2, 6).astype(np.float32),
    "bias": RNG.standard_normal(6).astype(np.float32),
    "wide": RNG.standard_normal((6, 8)).astype(np.float32),
    "wide_bias": RNG.standard_normal(8).astype(np.float32),
    "narrow": RNG.integers(-127, 128, (8, 6), dtype=np.int8),
    "gamma": RNG.uniform(0.1, 1, (1, 1, 1, 6)).astype(np.float32),
    "positions": RNG.standard_normal((1, 5, 6)).astype(np.float32),
    "kernel": RNG.standard_normal((4, 6, 1, 1)).astype(np.float32),
    "column": RNG.standard_normal((5, 1)).astype(np.float32),
    "step": np.float32(0.05),
    "zero": np.uint8(100),
    "none": np.int8(0),
    "axes": np.array([0]),
}
BLOCK = """
  t = Transpose <perm = [0, 2, 3, 1]> (x)
  n = LayerNormalization <axis = 3> (t, scale, bias)
  m = MatMul (n, wide)
  b = Add (wide_bias, m)
  g = Gelu (b)
  q = QuantizeLinear (g, step, zero)
  d = DequantizeLinear (q, step, zero)
  w = DequantizeLinear (narrow, step, none)
  p = MatMul (d, w)
  s = Mul (p, gamma)
  r = Add (s, t)
  y = Transpose <perm = [0, 3, 1, 2]> (r)
"""
BACK = "y = Transpose <perm = [0, 3, 1, 2]> (n)"


def _model(nodes: str, sizes: str = "2, 6, 4, 5", result: str = "2, 6, 4, 5") -> onnx.ModelProto:
    return model_of_text(nodes, f"float[{sizes}] x", f"float[{result}] y", CONSTANTS)


def _x(*sizes: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal(sizes).astype(np.float32)}


def _axes(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the number of axes of each result, by the operator that computes it; the largest counts."""
    made = {node.output[0]: node.op_type for node in model.graph.node}
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found: dict[str, int] = {}
    for value in (*inferred.value_info, *inferred.output):
        operator = made[value.name]
        found[operator] = max(found.get(operator, 0), len(value.type.tensor_type.shape.dim))
    return found


def test_a_block_of_convnext_computes_the_same_on_three_axes() -> None:
    model, feed = _model(BLOCK), _x(2, 6, 4, 5)
    expected = run_unfused(model, feed)[0]
    model, modified = rewritten(model, RowsOnThreeAxes())
    assert modified
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(run_unfused(model, feed)[0], expected)
    axes = _axes(model)
    rows = ("LayerNormalization", "MatMul", "Add", "Gelu", "QuantizeLinear", "DequantizeLinear", "Mul")
    assert {axes[operator] for operator in rows} == {3}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Reshape") == 2  # behind the first Transpose, which the sum reads too, and before the last


def test_sizes_may_be_dynamic() -> None:
    model = _model(BLOCK, "N, 6, H, 5", "N, 6, H, 5")
    feeds = [_x(1, 6, 4, 5), _x(3, 6, 7, 5)]
    expected = [run_unfused(model, feed)[0] for feed in feeds]
    model, modified = rewritten(model, RowsOnThreeAxes())
    assert modified and _axes(model)["MatMul"] == 3
    for feed, right in zip(feeds, expected, strict=True):
        assert np.array_equal(run_unfused(model, feed)[0], right)


def test_two_dynamic_sizes_of_rows_stay() -> None:
    assert stays(_model(BLOCK, "1, 6, H, W", "1, 6, H, W"), RowsOnThreeAxes())


def test_five_axes_become_three() -> None:
    model = _model("m = MatMul (x, wide)  a = Add (m, wide_bias)  y = Squeeze (a, axes)", "1, 2, 3, 4, 6", "2, 3, 4, 8")
    feed = _x(1, 2, 3, 4, 6)
    expected = run_unfused(model, feed)[0]
    model, modified = rewritten(model, RowsOnThreeAxes())
    assert modified and _axes(model)["MatMul"] == 3
    assert np.array_equal(run_unfused(model, feed)[0], expected)


def test_a_normalization_without_a_product_has_three_axes_too() -> None:
    model = _model("t = Transpose <perm = [0, 2, 3, 1]> (x)  n = LayerNormalization (t, scale)  " + BACK)
    feed = _x(2, 6, 4, 5)
    expected = run_unfused(model, feed)[0]
    model, modified = rewritten(model, RowsOnThreeAxes())
    assert modified and _axes(model)["LayerNormalization"] == 3
    assert np.array_equal(run_unfused(model, feed)[0], expected)


def test_rows_with_numbers_of_their_own_stay_outside() -> None:
    model = _model("t = Transpose <perm = [0, 2, 3, 1]> (x)  a = Add (t, positions)  n = Mul (a, column)  " + BACK)
    assert stays(model, RowsOnThreeAxes())
    nodes = "t = Transpose <perm = [0, 2, 3, 1]> (x)  a = Add (t, positions)  m = MatMul (a, wide)"
    model = _model(f"{nodes}  y = Transpose <perm = [0, 3, 1, 2]> (m)", result="2, 8, 4, 5")
    feed = _x(2, 6, 4, 5)
    expected = run_unfused(model, feed)[0]
    model, modified = rewritten(model, RowsOnThreeAxes())
    axes = _axes(model)
    assert modified and (axes["MatMul"], axes["Add"]) == (3, 4)
    assert np.array_equal(run_unfused(model, feed)[0], expected)


def test_a_pair_that_others_read_too_stays_on_all_axes() -> None:
    pair = "q = QuantizeLinear (x, step, zero)  d = DequantizeLinear (q, step, zero)"
    nodes = f"{pair}  m = MatMul (d, wide)  s = Relu (m)  r = ReduceMax (d)  y = Add (s, r)"
    model, feed = _model(nodes, "2, 4, 5, 6", "2, 4, 5, 8"), _x(2, 4, 5, 6)
    expected = run_unfused(model, feed)[0]
    model, modified = rewritten(model, RowsOnThreeAxes())
    axes = _axes(model)
    assert modified and (axes["MatMul"], axes["QuantizeLinear"], axes["DequantizeLinear"]) == (3, 4, 4)
    assert np.array_equal(run_unfused(model, feed)[0], expected)


@pytest.mark.parametrize(
    ("nodes", "sizes", "result"),
    [
        ("y = MatMul (x, wide)", "2, 4, 5, 6", "2, 4, 5, 8"),
        ("m = MatMul (x, wide)  y = Relu (m)", "2, 5, 6", "2, 5, 8"),
        ("t = Transpose <perm = [0, 1, 3, 2]> (x)  m = MatMul (x, t)  y = Identity (m)", "2, 4, 5, 6", "2, 4, 5, 5"),
        ("n = LayerNormalization <axis = 2> (x, positions)  y = Identity (n)", "2, 4, 5, 6", "2, 4, 5, 6"),
        ("m = Relu (x)  y = Conv (m, kernel)", "2, 6, 4, 5", "2, 4, 4, 5"),
    ],
    ids=["a result", "three axes", "no matrix of weights", "two axes normalized", "no product"],
)
def test_others_stay(nodes: str, sizes: str, result: str) -> None:
    assert stays(_model(nodes, sizes, result), RowsOnThreeAxes())
