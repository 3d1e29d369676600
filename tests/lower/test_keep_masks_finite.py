"""Attention whose scores are quantized before a mask; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.lower import keep_masks_finite
from edgekit.lower.keep_masks_finite import KeepMasksFinite
from edgekit.lower.rewriting import lower
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

RANDOM = np.random.default_rng(5)
CONSTANTS: dict[str, ArrayLike] = {
    "s": np.float32(0.03),
    "z": np.uint8(120),
    "low": np.finfo(np.float32).min,
    "high": np.finfo(np.float32).max,
    "some": np.float32(-10000),
    "none": np.float32(0),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "w": RANDOM.integers(-90, 91, (6, 8)).astype(np.int8),
    "ws": np.float32(0.01),
    "wz": np.int8(0),
}
MASKS = {
    "Where": "k = Where (c, none, low)  t = Add (d, k)",
    "the mask first": "k = Where (c, none, low)  t = Add (k, d)",
    "product": "g = Where (c, none, one)  k = Mul (g, low)  t = Add (d, k)",
    "difference": "k = Where (c, none, high)  t = Sub (d, k)",
    "moved scores": "k = Where (c, none, low)  e = Transpose <perm = [0, 1, 3, 2]> (d)  t = Add (e, k)",
}


def model(mask: str) -> ir.Model:
    return ir.from_proto(
        model_of_text(
            f"""qa = QuantizeLinear (a, s, z)  da = DequantizeLinear (qa, s, z)
            qb = QuantizeLinear (b, s, z)  db = DequantizeLinear (qb, s, z)  m = MatMul (da, db)
            q = QuantizeLinear (m, s, z)  d = DequantizeLinear (q, s, z)  c = Greater (hidden, half)  {mask}
            p = Softmax (t)  qp = QuantizeLinear (p, s, z)  dp = DequantizeLinear (qp, s, z)
            v = DequantizeLinear (w, ws, wz)  y = MatMul (dp, v)""",
            "float[1, 2, 6, 8] a, float[1, 2, 8, 6] b, float[1, 1, 6, 6] hidden",
            "float[1, 2, 6, 8] y",
            CONSTANTS,
        )
    )


@pytest.mark.parametrize("mask", list(MASKS))
def test_a_row_without_keys_has_equal_weights(mask: str, tmp_path: Path) -> None:
    """So it is with the first tokens of a text that is padded on the left, in a model that reads from left to right."""
    pytest.importorskip("openvino")
    graph = model(MASKS[mask])
    seen = np.tril(np.ones((6, 6), np.float32))[None, None]
    seen[..., 0] = 0
    shapes = {"a": (1, 2, 6, 8), "b": (1, 2, 8, 6)}
    feed = {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} | {"hidden": seen}
    expected = Evaluator(graph).run(feed)["y"]
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result, outputs = run_in_openvino(graph, feed, tmp_path, options)
    np.testing.assert_allclose(outputs["y"], expected, atol=0.03 * 0.01 * 90 * 2)
    assert result.layers["int8"]


def test_small_masks_and_scores_of_floats_stay_as_they_are() -> None:
    small = model(MASKS["Where"].replace("low", "some"))
    floats = model(MASKS["Where"].replace("(d, k)", "(m, k)"))
    for graph in (small, floats):
        assert not lower(graph, [KeepMasksFinite("Add")])


@pytest.mark.parametrize("first", ["some", "low"])
def test_each_value_is_visited_once(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, visited = 200, 0
    holds = keep_masks_finite._holds_large

    def counted(value: ir.Value) -> bool:
        nonlocal visited
        visited += 1
        return holds(value)

    monkeypatch.setattr(keep_masks_finite, "_holds_large", counted)
    sums = " ".join(f"t{index + 1} = Add (d, t{index})" for index in range(count))
    graph = ir.from_proto(
        model_of_text(
            f"q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  t0 = Expand ({first}, shape)  {sums}",
            "float[4] x",
            f"float[4] t{count}",
            {**CONSTANTS, "shape": np.array([4], np.int64)},
        )
    )
    lower(graph, [KeepMasksFinite("Add")])
    assert visited < 8 * count
