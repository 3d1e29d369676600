"""Models whose image input has bytes; Pillow and ONNX Runtime have the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import edgekit
from edgekit.config import ModelConfig
from edgekit.data.calibration.given_items import ModelInputs, samples_of_item
from edgekit.data.images import preprocess
from edgekit.errors import UsageError
from edgekit.pipeline.loaded_model import input_preprocess
from edgekit.pipeline.new_recipe import recipe_of_onnx
from edgekit.progress import Silent
from edgekit.recipe.schema import Preprocess
from edgekit.recipe.write import recipe_toml
from edgekit.specs import TensorSpec

RANDOM = np.random.default_rng(6)


def spec(*shape: int | str, dtype: str = "uint8") -> TensorSpec:
    return TensorSpec("x", dtype, shape)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("shape", "layout", "color"),
    [
        ((1, 3, 8, 9), "nchw", "rgb"),
        ((1, 8, 9, 3), "nhwc", "rgb"),
        (("N", "H", "W", 3), "nhwc", "rgb"),
        (("N", 3, "H", "W"), "nchw", "rgb"),
        (("N", 8, 9, 1), "nhwc", "gray"),
    ],
)
def test_an_input_of_one_or_three_channels_is_an_image(
    shape: tuple[int | str, ...], layout: str, color: str, dtype: str
) -> None:
    found = input_preprocess(ModelConfig(model="m.onnx"), [spec(*shape, dtype=dtype)], Silent())
    assert found is not None
    assert (found.layout, found.color) == (layout, color)
    assert found.divisor == (1.0 if dtype == "uint8" else 255.0)


@pytest.mark.parametrize("shape", [(1, 8, 9, 4), (1, 8, 3), (3, 8, 9)])
def test_other_bytes_are_no_image(shape: tuple[int, ...]) -> None:
    assert input_preprocess(ModelConfig(model="m.onnx"), [spec(*shape)], Silent()) is None


def test_error_on_a_mean_for_pixels_as_they_are() -> None:
    config = ModelConfig(model="m.onnx", preprocess={"mean": [0.5, 0.5, 0.5]})
    with pytest.raises(UsageError, match=r"input 'x': expected mean=0 and std=1, .* got mean=\[0.5, 0.5, 0.5\]"):
        input_preprocess(config, [spec(1, 8, 9, 3)], Silent())


def test_pixels_are_kept_as_bytes() -> None:
    pixels = RANDOM.integers(0, 256, (8, 9, 3), np.uint8)
    got, _ = preprocess(pixels, Preprocess(divisor=1.0, layout="nhwc"), (1, 8, 9, 3), "uint8")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[0], pixels)


def test_a_batch_of_bytes_is_an_input_and_a_picture_an_image() -> None:
    model = ModelInputs((spec(1, 8, 9, 3),), Preprocess(divisor=1.0, layout="nhwc"), {})
    pixels = RANDOM.integers(0, 256, (8, 9, 3), np.uint8)
    (image,) = samples_of_item(pixels, model, "item 1", set())
    assert isinstance(image, np.ndarray) and image.shape == (8, 9, 3)
    (arrays,) = samples_of_item(pixels[None], model, "item 1", set())
    assert isinstance(arrays, dict)
    np.testing.assert_array_equal(arrays["x"], pixels[None])


NET = """
<ir_version: 10, opset_import: ["" : 20]>
net (uint8[batch, 24, 32, 3] x) => (float[batch, 16, 24, 32] y) <float k = {0.004}> {
  floats = Cast <to = 1> (x)
  small = Mul (floats, k)
  first = Transpose <perm = [0, 3, 1, 2]> (small)
  a = Conv <pads = [1, 1, 1, 1]> (first, stem)
  b = Relu (a)
  y = Conv <pads = [1, 1, 1, 1]> (b, last)
}
"""


def written_net(path: Path) -> Path:
    model = onnx.parser.parse_model(NET)
    for name, shape in (("stem", (16, 3, 3, 3)), ("last", (16, 16, 3, 3))):
        weights = (RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, path)
    return path


def test_pictures_calibrate_and_run_a_model_of_bytes_with_channels_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    written_net(tmp_path / "net.onnx")
    (tmp_path / "photos").mkdir()
    for index in range(4):
        pixels = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    with pytest.warns(UserWarning, match="input 'x' is assumed to be an image: RGB, from 0 to 255"):
        place = edgekit.build(
            tmp_path / "net.onnx",
            target="cpu",
            calib=tmp_path / "photos",
            batch=(1, 2, 4),
            output=tmp_path / "out",
            profile=False,
        )
    with edgekit.load(place) as session:
        feed, _ = session.preprocess(tmp_path / "photos" / "3.png")
        got = session.run(feed)["y"]
    np.testing.assert_array_equal(feed["x"][0], pixels)
    reference = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (expected,) = reference.run(None, {"x": pixels[None]})
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 25


def test_a_recipe_of_a_file_declares_bytes(tmp_path: Path) -> None:
    path = written_net(tmp_path / "net.onnx")
    recipe = recipe_of_onnx(ModelConfig(model=path), tmp_path, Silent())
    (image,) = recipe.inputs
    assert (image.dtype, image.num_values, image.bound) == ("uint8", 0, 256)
    assert recipe.preprocess is not None and recipe.preprocess.divisor == 1
    (tmp_path / "net.toml").write_text(recipe_toml(recipe))
    check_recipe(tmp_path / "net.toml", path)


def check_recipe(recipe: Path, file: Path) -> None:
    """Builds a recipe, and compares it with ONNX Runtime on a file of the same weights."""
    place = edgekit.build(recipe, target="cpu", precision="fp32", output=recipe.parent / "out", progress=False)
    pixels = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)
    with edgekit.load(place) as session:
        feed, _ = session.preprocess(Image.fromarray(pixels))
        got = session.run(feed)["y"]
    np.testing.assert_array_equal(feed["x"][0], pixels)
    reference = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(got, reference.run(None, {"x": pixels[None]})[0], rtol=1e-4, atol=1e-5)


MODULE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.conv.weight.data = torch.arange(108.0).reshape(4, 3, 3, 3) / 100
    def forward(self, x):
        return self.conv(x.permute(0, 3, 1, 2).float() / 255)
"""
RECIPE = """
name = "pixels"
title = "Pixels as they are"
task = "tensor"
outputs = ["y"]
macs = 1
[model]
factory = "net_of_bytes:Net"
parameters = 108
[[inputs]]
name = "x"
shape = [1, 24, 32, 3]
dtype = "uint8"
[preprocess]
divisor = 1
layout = "nhwc"
"""


def test_a_recipe_of_a_module_takes_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net_of_bytes.py").write_text(MODULE)
    (tmp_path / "pixels.toml").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    place = edgekit.build(
        tmp_path / "pixels.toml", target="cpu", precision="fp32", output=tmp_path / "out", progress=False
    )
    pixels = RANDOM.integers(0, 256, (24, 32, 3), np.uint8)
    with edgekit.load(place) as session:
        assert session.inputs[0].dtype == "uint8"
        got = session.run(session.preprocess(Image.fromarray(pixels))[0])["y"]
    padded = np.pad(pixels / 255, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    right = np.einsum("hwcij,ocij->ohw", windows, np.arange(108).reshape(4, 3, 3, 3) / 100)
    np.testing.assert_allclose(got[0], right, rtol=1e-4, atol=1e-4)
