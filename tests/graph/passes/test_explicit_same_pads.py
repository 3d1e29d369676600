"""Dilated convolutions and poolings whose pads follow from the size of the image; PyTorch computes the right values."""

from __future__ import annotations

from collections.abc import Mapping
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


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_pads_as_wide_as_the_kernel_of_a_pooling(operator: str, target: str, tmp_path: Path) -> None:
    """ONNX Runtime refuses such pads, so a Pad is before the pooling."""
    backend(target).require()
    path = pooled(tmp_path / "m.onnx", operator, "SAME_UPPER", (1, 1), (3, 3), (9, 10))
    x = RANDOM.standard_normal((1, 3, 9, 10)).astype(np.float32)
    check(path, {(9, 10): x}, operator, "SAME_UPPER", (1, 1), (3, 3), target)


def test_without_strides_the_pads_do_not_depend_on_a_dynamic_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "SAME_UPPER", (1, 1), ("h", "w"))
    model = load_model(
        ModelConfig(model=path, input={"x": (1, 3, SizeRange(5, 9, 20), SizeRange(5, 10, 20))}), Silent()
    )
    (node,) = model.graph.graph
    assert node.attributes["pads"].as_ints() == (2, 1, 2, 2) and "auto_pad" not in node.attributes


def pooled(
    path: Path,
    operator: str,
    auto_pad: str,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    sizes: tuple[int | str, int | str],
    opset: int = 22,
) -> Path:
    counted = ", count_include_pad = 1" if operator == "CountedPool" else ""
    name = "AveragePool" if counted else operator
    pool = (
        f'{name} <kernel_shape = [3, 2], auto_pad = "{auto_pad}", dilations = {list(dilations)}, '
        f"strides = {list(strides)}{counted}>"
    )
    shape = ", ".join(map(str, sizes))
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[1, 3, {shape}] x) => (float[1, 3, a, b] y) {{ y = {pool} (x) }}"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def pooling(
    x: np.ndarray, operator: str, auto_pad: str, strides: tuple[int, int], dilations: tuple[int, int]
) -> np.ndarray:
    """What ONNX defines, window by window in numpy."""
    (height, width), kernel = x.shape[2:], (3, 2)
    left, right, top, bottom = pads_of((height, width), auto_pad, strides, kernel, dilations)
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded, inside = np.pad(x.astype(np.float64), around), np.pad(np.ones_like(x, bool), around)
    outputs = np.zeros((*x.shape[:2], -(-height // strides[0]), -(-width // strides[1])))
    for row, column in np.ndindex(*outputs.shape[2:]):
        rows = row * strides[0] + np.arange(kernel[0]) * dilations[0]
        columns = column * strides[1] + np.arange(kernel[1]) * dilations[1]
        window, taken = padded[:, :, rows][..., columns], inside[:, :, rows][..., columns]
        outputs[..., row, column] = {
            "MaxPool": np.where(taken, window, -np.inf).max((2, 3)),
            "AveragePool": window.sum((2, 3)) / taken.sum((2, 3)),
            "CountedPool": window.mean((2, 3)),
            "LpPool": np.sqrt(np.square(window).sum((2, 3))),
        }[operator]
    return outputs


def check(
    path: Path,
    inputs: Mapping[tuple[int, int], np.ndarray],
    operator: str,
    auto_pad: str,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    target: str,
    **options: object,
) -> None:
    rights = [pooling(x, operator, auto_pad, strides, dilations) for x in inputs.values()]
    feeds = [{"x": x} for x in inputs.values()]
    for got, right in zip(OnnxOriginal(path).run(feeds), rights, strict=True):
        np.testing.assert_allclose(got["y"], right, rtol=1e-4, atol=1e-5)
    place = path.parent / "engine"
    built = edgekit.build(path, precision="fp32", target=target, output=place, profile=False, progress=False, **options)
    with edgekit.load(built) as session:
        for feed, right in zip(feeds, rights, strict=True):
            np.testing.assert_allclose(session.run(feed)["y"], right, rtol=1e-4, atol=1e-5)


SIZES = ((5, 5), (9, 10), (8, 7), (20, 20))
RANGES = {"x": (1, 3, SizeRange(5, 9, 20), SizeRange(5, 10, 20))}


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "CountedPool", "LpPool"])
def test_pads_of_a_pooling_follow_a_dynamic_size(operator: str, auto_pad: str, target: str, tmp_path: Path) -> None:
    backend(target).require()
    path = pooled(tmp_path / "m.onnx", operator, auto_pad, (2, 3), (2, 3), ("h", "w"))
    inputs = {each: RANDOM.standard_normal((1, 3, *each)).astype(np.float32) for each in SIZES}
    check(path, inputs, operator, auto_pad, (2, 3), (2, 3), target, input=RANGES)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_pads_of_a_convolution_follow_a_dynamic_size(auto_pad: str, target: str, tmp_path: Path) -> None:
    backend(target).require()
    path = saved(tmp_path / "m.onnx", auto_pad, (2, 2), ("h", "w"))
    feeds = [{"x": RANDOM.standard_normal((1, 3, *each)).astype(np.float32)} for each in SIZES]
    rights = [expected(feed["x"], auto_pad, (2, 2)) for feed in feeds]
    for got, right in zip(OnnxOriginal(path).run(feeds), rights, strict=True):
        np.testing.assert_allclose(got["y"], right, rtol=1e-4, atol=1e-5)
    place = tmp_path / "engine"
    built = edgekit.build(
        path, precision="fp32", target=target, output=place, profile=False, progress=False, input=RANGES
    )
    with edgekit.load(built) as session:
        for feed, right in zip(feeds, rights, strict=True):
            np.testing.assert_allclose(session.run(feed)["y"], right, rtol=1e-4, atol=1e-5)


def test_pads_of_integers_are_their_zero_point(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (uint8[1, 3, h, w] x) => (int32[1, 4, a, b] y) <uint8 z = {77}>
    { y = ConvInteger <auto_pad = "SAME_UPPER", dilations = [2, 3], strides = [2, 2]> (x, w, z) }"""
    proto = onnx.parser.parse_model(text)
    weight = RANDOM.integers(-128, 128, WEIGHT.shape).astype(np.int8)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    x = RANDOM.integers(0, 256, (1, 3, 9, 10)).astype(np.uint8)
    padded = torch.nn.functional.pad(
        torch.from_numpy(x.astype(np.float64) - 77), pads_of((9, 10), "SAME_UPPER", (2, 2))
    )
    right = torch.nn.functional.conv2d(padded, torch.from_numpy(weight.astype(np.float64)), stride=2, dilation=(2, 3))
    (got,) = OnnxOriginal(tmp_path / "m.onnx").run([{"x": x}])
    np.testing.assert_array_equal(got["y"], right.numpy())


def test_an_old_file_with_a_dynamic_size_is_built_too(tmp_path: Path) -> None:
    path = pooled(tmp_path / "m.onnx", "MaxPool", "SAME_LOWER", (2, 2), (2, 2), ("h", "w"), opset=10)
    x = RANDOM.standard_normal((1, 3, 8, 7)).astype(np.float32)
    check(path, {(8, 7): x}, "MaxPool", "SAME_LOWER", (2, 2), (2, 2), "cpu", input=RANGES)


def test_indices_of_padded_windows_are_refused_with_a_way_on(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]>
    g (float[1, 3, h, w] x) => (float[1, 3, a, b] y, int64[1, 3, a, b] i)
    { y, i = MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER", dilations = [2, 2], strides = [2, 2]> (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match=r"node '\w+': a MaxPool with auto_pad=SAME_UPPER .* indices") as error:
        load_model(ModelConfig(model=tmp_path / "m.onnx", input=RANGES), Silent())
    assert "export it with pads" in error.value.hint
