"""Operators that OpenVINO computes wrongly over integers; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from operator_graphs import original_outputs

from edgekit.engine.backend import BuildOptions
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

pytest.importorskip("openvino")

RANDOM = np.random.default_rng(4)


def saved(path: Path, operator: str, axes: tuple[int, ...], keep: int, batch: int | str) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["h"], name="product"),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["hq"]),
        helper.make_node("DequantizeLinear", ["hq", "s", "z"], ["hd"]),
        helper.make_node("Transpose", ["hd"], ["t"], perm=[0, 2, 1]),
        helper.make_node(operator, ["t", "axes"], ["y"], name="mean", keepdims=keep),
    ]
    constants = {
        "s": np.float32(0.03),
        "z": np.uint8(128),
        "w": RANDOM.integers(-100, 100, (8, 8)).astype(np.int8),
        "ws": np.float32(0.005),
        "wz": np.int8(0),
        "axes": np.asarray(axes),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [batch, 5, 8])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("batch", [3, "n"])
@pytest.mark.parametrize(("axes", "keep"), [((1,), 0), ((-2,), 1), ((1, 2), 0), ((2,), 1), ((0, 1), 1)])
def test_openvino_computes_the_mean_of_each_sentence(
    axes: tuple[int, ...], keep: int, batch: int | str, operator: str, tmp_path: Path
) -> None:
    graph = graph_from_onnx(saved(tmp_path / "m.onnx", operator, axes, keep, batch))
    x = RANDOM.standard_normal((3, 5, 8)).astype(np.float32)
    expected = Evaluator(graph).run({"x": x})["y"]
    options = BuildOptions(precision=Precision.INT8, threads=1)
    got = run_in_openvino(graph, {"x": x}, tmp_path, options)[1]["y"]
    np.testing.assert_allclose(got, expected, atol=0.04 * (8 if operator == "ReduceSum" else 1))


def pooled(shape: tuple[int | str, ...], *, integers: bool) -> onnx.ModelProto:
    """A GlobalAveragePool of integers, to integers or to floats."""
    rank, channels = len(shape), int(shape[1])
    nodes = f"""
        xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear(w, ws, wz)
        c = Conv(xd, wd)
        cq = QuantizeLinear(c, s, z)  cd = DequantizeLinear(cq, s, z)
        p = GlobalAveragePool(cd)
        {"yq = QuantizeLinear(p, s, z)  y = DequantizeLinear(yq, s, z)" if integers else "y = Relu(p)"}
    """
    sizes = ", ".join(map(str, shape))
    weights = RANDOM.integers(-90, 91, (channels, channels, *[1] * (rank - 2))).astype(np.int8)
    constants = {"s": np.float32(0.02), "z": np.uint8(90), "w": weights, "ws": np.float32(0.01), "wz": np.int8(0)}
    result = ", ".join(map(str, (*shape[:2], *[1] * (rank - 2))))
    return model_of_text(nodes, f"float[{sizes}] x", f"float[{result}] y", constants)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, "n"])
@pytest.mark.parametrize(("channels", "size"), [(1, (9,)), (2, (9,)), (3, (4,)), (5, (16,)), (8, (5,)), (3, (3, 4))])
def test_openvino_pools_each_channel_of_a_batch(
    channels: int, size: tuple[int, ...], batch: int | str, integers: bool, tmp_path: Path
) -> None:
    onnx.save(pooled((batch, channels, *size), integers=integers), tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    x = RANDOM.uniform(-1, 3, (6 if batch == "n" else batch, channels, *size)).astype(np.float32)
    expected = Evaluator(graph).run({"x": x})["y"]
    got = run_in_openvino(graph, {"x": x}, tmp_path, BuildOptions(precision=Precision.INT8, threads=1))[1]["y"]
    np.testing.assert_allclose(got, expected, atol=0.021)


@pytest.mark.parametrize("fill", [1.5, -2.0, 0.0])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("pads", [(0, 1, 0, 0, 1, 0), (0, 0, 1, 0, 0, 2), (1, 0, 0, 2, 0, 0), (1, 1, 0, 0, 0, 2)])
def test_openvino_pads_with_the_number_itself(pads: tuple[int, ...], batch: int, fill: float, tmp_path: Path) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[{batch}, 5, 8] x) => (float[k, m, n] y)
    <float s = {{0.03}}, uint8 z = {{128}}, float two = {{2.0}}> {{
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  p = Pad (d, pads, fill)  y = Mul (p, two) }}"""
    model = onnx.parser.parse_model(text)
    constants = {"pads": np.asarray(pads), "fill": np.asarray(fill, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(model, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    x = RANDOM.standard_normal((batch, 5, 8)).astype(np.float32)
    expected = Evaluator(graph).run({"x": x})["y"]
    got = run_in_openvino(graph, {"x": x}, tmp_path, BuildOptions(precision=Precision.FP32))[1]["y"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("zero", [0, 131])
@pytest.mark.parametrize(
    "more", ["pads = [1, 1, 1, 1]", "pads = [0, 2, 1, 0], ceil_mode = 1", 'auto_pad = "SAME_UPPER"']
)
def test_openvino_counts_pads_as_zero(more: str, zero: int, tmp_path: Path) -> None:
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 3, 7, 6] x) => (float[2, 3, m, n] y) <float s = {{0.03}}, uint8 z = {{{zero}}}, float two = {{2.0}}> {{
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
        p = AveragePool <kernel_shape = [3, 3], strides = [2, 2], count_include_pad = 1, {more}> (d)
        y = Mul (p, two) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    x = RANDOM.standard_normal((2, 3, 7, 6)).astype(np.float32)
    expected = Evaluator(graph).run({"x": x})["y"]
    got = run_in_openvino(graph, {"x": x}, tmp_path, BuildOptions(precision=Precision.FP32))[1]["y"]
    # Its integer kernel rounds a mean to the nearest integer, by half a step.
    np.testing.assert_allclose(got, expected, atol=0.0301)


@pytest.mark.parametrize("zero", [0, 77])
@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "kernel", "stride"),
    [
        (2, 48, 2, (3, 3), 1),
        (4, 80, 4, (1, 3), 1),
        (8, 33, 3, (3,), 1),
        (16, 65, 2, (1, 1), 1),
        (24, 40, 2, (5,), 1),
        (6, 64, 3, (3, 8), 3),
        (10, 96, 2, (5, 5), 2),
        (8, 32, 2, (3,), 1),
    ],
)
def test_openvino_takes_the_zero_point_of_each_group(
    channels: int, outputs: int, groups: int, kernel: tuple[int, ...], stride: int, zero: int, tmp_path: Path
) -> None:
    strides = [stride] * len(kernel)
    nodes = f"""
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
        wd = DequantizeLinear<axis = 0>(w, ws, wz)  plain = Conv<strides = {strides}>(d, wd)
        vd = DequantizeLinear<axis = 0>(v, vs, vz)  y = Conv<group = {groups}, strides = {strides}>(d, vd)
    """
    inputs, count = channels * groups, outputs * groups
    constants = {
        "s": np.float32(0.03),
        "z": np.uint8(zero),
        "w": RANDOM.integers(-100, 101, (8, inputs, *kernel)).astype(np.int8),
        "ws": np.full(8, 0.001, np.float32),
        "wz": np.zeros(8, np.int8),
        "v": RANDOM.integers(-100, 101, (count, channels, *kernel)).astype(np.int8),
        "vs": RANDOM.uniform(0.001, 0.002, count).astype(np.float32),
        "vz": np.zeros(count, np.int8),
    }
    x = RANDOM.uniform(-1, 4, (1, inputs, *(size + 6 for size in kernel))).astype(np.float32)
    image, result = ", ".join(map(str, x.shape)), ", ".join([str(6 // stride + 1)] * len(kernel))
    model = model_of_text(
        nodes, f"float[{image}] x", f"float[1, 8, {result}] plain, float[1, {count}, {result}] y", constants
    )
    onnx.save(model, tmp_path / "m.onnx")
    expected = original_outputs(model, {"x": x})
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    built, got = run_in_openvino(graph_from_onnx(tmp_path / "m.onnx"), {"x": x}, tmp_path, options)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-2)
    assert built.layers["int8"] == (2 if outputs == 32 or zero == 0 else 1)
