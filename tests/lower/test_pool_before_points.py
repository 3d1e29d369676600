"""Strided 1x1 convolutions of integers on OpenVINO; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.pool_before_points import PoolBeforePoints
from edgekit.lower.rewriting import lower
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

READERS = {
    "one": ("y = Conv <strides = [2, 2]> (d, wd)", 1),
    "two": ("a = Conv <strides = [2, 2]> (d, wd)  b = Conv <strides = [2, 2]> (d, other)  y = Sub (a, b)", 2),
    "unequal strides": ("y = Conv <strides = [1, 3]> (d, wd)", 1),
    "SAME": ('y = Conv <strides = [2, 2], auto_pad = "SAME_UPPER"> (d, wd)', 1),
}
OTHERS = {
    "no stride": "y = Conv (d, wd)",
    "other strides": "a = Conv <strides = [2, 2]> (d, wd)  y = Conv <strides = [1, 2]> (d, wd)",
    "another kernel": "y = Conv <strides = [2, 2]> (d, wide)",
    "another reader": "a = Conv <strides = [2, 2]> (d, wd)  y = Sigmoid (d)",
    "groups": "y = Conv <strides = [2, 2], group = 3> (d, deep)",
    "pads": "y = Conv <strides = [2, 2], pads = [1, 0, 0, 0]> (d, wd)",
}


def model(readers: str, first: str = "f = Relu (x)", axes: int = 2) -> onnx.ModelProto:
    random = np.random.default_rng(2)
    one = [1] * axes
    constants = {
        "s": np.float32(0.03),
        "z": np.uint8(120),
        "ws": random.uniform(0.001, 0.01, 4).astype(np.float32),
        "ds": random.uniform(0.001, 0.01, 3).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "dz": np.zeros(3, np.int8),
        "w": random.integers(-100, 100, (4, 3, *one)).astype(np.int8),
        "w2": random.integers(-100, 100, (4, 3, *one)).astype(np.int8),
        "v": random.integers(-100, 100, (4, 3, *[2] * axes)).astype(np.int8),
        "u": random.integers(-100, 100, (3, 1, *one)).astype(np.int8),
    }
    return model_of_text(
        f"""{first}  q = QuantizeLinear (f, s, z)  d = DequantizeLinear (q, s, z)
        wd = DequantizeLinear <axis = 0> (w, ws, wz)  other = DequantizeLinear <axis = 0> (w2, ws, wz)
        wide = DequantizeLinear <axis = 0> (v, ws, wz)
        deep = DequantizeLinear <axis = 0> (u, ds, dz)  {readers}""",
        f"float[2, 3, {'6, 9' if axes == 2 else '9'}] x",
        f"float[i, j, {'k, l' if axes == 2 else 'k'}] y",
        constants,
    )


def compare(made: onnx.ModelProto, tmp_path: Path, layers: dict[str, int]) -> None:
    onnx.save(made, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    sizes = [size.dim_value for size in made.graph.input[0].type.tensor_type.shape.dim]
    # Numbers that are not halfway between two integers, so that both divisions by the scale round alike.
    x = (np.random.default_rng(3).integers(-100, 100, sizes) + 0.2).astype(np.float32) * np.float32(0.03)
    expected = Evaluator(graph).run({"x": x})["y"]
    result, got = run_in_openvino(graph, {"x": x}, tmp_path, BuildOptions(precision=Precision.INT8, threads=1))
    assert result.layers == layers
    np.testing.assert_allclose(got["y"], expected, atol=1e-4)


@pytest.mark.parametrize("first", ["f = Identity (x)", "f = Relu (x)", "f = Softmax <axis = 1> (x)"])
@pytest.mark.parametrize("readers", READERS)
def test_strided_points_run_on_integers(readers: str, first: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    text, count = READERS[readers]
    compare(model(text, first), tmp_path, {"int8": count})


def test_strided_points_of_one_axis_run_on_integers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    compare(model("y = Conv <strides = [2]> (d, wd)", axes=1), tmp_path, {"int8": 1})


@pytest.mark.parametrize("readers", OTHERS)
def test_other_convolutions_keep_their_strides(readers: str) -> None:
    assert not lower(ir.from_proto(model(OTHERS[readers])), [PoolBeforePoints()])
