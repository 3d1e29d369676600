"""Transposed convolutions with strides and dilations, against those that ONNX Runtime computes as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.graph.evaluator import Evaluator
from edgekit.lower.rewriting import lower
from edgekit.lower.spread_kernel import SpreadKernel
from edgekit.specs import Precision
from tests.lower.models import built_for_rtx, model_of_text

RANDOM = np.random.default_rng(11)
CASES = [
    "strides=[2, 2], dilations=[2, 2]",
    "strides=[1, 3], dilations=[3, 1], pads=[1, 0, 2, 1]",
    "strides=[2, 1], dilations=[1, 2], group=2",
    "strides=[2, 2], dilations=[2, 3], output_padding=[1, 0]",
    'strides=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER"',
]


def graph_of(attributes: str, *, quantized: bool, kernel_shape: bool = False) -> ir.Model:
    """``y``, 4 or 8 channels, from ``x``, 1 x 4 x 5 x 6."""
    channels = 2 * (2 if "group" in attributes else 1)
    if kernel_shape:
        attributes += ", kernel_shape=[3, 2]"
    pairs = "xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  wd = DequantizeLinear<axis=1>(w, ws, wz)"
    nodes = (
        f"{pairs}  y = ConvTranspose<{attributes}>(xd, wd)" if quantized else f"y = ConvTranspose<{attributes}>(x, w)"
    )
    weights = RANDOM.integers(-127, 128, (4, 2, 3, 2))
    constants = {
        "w": weights.astype(np.int8) if quantized else weights.astype(np.float32),
        "s": np.float32(0.02),
        "z": np.int8(0),
        "ws": np.array([0.01, 0.03], np.float32),
        "wz": np.zeros(2, np.int8),
    }
    return ir.from_proto(model_of_text(nodes, "float[1, 4, 5, 6] x", f"float[1, {channels}, h, w] y", constants))


@pytest.mark.parametrize("kernel_shape", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("attributes", CASES)
def test_it_computes_the_same_without_dilations(attributes: str, quantized: bool, kernel_shape: bool) -> None:
    graph = graph_of(attributes, quantized=quantized, kernel_shape=kernel_shape)
    x = RANDOM.standard_normal((1, 4, 5, 6)).astype(np.float32)
    expected = Evaluator(graph).run({"x": x})["y"]
    assert lower(graph, [SpreadKernel()])
    (node,) = (node for node in graph.graph if node.op_type == "ConvTranspose")
    assert set(node.attributes.get_ints("dilations")) == {1}
    found = Evaluator(graph).run({"x": x})["y"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("attributes", ["strides=[2, 2]", "dilations=[2, 2]", "strides=[1, 1], dilations=[2, 1]"])
def test_one_without_both_stays(attributes: str) -> None:
    assert not lower(graph_of(attributes, quantized=False), [SpreadKernel()])


@pytest.mark.parametrize("quantized", [False, True])
def test_tensorrt_rtx_builds_it(quantized: bool, tmp_path: Path) -> None:
    graph = graph_of(CASES[0], quantized=quantized)
    lower(graph, [SpreadKernel()])
    assert built_for_rtx(graph, tmp_path, Precision.INT8 if quantized else Precision.FP32).engine
