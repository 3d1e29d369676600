"""Dilated convolutions and poolings whose pads follow from the size of the image; PyTorch computes the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.config import ModelConfig
from edgekit.engine.backend import backend
from edgekit.errors import GraphError
from edgekit.graph.original import OnnxOriginal
from edgekit.pipeline.load_model import load_model
from edgekit.progress import Silent
from edgekit.specs import SizeRange

RANDOM = np.random.default_rng(5)
WEIGHT = RANDOM.standard_normal((4, 3, 3, 2)).astype(np.float32)
DILATIONS = (2, 3)


def saved(path: Path, auto_pad: str, strides: tuple[int, int], sizes: tuple[int | str, int | str] = (9, 10)) -> Path:
    value = helper.make_tensor_value_info
    conv = helper.make_node(
        "Conv", ["x", "w"], ["y"], name="atrous", auto_pad=auto_pad, dilations=DILATIONS, strides=strides
    )
    graph = helper.make_graph(
        [conv],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, *sizes])],
        [value("y", TensorProto.FLOAT, [1, 4, None, None])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def pads_of(
    sizes: tuple[int, ...],
    auto_pad: str,
    strides: tuple[int, int],
    kernels: tuple[int, ...] = WEIGHT.shape[2:],
    dilations: tuple[int, ...] = DILATIONS,
) -> list[int]:
    """ONNX: as many outputs as ``ceil(size / stride)``; the larger half of an odd number of pads is at the end, or at
    the start."""
    pads: list[int] = []
    for size, kernel, dilation, stride in zip(sizes, kernels, dilations, strides, strict=True):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pads = [*((small, large) if auto_pad == "SAME_UPPER" else (large, small)), *pads]
    return pads


def expected(x: np.ndarray, auto_pad: str, strides: tuple[int, int]) -> np.ndarray:
    pads = pads_of(x.shape[2:], auto_pad, strides)
    padded = torch.nn.functional.pad(torch.from_numpy(x), pads)
    weight = torch.from_numpy(WEIGHT)
    return torch.nn.functional.conv2d(padded, weight, stride=strides, dilation=DILATIONS).numpy()


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_dilated_convolutions_with_auto_pad_compute_what_onnx_defines(
    auto_pad: str, strides: tuple[int, int], tmp_path: Path
) -> None:
    path = saved(tmp_path / "m.onnx", auto_pad, strides)
    x = RANDOM.standard_normal((1, 3, 9, 10)).astype(np.float32)
    (original,) = OnnxOriginal(path).run([{"x": x}])
    right = expected(x, auto_pad, strides)
    np.testing.assert_allclose(original["y"], right, rtol=1e-4, atol=1e-5)
    built = edgekit.build(
        path, precision="fp32", target="cpu", output=tmp_path / "engine", profile=False, progress=False
    )
    with edgekit.load(built) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_dilated_poolings_with_auto_pad_compute_what_onnx_defines(
    target: str, operator: str, auto_pad: str, strides: tuple[int, int], tmp_path: Path
) -> None:
    backend(target).require()
    pool = f'{operator} <kernel_shape = [3, 3], auto_pad = "{auto_pad}", dilations = [2, 1], strides = {list(strides)}>'
    text = f"""<ir_version: 9, opset_import: ["" : 19]>
    g (float[1, 3, 9, 10] x) => (float[1, 3, h, w] y) {{ y = {pool} (x) }}"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    x = np.abs(RANDOM.standard_normal((1, 3, 9, 10))).astype(np.float32)  # a pad of 0 is never the largest
    pads = pads_of(x.shape[2:], auto_pad, strides, (3, 3), (2, 1))
    windows = torch.nn.functional.pad(torch.from_numpy(np.stack([x, np.ones_like(x)])[:, 0]), pads)
    taken = torch.nn.functional.unfold(windows, (3, 3), dilation=(2, 1), stride=strides).reshape(2, 3, 9, -1)
    largest, means = taken[0].amax(1), taken[0].sum(1) / taken[1].sum(1)
    (original,) = OnnxOriginal(path).run([{"x": x}])
    right = (largest if operator == "MaxPool" else means).reshape(original["y"].shape).numpy()
    np.testing.assert_allclose(original["y"], right, rtol=1e-4, atol=1e-5)
    built = edgekit.build(
        path, precision="fp32", target=target, output=tmp_path / "engine", profile=False, progress=False
    )
    with edgekit.load(built) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], right, rtol=1e-4, atol=1e-5)


def test_a_pooling_that_onnx_runtime_lacks_is_refused_with_a_way_on(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float[1, 3, 9, 10] x) => (float[1, 3, 9, 10] y) {
        y = MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER", dilations = [3, 3]> (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=r"node '\w+': the pads of a MaxPool .* are as wide as its kernel") as error:
        load_model(ModelConfig(model=tmp_path / "m.onnx"), Silent())
    assert "Pad before the pooling" in error.value.hint


def test_without_strides_the_pads_do_not_depend_on_a_dynamic_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "SAME_UPPER", (1, 1), ("h", "w"))
    model = load_model(
        ModelConfig(model=path, input={"x": (1, 3, SizeRange(5, 9, 20), SizeRange(5, 10, 20))}), Silent()
    )
    (node,) = model.graph.graph
    assert node.attributes["pads"].as_ints() == (2, 1, 2, 2) and "auto_pad" not in node.attributes


def test_a_dynamic_size_that_decides_the_pads_is_refused_with_a_way_on(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "SAME_LOWER", (2, 2), ("h", "w"))
    with pytest.raises(GraphError, match="node 'atrous': the pads of a Conv with auto_pad=SAME_LOWER") as error:
        load_model(ModelConfig(model=path, input={"x": (1, 3, SizeRange(5, 9, 20), SizeRange(5, 10, 20))}), Silent())
    assert "fixed size" in error.value.hint
    x = RANDOM.standard_normal((1, 3, 9, 10)).astype(np.float32)
    model = load_model(ModelConfig(model=path, input={"x": (1, 3, 9, 10)}), Silent())
    (original,) = model.original.run([{"x": x}])
    np.testing.assert_allclose(original["y"], expected(x, "SAME_LOWER", (2, 2)), rtol=1e-4, atol=1e-5)
