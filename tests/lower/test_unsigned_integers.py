"""Convolutions of ``int8`` on OpenVINO, beside a Concat; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.rewriting import lower
from edgekit.lower.unsigned_integers import UnsignedIntegers
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

RANDOM = np.random.default_rng(3)
CONSTANTS: dict[str, ArrayLike] = {
    "s": np.float32(0.03),
    "t": np.float32(0.007),
    "k": np.float32(1.1),
    "one": np.ones(16, np.float32),
    "none": np.zeros(16, np.float32),
    "twice": np.array([1, 2, 1, 1]),
    "wide": np.array([2, 16, 3, 12]),
    "w": RANDOM.integers(-100, 101, (4, 16, 3, 3)).astype(np.int8),
    "ws": RANDOM.uniform(0.001, 0.01, 4).astype(np.float32),
    "wz": np.zeros(4, np.int8),
    "w2": RANDOM.integers(-100, 101, (4, 4, 1, 1)).astype(np.int8),
}
JOINED = "c = Concat <axis = 1> (x, x2)"
PAIR = "q = QuantizeLinear (c, s, z)  d = DequantizeLinear (q, s, z)"
DEQUANTIZED = """xq = QuantizeLinear (x, s, z)  a = DequantizeLinear (xq, s, z)
x2q = QuantizeLinear (x2, SECOND, z)  b = DequantizeLinear (x2q, SECOND, z)  c = Concat <axis = 1> (a, b)"""
ONE_SCALE, TWO_SCALES = DEQUANTIZED.replace("SECOND", "s"), DEQUANTIZED.replace("SECOND", "t")


def behind(operator: str) -> str:
    return f"{JOINED}  r = {operator}  {PAIR.replace('(c,', '(r,')}"


BEFORE = {
    "floats": f"{JOINED}  {PAIR}",
    "axis from the end": f"{JOINED.replace('1', '-3')}  {PAIR}",
    "ReLU before the pair": behind("Relu (c)"),
    "product before the pair": behind("Mul (c, k)"),
    "Reshape before the pair": behind("Reshape (c, wide)"),
    "Transpose before the pair": behind("Transpose <perm = [0, 1, 3, 2]> (c)"),
    "pooling behind the pair": f"{JOINED}  {PAIR.replace('d =', 'p =')}  d = MaxPool <kernel_shape = [1, 1]> (p)",
    "one scale, and a pair": f"{ONE_SCALE}  {PAIR}",
    "two scales, and a pair": f"{TWO_SCALES}  {PAIR}",
    "one scale": f"{ONE_SCALE}  d = Identity (c)",
    "two scales": f"{TWO_SCALES}  d = Identity (c)",
    "two scales, and a ReLU": f"{TWO_SCALES}  d = Relu (c)",
    "Concat elsewhere": """n2 = Tanh (x)  q = QuantizeLinear (n2, s, z)  p = DequantizeLinear (q, s, z)
    c = Concat <axis = 1> (x, x2)  n3 = Neg (c)  g = Tile (p, twice)  h2 = Add (g, n3)
    hq = QuantizeLinear (h2, s, z)  hd = DequantizeLinear (hq, s, z)  d = MaxPool <kernel_shape = [1, 1]> (hd)""",
    "ReLU between two pairs": f"""{JOINED}  q = QuantizeLinear (c, s, z)  p = DequantizeLinear (q, s, z)  r = Relu (p)
    rq = QuantizeLinear (r, s, z)  d = DequantizeLinear (rq, s, z)""",
    "normalization before the pair": behind("InstanceNormalization (c, one, none)"),
}


def model(before: str, dtype: type = np.int8, zero: int = 0) -> onnx.ModelProto:
    # A convolution of integers behind it, since an INT8 engine needs one.
    return model_of_text(
        f"""{before}  v = DequantizeLinear <axis = 0> (w, ws, wz)
        h = Conv <pads = [1, 1, 1, 1]> (d, v)  n = Sigmoid (h)
        nq = QuantizeLinear (n, t, z)  nd = DequantizeLinear (nq, t, z)
        v2 = DequantizeLinear <axis = 0> (w2, ws, wz)  y = Conv (nd, v2)""",
        "float[2, 8, 6, 6] x, float[2, 8, 6, 6] x2",
        "float[2, 4, i, j] y",
        {**CONSTANTS, "z": np.asarray(zero, dtype)},
    )


@pytest.mark.parametrize("zero", [0, -9])
@pytest.mark.parametrize("before", list(BEFORE))
def test_convolutions_of_signed_integers_keep_the_sign(before: str, zero: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    onnx.save(model(BEFORE[before], zero=zero), tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    feed = {name: RANDOM.standard_normal((2, 8, 6, 6)).astype(np.float32) for name in ("x", "x2")}
    expected = Evaluator(graph).run(feed)["y"]
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result, outputs = run_in_openvino(graph, feed, tmp_path, options)
    # One step of the last pair; the rounding of a number between two integers may differ.
    np.testing.assert_allclose(outputs["y"], expected, atol=0.007 * 0.01 * 100 * 2)
    if "pair" in before:
        assert result.layers == {"int8": 2}


def test_graphs_that_openvino_computes_right_stay_as_they_are() -> None:
    unsigned = model(BEFORE["floats"], np.uint8, 120)
    alone = model("q = QuantizeLinear (x, s, z)  a = DequantizeLinear (q, s, z)  d = Tile (a, twice)")
    for made in (unsigned, alone):
        assert not lower(ir.from_proto(made), [UnsignedIntegers()])
