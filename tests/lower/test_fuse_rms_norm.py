from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.fuse_rms_norm import FuseRmsNorm
from edgekit.specs import Precision

FORMS = {
    "Reciprocal": "q = Pow (x, two) v = ReduceMean (q, last) a = Add (v, eps) s = Sqrt (a) r = Reciprocal (s) "
    "n = Mul (x, r) out = Mul (w, n)",
    "Div": "q = Mul (x, x) v = ReduceMean (q, last) a = Add (eps, v) s = Sqrt (a) n = Div (x, s) out = Mul (n, w)",
    "Pow": "q = Mul (x, x) v = ReduceMean (q, last) a = Add (v, eps) r = Pow (a, power) n = Mul (r, x) "
    "out = Mul (n, w)",
}
CONSTANTS = {
    "two": np.float32(2),
    "eps": np.float32(1e-3),
    "power": np.float32(-0.5),
    "last": np.array([-1]),
    "first": np.array([1]),
    "w": np.linspace(0.5, 1.5, 8, dtype=np.float32),
    "square": np.ones((8, 8), np.float32),
}
X = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)


def model_of(text: str) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20]>\n'
    model = onnx.parser.parse_model(f"{header}g (float[2, 8, 8] x) => (float[2, 8, 8] out) {{ {text} }}")
    words = set(text.replace(")", " ").replace(",", " ").replace("(", " ").split())
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in CONSTANTS.items() if name in words
    )
    return onnx.shape_inference.infer_shapes(model)


def expected() -> np.ndarray:
    x = X.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * np.linspace(0.5, 1.5, 8)


@pytest.mark.parametrize("form", FORMS)
def test_rms_norm_is_one_operator(form):
    after, _ = rewritten(model_of(FORMS[form]), FuseRmsNorm("Div"), FuseRmsNorm("Mul"))
    assert [node.op_type for node in after.graph.node] == ["SimplifiedLayerNormalization"]
    np.testing.assert_allclose(run_unfused(after, {"x": X})[0], expected(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FORMS["Div"].replace("last", "first"), "it does not divide by the root"),
        (FORMS["Div"].replace("Mul (x, x)", "Abs (x)"), "it does not divide by the root"),
        (FORMS["Div"].replace("n, w", "n, x"), "its scale is not one constant per element"),
        (FORMS["Div"].replace("n, w", "n, square"), "its scale is not one constant per element"),
        (FORMS["Div"].replace("out = Mul", "m = Neg (n) out = Mul"), "no product with a scale alone reads it"),
    ],
)
def test_other_quotients_stay(text, reason, reasons):
    assert stays(model_of(text), FuseRmsNorm("Div"))
    assert any(reason in told for told in reasons())


def test_engine_of_cpu_has_the_operator(tmp_path: Path):
    onnx.save(model_of(FORMS["Reciprocal"]), tmp_path / "m.onnx")
    onnxruntime = backend("cpu")
    onnxruntime.build(tmp_path / "m.onnx", tmp_path, BuildOptions(precision=Precision.FP32))
    operators = [node.op_type for node in onnx.load(tmp_path / "engine.onnx").graph.node]
    assert operators == ["SimplifiedLayerNormalization"]
    engine = onnxruntime.load(tmp_path / "engine.onnx")
    np.testing.assert_allclose(engine.run({"x": X})["out"], expected(), rtol=1e-5, atol=1e-6)
