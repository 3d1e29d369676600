"""Integer convolutions of few channels on OpenVINO; ONNX Runtime without optimizations has the right values."""

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
from edgekit.lower.widen_kernel_rows import WidenKernelRows
from edgekit.specs import Precision
from tests.lower.models import run_in_openvino

RANDOM = np.random.default_rng(8)


def model_of(
    channels: int, group: int, kernel: tuple[int, ...], attributes: str, zero: int = 0, width: int = 0
) -> onnx.ModelProto:
    """Returns a convolution of 8-bit activations and weights, of ``channels`` a group; its input has a ``width``."""
    count = channels * group
    image = [size + 5 for size in kernel]
    sizes = ",".join(map(str, [*image[:-1], width or image[-1]]))
    out = ",".join("mn"[: len(kernel)])
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, {count}, {sizes}] x) => (float[2, {count}, {out}] y) <float s = {{0.03}}, uint8 z = {{120}}> {{
        q = QuantizeLinear (x, s, z)  h = DequantizeLinear (q, s, z)
        k = DequantizeLinear <axis = 0> (w, ws, wz)
        y = Conv <group = {group}{attributes}> (h, k, b) }}"""
    model = onnx.parser.parse_model(text)
    constants = {
        "w": RANDOM.integers(-100, 100, (count, channels, *kernel)).astype(np.int8),
        "ws": RANDOM.uniform(0.001, 0.002, count).astype(np.float32),
        "wz": np.full(count, zero, np.int8),
        "b": RANDOM.standard_normal(count).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(model)


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    shape = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": RANDOM.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize(
    ("channels", "group", "kernel", "attributes"),
    [
        (16, 1, (8,), ""),
        (16, 4, (16,), ", pads = [8, 8]"),
        (24, 2, (8,), ', auto_pad = "SAME_UPPER"'),
        (28, 2, (16,), ', auto_pad = "SAME_LOWER"'),
        (4, 4, (32,), ", pads = [3, 0]"),
        (8, 1, (3, 16), ", pads = [1, 2, 0, 3], strides = [2, 1]"),
        (16, 2, (8, 8), ""),
        (16, 2, (4,), ""),
        (16, 1, (8,), ", strides = [2]"),
        (24, 2, (1, 8), ", strides = [3, 2]"),
        (32, 1, (8,), ""),
    ],
)
def test_openvino_multiplies_each_column_by_its_own_weights(
    channels: int, group: int, kernel: tuple[int, ...], attributes: str, tmp_path: Path, width: int = 0
) -> None:
    pytest.importorskip("openvino")
    model = model_of(channels, group, kernel, attributes, width=width)
    feeds = feeds_of(model)
    onnx.save(model, tmp_path / "m.onnx")
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result, outputs = run_in_openvino(graph_from_onnx(tmp_path / "m.onnx"), feeds, tmp_path, options)
    assert list(result.layers) == ["int8"]
    np.testing.assert_allclose(outputs["y"], original_outputs(model, feeds)["y"], atol=1e-2)


def widened(model: onnx.ModelProto) -> ir.Model:
    graph = ir.from_proto(model)
    WidenKernelRows()(graph)
    return graph


def kernel_of(graph: ir.Model) -> list[int]:
    (node,) = (node for node in graph.graph if node.op_type == "Conv")
    return list(node.attributes.get_ints("kernel_shape", ()))


@pytest.mark.parametrize(
    ("kernel", "width", "attributes"),
    [
        ((3, 3), 3, ", strides = [1, 2]"),
        ((3, 3), 4, ", strides = [2, 2], pads = [3, 0, 3, 0]"),
        ((2, 4), 4, ", strides = [1, 3], pads = [0, 1, 0, 0]"),
        ((1, 5), 6, ", strides = [1, 3]"),
        ((1, 7), 8, ', strides = [1, 2], auto_pad = "VALID"'),
    ],
)
def test_outputs_of_one_column_are_right(kernel: tuple[int, ...], width: int, attributes: str, tmp_path: Path) -> None:
    test_openvino_multiplies_each_column_by_its_own_weights(16, 1, kernel, attributes, tmp_path, width)
    model = model_of(16, 1, kernel, attributes, width=width)
    graph, feeds = widened(model), feeds_of(model)
    (node,) = (node for node in graph.graph if node.op_type == "Conv")
    assert node.attributes.get_ints("strides")[-1] == 1
    expected = original_outputs(model, feeds)["y"]
    assert expected.shape[-1] == 1
    np.testing.assert_allclose(original_outputs(ir.to_proto(graph), feeds)["y"], expected, atol=1e-4)


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize(
    "attributes", ["", ", pads = [2, 3]", *(f', auto_pad = "{pad}"' for pad in ("SAME_LOWER", "SAME_UPPER", "VALID"))]
)
def test_results_are_equal(attributes: str, zero: int) -> None:
    model = model_of(16, 2, (8,), attributes, zero)
    graph, feeds = widened(model), feeds_of(model)
    assert kernel_of(graph) == [9]
    got = original_outputs(ir.to_proto(graph), feeds)["y"]
    np.testing.assert_allclose(got, original_outputs(model, feeds)["y"], atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "kernel", "attributes"),
    [
        (16, (4,), ""),
        (32, (8,), ""),
        (2, (64,), ""),
        (16, (16, 1), ""),
        (16, (8,), ", dilations = [2], pads = [7, 7]"),
    ],
)
def test_others_stay(channels: int, kernel: tuple[int, ...], attributes: str, reasons: Callable[[], list[str]]) -> None:
    model = model_of(channels, 2, kernel, attributes)
    assert kernel_of(widened(model)) != [*kernel[:-1], kernel[-1] + 1]
    assert ["its rows nor its outputs are of a width" in each for each in reasons()] == [True]
