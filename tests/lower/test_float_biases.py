"""Biases of 32-bit integers become floats; ONNX Runtime and NumPy compute the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import ArrayLike

from edgekit.graph.evaluator import Evaluator
from edgekit.lower.float_biases import FloatBiases
from edgekit.lower.rewriting import lower
from edgekit.lower.tensorrt_operators import use_tensorrt_operators
from edgekit.specs import Precision
from tests.lower.models import built_for_rtx, model_of_text

DRAW = np.random.default_rng(0)
CONSTANTS: dict[str, ArrayLike] = {
    "sx": np.float32(0.02),
    "zx": np.int8(0),
    "wq": DRAW.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8),
    "sw": np.asarray([0.1, 0.2, 0.05, 0.3], np.float32),
    "bq": np.asarray([1000, -(2**30), 7, 0], np.int32),
    "sb": np.asarray([0.002, 1e-6, 0.001, 0.006], np.float32),
    "one": np.float32(0.002),
    "zb": np.asarray([1, 2, 3, 4], np.int32),
}
CONV = (
    "xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx) w = DequantizeLinear <axis = 0> (wq, sw) "
    "b = {bias} y = Conv (xd, w, b)"
)
FORMS = {
    "by channel": "DequantizeLinear <axis = 0> (bq, sb)",
    "of one scale": "DequantizeLinear (bq, one)",
}


def graph_of(bias: str) -> ir.Model:
    text = CONV.format(bias=bias)
    return ir.from_proto(model_of_text(text, "float[1, 3, 5, 5] x", "float[1, 4, 5, 5] y", CONSTANTS))


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_of_integers_is_one_of_floats(form: str) -> None:
    graph = graph_of(FORMS[form])
    feed = {"x": DRAW.standard_normal((1, 3, 5, 5)).astype(np.float32)}
    expected = Evaluator(graph).run(feed)["y"]
    assert lower(graph, [FloatBiases()])
    bias = next(node for node in graph.graph if node.op_type == "Conv").inputs[2]
    assert bias is not None and bias.const_value is not None
    numbers = np.asarray(CONSTANTS["bq"]) * np.asarray(CONSTANTS["sb" if form == "by channel" else "one"], np.float64)
    np.testing.assert_allclose(bias.const_value.numpy(), numbers, rtol=1e-6)
    np.testing.assert_allclose(Evaluator(graph).run(feed)["y"], expected, rtol=1e-5, atol=1e-5)
    assert not lower(graph, [FloatBiases()])


def test_weights_stay_integers() -> None:
    graph = graph_of(FORMS["by channel"])
    lower(graph, [FloatBiases()])
    assert [node.op_type for node in graph.graph].count("DequantizeLinear") == 2


def test_tensorrt_rtx_builds_it(tmp_path: Path) -> None:
    graph = graph_of(FORMS["by channel"])
    assert use_tensorrt_operators(graph)
    assert built_for_rtx(graph, tmp_path, Precision.INT8).engine
