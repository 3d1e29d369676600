"""Element types read from the graph that OpenVINO executes; the rounding of the results shows the true ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.graph.evaluator import Evaluator
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

pytest.importorskip("openvino")
here = cpu()
pytestmark = pytest.mark.skipif(here.arch != "x86_64" or not here.fast_int8, reason="measured on x86 with VNNI")

RANDOM = np.random.default_rng(0)
WEIGHTS = "wd = DequantizeLinear <axis = 1> (w, ws, wz)"


def built(
    nodes: str, size: int, zero: np.ndarray, folder: Path, precision: Precision = Precision.INT8
) -> tuple[BuildResult, float]:
    """Returns how a model with 8-bit weights was built, and the share of its result that is an error."""
    low, high = (-128, 127) if zero.dtype == np.int8 else (0, 255)
    constants = {
        "w": RANDOM.integers(low, high, (size, 64), endpoint=True).astype(zero.dtype),
        "ws": RANDOM.uniform(0.001, 0.01, 64).astype(np.float32),
        "wz": zero,
        "s": np.float32(0.03),
        "z": np.uint8(120),
    }
    model = ir.from_proto(model_of_text(nodes, f"float[2,5,{size}] x", "float[2,5,64] y", constants))
    for index, node in enumerate(model.graph):
        node.name = f"{node.op_type} {index}"
    feed = {"x": RANDOM.standard_normal((2, 5, size)).astype(np.float32)}
    expected = Evaluator(model).run(feed)["y"]
    options = BuildOptions(precision=precision, threads=1, came_quantized=True)
    result, outputs = run_in_openvino(model, feed, folder, options)
    return result, np.linalg.norm(outputs["y"] - expected) / np.linalg.norm(expected)


SIGNED, UNSIGNED = np.zeros(64, np.int8), np.arange(90, 154).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "zero", "kind"),
    [
        (31, SIGNED, "float32"),
        (32, SIGNED, "int8"),
        (100, UNSIGNED, "int8"),
        (100, SIGNED + np.int8(5), "float32"),
    ],
)
def test_products_with_8_bit_weights_alone_are_counted_as_they_are_multiplied(
    size: int, zero: np.ndarray, kind: str, tmp_path: Path
) -> None:
    result, error = built(f"{WEIGHTS}  y = MatMul (x, wd)", size, zero, tmp_path)
    assert result.layers == {kind: 1}
    assert (error > 1e-4) == (kind == "int8")
    note = "openvino runs 1 of 1 quantized layers in float32: MatMul 1, with weights of 8 bits"
    assert result.notes == ((note,) if kind == "float32" else ())


def test_a_float_product_with_8_bit_weights_stays_exact_beside_integers(tmp_path: Path) -> None:
    nodes = f"""q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  {WEIGHTS}
    a = MatMul (d, wd)  b = Tanh (a)  y = MatMul (b, wd)"""
    result, error = built(nodes, 64, SIGNED, tmp_path)
    assert result.layers == {"int8": 1, "float32": 1}
    assert error < 1e-5


def test_a_build_in_float_does_not_round_what_8_bit_weights_multiply(tmp_path: Path) -> None:
    result, error = built(f"{WEIGHTS}  y = MatMul (x, wd)", 64, SIGNED, tmp_path, Precision.FP32)
    assert result.layers == {"float32": 1}
    assert error < 1e-6
