"""Operators with steps or poles behind integers on OpenVINO; right values are those of unoptimized ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.dequantize_exactly import STEPPED, DequantizeExactly
from edgekit.lower.rewriting import lower
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

BOTH = "x2q = QuantizeLinear (x2, s, z)  e = DequantizeLinear (x2q, s, z)"
CASES = {
    "Div": "y = Div (e, d)",
    "Div by its negative": "n = Neg (d)  y = Div (e, n)",
    "Reciprocal": "r = Reciprocal (d)  y = Mul (r, e)",
    "Sqrt": "a = Abs (d)  r = Sqrt (a)  y = Add (r, e)",
    "Log": "a = Relu (d)  r = Log (a)  y = Add (r, e)",
    "Pow": "a = Abs (d)  r = Pow (a, half)  y = Add (r, e)",
    "Sign": "r = Sign (d)  y = Add (r, e)",
    "Floor": "r = Floor (d)  y = Add (r, e)",
    "Ceil": "r = Ceil (d)  y = Add (r, e)",
    "Round": "r = Round (d)  y = Add (r, e)",
    "Mod": "r = Mod <fmod = 1> (d, five)  y = Add (r, e)",
    "Acos": "c = Clip (d, least, one)  r = Acos (c)  y = Add (r, e)",
    "Clip": "r = Clip (d, low, high)  y = Mul (r, five)",
    "Clip before Q": """r = Clip (d, low, high)  rq = QuantizeLinear (r, other, z)  rd = DequantizeLinear (rq, other, z)
    y = Mul (rd, five)""",
    "Greater": "b = Greater (d, zero)  r = Cast <to = 1> (b)  y = Add (r, e)",
    "GreaterOrEqual": "b = GreaterOrEqual (d, zero)  r = Cast <to = 1> (b)  y = Add (r, e)",
    "Less": "b = Less (d, zero)  r = Cast <to = 1> (b)  y = Add (r, e)",
    "LessOrEqual": "b = LessOrEqual (d, zero)  r = Cast <to = 1> (b)  y = Add (r, e)",
    "Equal": "b = Equal (zero, d)  r = Cast <to = 1> (b)  y = Add (r, e)",
    "Cast to bool": "b = Cast <to = 9> (d)  r = Cast <to = 1> (b)  y = Add (r, e)",
    "Cast to integers": "b = Cast <to = 6> (d)  r = Cast <to = 1> (b)  y = Add (r, e)",
}
SMOOTH = {
    "numerator": "y = Div (d, five)",
    "square": "y = Pow (d, two)",
    "float": "f = Tanh (d)  y = Sqrt (f)",
    "Cast to floats": "h = Cast <to = 10> (d)  y = Cast <to = 1> (h)",
}


def model(text: str, kind: type[np.generic], zero: int, scale: float) -> onnx.ModelProto:
    first = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)"
    constants = {
        "s": np.float32(scale),
        "z": kind(zero),
        "other": np.float32(0.0213),
        "half": np.float32(0.5),
        "two": np.float32(2),
        "five": np.float32(5),
        "zero": np.float32(0),
        "one": np.float32(1),
        "least": np.float32(-1),
        "low": np.float32(-0.4),
        "high": np.float32(0.7),
    }
    text = f"{first}  {BOTH}  {text}"
    return model_of_text(text, "float[2, 256] x, float[2, 256] x2", "float[2, 256] y", constants)


def compare(made: onnx.ModelProto, kind: type[np.generic], zero: int, scale: float, tmp_path: Path) -> None:
    onnx.save(made, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    limits = np.iinfo(kind)  # type: ignore[type-var]
    row = ((np.arange(256) + limits.min - zero) * np.float32(scale)).astype(np.float32)
    feed = {"x": np.stack([row, row[::-1]]), "x2": np.stack([np.roll(row, 7), row])}
    expected = Evaluator(graph).run(feed)["y"]
    _, outputs = run_in_openvino(graph, feed, tmp_path, BuildOptions(precision=Precision.FP32))
    np.testing.assert_allclose(outputs["y"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "zero", "scale"), [(np.uint8, 131, 0.1), (np.int8, -7, 0.0237)])
@pytest.mark.parametrize("name", CASES)
def test_the_zero_point_is_zero(name: str, kind: type[np.generic], zero: int, scale: float, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    compare(model(CASES[name], kind, zero, scale), kind, zero, scale, tmp_path)


@pytest.mark.parametrize("name", SMOOTH)
def test_operators_without_steps_read_the_dequantizer(name: str) -> None:
    made = model(SMOOTH[name], np.uint8, 131, 0.025)
    assert not lower(ir.from_proto(made), list(map(DequantizeExactly, STEPPED)))


def test_other_readers_keep_the_dequantizer() -> None:
    graph = ir.from_proto(model("a = Abs (d)  r = Sqrt (a)  y = Add (r, a)", np.uint8, 131, 0.025))
    assert lower(graph, [DequantizeExactly("Sqrt")])
    (total,) = [node for node in graph.graph if node.op_type == "Add"]
    kept = total.inputs[1].producer()
    assert kept is not None and kept.inputs[0].producer().op_type == "DequantizeLinear"


@pytest.mark.parametrize(("kind", "center"), [(np.uint8, 60), (np.int8, -20)])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_scale_for_each_channel_is_exact_too(kind: type[np.integer], center: int, axis: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    random = np.random.default_rng(5)
    constants = {
        "s": random.uniform(0.01, 0.05, 5).astype(np.float32),
        "z": (center + np.arange(5)).astype(kind),
        "one": np.float32(1),
        "zero": np.float32(0),
    }
    nodes = f"""d = DequantizeLinear <axis = {axis}> (x, s, z)  sign = Sign (d)  ceil = Ceil (d)
    b = Equal (d, zero)  equal = Cast <to = 1> (b)  quotient = Div (one, d)
    y = Concat <axis = 0> (sign, ceil, equal)"""
    made = model_of_text(
        nodes,
        f"{np.dtype(kind).name}[2,5,40,5] x",
        "float[a,b,c,e] y, float[f,b,c,e] quotient",
        constants,
    )
    graph = ir.from_proto(made)
    feed = {"x": random.integers(center - 40, center + 40, (2, 5, 40, 5)).astype(kind)}
    expected = Evaluator(graph).run(feed)
    _, got = run_in_openvino(graph, feed, tmp_path, BuildOptions(precision=Precision.FP32, threads=1))
    np.testing.assert_array_equal(got["y"], expected["y"])
    np.testing.assert_allclose(got["quotient"], expected["quotient"], rtol=1e-6)
