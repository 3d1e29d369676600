"""Strided 1x1 convolutions with pads on OpenVINO; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from operator_graphs import original_outputs

from edgekit.engine.backend import BuildOptions
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.widen_padded_points import WidenPaddedPoints
from edgekit.specs import Precision
from tests.lower.models import run_in_openvino

RANDOM = np.random.default_rng(6)
BEFORE = {
    "nothing": "h = Identity (x)",
    "activation": "h = Relu (x)",
    "pad": "a = Relu (x)  h = Pad (a, ones)",
    "convolution": "a = Relu (x)  h = Conv <pads = [1, 0, 0, 0]> (a, v)",
    "integers": "q = QuantizeLinear (x, s, z)  h = DequantizeLinear (q, s, z)",
}


def model_of(before: str, pads: tuple[int, ...], stride: int, weights: str) -> onnx.ModelProto:
    wide = "k = DequantizeLinear <axis = 0> (wq, ws, wz)" if weights == "integers" else "k = Identity (w)"
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 3, 6, 7] x) => (float[2, 4, m, n] y) <float s = {{0.03}}, uint8 z = {{120}}> {{
        {BEFORE[before]}
        {wide}
        y = Conv <pads = [{",".join(map(str, pads))}], strides = [{stride}, {stride}]> (h, k, b) }}"""
    model = onnx.parser.parse_model(text)
    constants = {
        "ones": np.asarray([0, 0, 1, 1, 0, 0, 0, 1]),
        "v": RANDOM.standard_normal((3, 3, 1, 1)).astype(np.float32),
        "w": RANDOM.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "wq": RANDOM.integers(-100, 100, (4, 3, 1, 1)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.ones(4, np.float32),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pads", [(1, 1, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0), (0, 0, 0, 0)])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("weights", ["floats", "integers"])
def test_openvino_pads_before_it_takes_steps(
    weights: str, before: str, pads: tuple[int, ...], stride: int, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    model = model_of(before, pads, stride, weights)
    feeds = {"x": RANDOM.standard_normal((2, 3, 6, 7)).astype(np.float32)}
    onnx.save(model, tmp_path / "m.onnx")
    integers = (weights, before) == ("integers", "integers")
    precision = Precision.INT8 if integers else Precision.FP32
    _, outputs = run_in_openvino(
        graph_from_onnx(tmp_path / "m.onnx"),
        feeds,
        tmp_path,
        BuildOptions(precision=precision, threads=1, came_quantized=True),
    )
    np.testing.assert_allclose(outputs["y"], original_outputs(model, feeds)["y"], atol=1e-4)


def widened(model: onnx.ModelProto) -> ir.Model:
    graph = ir.from_proto(model)
    WidenPaddedPoints()(graph)
    return graph


@pytest.mark.parametrize("zeros", [(3, 3, 3, 3), (1, 2, 3, 4)])
def test_weights_are_padded_with_their_zero_point(zeros: tuple[int, ...]) -> None:
    model = model_of("integers", (1, 1, 0, 0), 2, "integers")
    (zero,) = [each for each in model.graph.initializer if each.name == "wz"]
    zero.CopyFrom(numpy_helper.from_array(np.asarray(zeros, np.int8), "wz"))
    feeds = {"x": RANDOM.standard_normal((2, 3, 6, 7)).astype(np.float32)}
    got = original_outputs(ir.to_proto(widened(model)), feeds)
    np.testing.assert_allclose(got["y"], original_outputs(model, feeds)["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("pads", "stride", "reason"),
    [((0, 0, 0, 0), 2, "it has no pads"), ((1, 1, 1, 1), 1, "it has no stride")],
)
def test_others_stay(pads: tuple[int, ...], stride: int, reason: str, reasons: Callable[[], list[str]]) -> None:
    graph = widened(model_of("activation", pads, stride, "floats"))
    assert [node.op_type for node in graph.graph] == ["Relu", "Identity", "Conv"]
    assert [reason in each for each in reasons()] == [True]


def test_a_stride_behind_counts() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
        g (float[1, 3, 6, 6] x, float[3, 3, 1, 1] w) => (float[1, 3, m, n] y) {
        a = Conv <pads = [1, 1, 0, 0]> (x, w)  b = Relu (a)  y = Conv <strides = [2, 2]> (b, w) }"""
    graph = widened(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    assert [node.op_type for node in graph.graph] == ["Pad", "Conv", "Relu", "Conv"]


def test_a_group_is_not_moved() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
        g (float[1, 3, 6, 6] x, float[3, 1, 1, 1] w) => (float[1, 3, m, n] y) {
        y = Conv <pads = [1, 1, 0, 0], strides = [2, 2], group = 3> (x, w) }"""
    graph = widened(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    assert [node.op_type for node in graph.graph] == ["Conv"]
