"""Normalizations over channels; the right values are computed by numpy in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.norm_on_last_axis import NormOnLastAxis
from edgekit.specs import Precision

CENTER = "m = ReduceMean (x, axis) d = Sub (x, m) "
FORMS = {
    "channels of pixels": CENTER + "q = Mul (d, d) v = ReduceMean (q, axis) a = Add (v, eps) s = Sqrt (a) "
    "n = Div (d, s) t = Mul (w, n) out = Add (t, b)",
    "Flax": CENTER + "q = Mul (x, x) c = ReduceMean (q, axis) k = Mul (m, m) v = Sub (c, k) a = Add (v, eps) "
    "s = Sqrt (a) r = Reciprocal (s) f = Mul (r, w) t = Mul (d, f) out = Add (t, b)",
    "without parameters": CENTER + "q = Mul (d, d) v = ReduceMean (q, axis) a = Add (v, eps) s = Sqrt (a) "
    "out = Div (d, s)",
}
SCALE, BIAS = np.linspace(0.5, 1.5, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)
CONSTANTS = {"axis": np.array([1]), "eps": np.float32(1e-3), "w": SCALE.reshape(6, 1, 1), "b": BIAS.reshape(1, 6, 1, 1)}
X = np.random.default_rng(0).standard_normal((2, 6, 3, 4)).astype(np.float32) * 3 + 1
PASSES = NormOnLastAxis("Div"), NormOnLastAxis("Mul")


def model_of(text: str, **others: np.ndarray) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20]>\n'
    model = onnx.parser.parse_model(f"{header}g (float[2, 6, 3, 4] x) => (float[2, 6, 3, 4] out) {{ {text} }}")
    words = set(text.replace(")", " ").replace(",", " ").replace("(", " ").split())
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in {**CONSTANTS, **others}.items()
        if name in words
    )
    return onnx.shape_inference.infer_shapes(model)


def normalized() -> np.ndarray:
    x = X.astype(np.float64)
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_one_operator_between_transposes(form):
    after, _ = rewritten(model_of(FORMS[form]), *PASSES)
    assert [node.op_type for node in after.graph.node] == ["Transpose", "LayerNormalization", "Transpose"]
    scale, bias = CONSTANTS["w"], CONSTANTS["b"]
    expected = normalized() if form == "without parameters" else normalized() * scale + bias
    np.testing.assert_allclose(run_unfused(after, {"x": X})[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "others", "reason"),
    [
        (FORMS["channels of pixels"], {"axis": np.array([1, 2])}, "over several"),
        (FORMS["without parameters"], {"axis": np.array([3])}, "over the last axis"),
        (FORMS["without parameters"].replace("Mul (d, d)", "Abs (d)"), {}, "not the end of a normalization"),
    ],
)
def test_others_stay(text, others, reason, reasons):
    assert stays(model_of(text, **others), NormOnLastAxis("Div"))
    assert any(reason in told for told in reasons())


def test_engine_of_cpu_has_the_operator(tmp_path: Path):
    onnx.save(model_of(FORMS["Flax"]), tmp_path / "m.onnx")
    onnxruntime = backend("cpu")
    onnxruntime.build(tmp_path / "m.onnx", tmp_path, BuildOptions(precision=Precision.FP32))
    operators = [node.op_type for node in onnx.load(tmp_path / "engine.onnx").graph.node]
    assert operators == ["Transpose", "LayerNormalization", "Transpose"]
    expected = normalized() * CONSTANTS["w"] + CONSTANTS["b"]
    np.testing.assert_allclose(onnxruntime.load(tmp_path / "engine.onnx").run({"x": X})["out"], expected, atol=1e-5)
