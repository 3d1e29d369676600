"""Darknet's files and models, against OpenCV's reader of the same files."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.errors import ModelError
from edgekit.models.blocks import ConvNormAct, LocallyConnected, MaxPoolSame
from edgekit.models.darknet import load_darknet, save_darknet
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.read import load_weights
from edgekit.recipe.schema import load_recipe

CFG = Path(__file__).parent / "cfg"
DATA = os.environ.get("EDGEKIT_TEST_DATA")
MODELS = ["yolov3", "yolov3-spp", "yolov3-tiny"]


def small(seed: int = 0, channels: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    module = nn.Sequential(ConvNormAct(3, channels, 3), ConvNormAct(channels, 5, 1), nn.Conv2d(5, 6, 1))
    randomize(module)
    return module.eval()


def randomize(module: nn.Module) -> None:
    """Sets statistics and biases that differ by channel, so that a wrong order is detected."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                part.weight.mul_(torch.empty_like(part.weight).uniform_(0.5, 1.5))
                part.bias.normal_(std=0.2)
                part.running_mean.normal_(std=0.2)
                part.running_var.uniform_(0.5, 2.0)
            elif isinstance(part, nn.Conv2d) and part.bias is not None:
                part.weight.normal_(std=0.05)
                part.bias.normal_()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def opencv_heads(cfg: str, weights: Path, images: np.ndarray, folder: Path) -> list[np.ndarray]:
    """OpenCV's outputs of the convolutions before each ``[yolo]``, at the image size."""
    size = images.shape[2]
    text = re.sub(r"^(width|height)=\d+", rf"\1={size}", cfg, flags=re.MULTILINE)
    sections = re.findall(r"^\[(\w+)\]", text, flags=re.MULTILINE)[1:]
    heads = [f"conv_{i - 1}" for i, section in enumerate(sections) if section == "yolo"]
    (folder / "model.cfg").write_text(text)
    net = cv2.dnn.readNetFromDarknet(str(folder / "model.cfg"), str(weights))
    net.setInput(images)
    return list(net.forward(heads))


@pytest.mark.parametrize("name", MODELS)
def test_heads_match_opencv_with_the_same_file(name: str, tmp_path: Path) -> None:
    module = module_from_recipe(load_recipe(name), seed=1)
    randomize(module)
    weights = tmp_path / "model.weights"
    save_darknet(module, weights)
    assert weights.stat().st_size == load_recipe(name).weights["coco"].size_bytes
    images = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    expected = opencv_heads((CFG / f"{name}.cfg").read_text(), weights, images, tmp_path)
    again = module_from_recipe(load_recipe(name), seed=2)
    load_weights(again, weights)
    weights.unlink()
    with torch.inference_mode():
        heads = again(torch.from_numpy(images))
    assert len(heads) == len(expected)
    for head, other in zip(heads, expected, strict=True):
        assert head.shape == other.shape
        assert np.abs(head.numpy() - other).max() < 1e-4 * np.abs(other).max()


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="EDGEKIT_TEST_DATA is not set")
def test_trained_tiny_matches_opencv(tmp_path: Path) -> None:
    folder = Path(DATA or "") / "yolov3-tiny"
    weights = folder / "yolov3-tiny.weights"
    photo = cv2.resize(cv2.imread(str(folder.parent / "photos" / "dog.jpg")), (416, 416))
    images = cv2.dnn.blobFromImage(photo, 1 / 255, swapRB=True)
    expected = opencv_heads((folder / "yolov3-tiny.cfg").read_text(), weights, images, tmp_path)
    module = module_from_recipe(load_recipe("yolov3-tiny"))
    load_weights(module, weights)
    with torch.inference_mode():
        heads = module(torch.from_numpy(images))
    for head, other in zip(heads, expected, strict=True):
        assert np.abs(head.numpy() - other).max() < 1e-4 * np.abs(other).max()


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="EDGEKIT_TEST_DATA is not set")
def test_second_head_of_tiny_has_the_anchors_that_its_weights_were_trained_with() -> None:
    folder = Path(DATA or "")
    recipe = load_recipe("yolov3-tiny")
    module = module_from_recipe(recipe)
    load_weights(module, folder / "yolov3-tiny" / "yolov3-tiny.weights")
    photo = cv2.imread(str(folder / "photos" / "dog.jpg"))[:, :, ::-1]  # 768 x 576: 416 x 312 and 52 px of bars
    canvas = np.full((416, 416, 3), 128, np.uint8)
    canvas[52:364] = cv2.resize(photo, (416, 312))
    with torch.inference_mode():
        raw = module(torch.from_numpy(canvas / np.float32(255)).permute(2, 0, 1)[None])[1]
    raw = raw.reshape(3, 85, 26, 26)
    score = raw[:, 4].sigmoid()[:, None] * raw[:, 5:].sigmoid()
    anchor, label, y, x = np.unravel_index(score.argmax().item(), score.shape)
    assert recipe.labels.names[label] == "truck"
    assert recipe.postprocess is not None
    width, height = raw[anchor, 2:4, y, x].exp().numpy() * recipe.postprocess.head.heads[1].anchors[anchor]
    assert width == pytest.approx(120, rel=0.15)
    assert height == pytest.approx(46, rel=0.15)


@pytest.mark.parametrize("kernel", [2, 3, 5, 13])
def test_max_pool_of_stride_one_is_opencvs_dilation(kernel: int) -> None:
    picture = np.random.default_rng(kernel).standard_normal((17, 19)).astype(np.float32)
    before = (kernel - 1) // 2  # OpenCV's anchor is the element of the window that falls on the pixel
    expected = cv2.dilate(picture, np.ones((kernel, kernel)), anchor=(before, before))
    assert np.array_equal(MaxPoolSame(kernel)(torch.from_numpy(picture)[None, None])[0, 0].numpy(), expected)


@pytest.mark.parametrize(
    ("header", "counter"), [((0, 1, 0), "<i"), ((0, 2, 0), "<q"), ((0, 2, 5), "<q"), ((0, 2, 0), "<i")]
)
def test_every_header_is_read(header: tuple[int, int, int], counter: str, tmp_path: Path) -> None:
    save_darknet(small(), tmp_path / "a.weights")
    numbers = (tmp_path / "a.weights").read_bytes()[20:]
    (tmp_path / "b.weights").write_bytes(struct.pack("<iii", *header) + struct.pack(counter, 32013312) + numbers)
    module = small(seed=1)
    load_weights(module, tmp_path / "b.weights")
    assert same(module, small())


@pytest.mark.parametrize("minor", [1, 2])
def test_what_is_saved_is_loaded(minor: int, tmp_path: Path) -> None:
    save_darknet(small(), tmp_path / "a.weights", minor=minor, seen=7)
    module = small(seed=1)
    load_weights(module, tmp_path / "a.weights")
    assert same(module, small())


def test_values_are_in_the_order_bias_scale_mean_variance_kernel(tmp_path: Path) -> None:
    module = ConvNormAct(1, 1, 1)
    (tmp_path / "a.weights").write_bytes(struct.pack("<iiiq5f", 0, 2, 0, 0, 1, 2, 3, 4, 5))
    load_weights(module, tmp_path / "a.weights")
    norm = module.norm
    values = [norm.bias, norm.weight, norm.running_mean, norm.running_var, module.conv.weight]
    assert [value.item() for value in values] == [1, 2, 3, 4, 5]


def full(seed: int = 0) -> nn.Sequential:
    """A locally connected layer, and fully connected layers with and without normalization."""
    torch.manual_seed(seed)
    layers = [LocallyConnected(2, 3, 3, (4, 5), padding=1), nn.Flatten()]
    layers += [nn.Linear(60, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)]
    module = nn.Sequential(*layers)
    randomize(module)
    for part in (module[0], module[4]):
        nn.init.normal_(part.bias)
    return module.eval()


def test_fully_and_locally_connected_layers_are_loaded_as_saved(tmp_path: Path) -> None:
    save_darknet(full(), tmp_path / "a.weights")
    assert (tmp_path / "a.weights").stat().st_size == 20 + 4 * (60 + 20 * 3 * 18 + 4 * 60 + 4 * 4 + 2 * 4 + 2)
    module = full(seed=1)
    load_weights(module, tmp_path / "a.weights")
    assert same(module, full())


def test_weights_of_fully_connected_layers_are_before_their_scales(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    (tmp_path / "a.weights").write_bytes(struct.pack("<iiiq6f", 0, 2, 0, 0, 1, 2, 3, 4, 5, 6))
    load_weights(module, tmp_path / "a.weights")
    linear, norm = module
    assert norm.bias.item() == 1 and linear.weight.tolist() == [[2, 3]]
    assert [norm.weight.item(), norm.running_mean.item(), norm.running_var.item()] == [4, 5, 6]


def test_local_layers_have_kernels_by_position_and_biases_by_channel(tmp_path: Path) -> None:
    layer = LocallyConnected(1, 2, 1, (1, 2))
    (tmp_path / "a.weights").write_bytes(struct.pack("<iiiq8f", 0, 2, 0, 0, *range(8)))
    load_weights(layer, tmp_path / "a.weights")
    with torch.inference_mode():
        y = layer(torch.tensor([[[[10.0, 100.0]]]]))
    # biases 0 1 of the first channel, 2 3 of the second; kernels 4 5 of the first position, 6 7 of the second
    assert y.tolist() == [[[[0 + 40, 1 + 600]], [[2 + 50, 3 + 700]]]]


@pytest.mark.parametrize(("major", "minor"), [(1001, 1), (0, 1002), (1001, 1001)])
def test_versions_above_1000_have_transposed_fully_connected_layers(major: int, minor: int, tmp_path: Path) -> None:
    linear = nn.Linear(3, 2)
    header = struct.pack("<iiii", major, minor, 0, 77)  # 32-bit number of training images
    (tmp_path / "a.weights").write_bytes(header + struct.pack("<8f", 8, 9, 1, 4, 2, 5, 3, 6))
    load_weights(linear, tmp_path / "a.weights")
    assert linear.bias.tolist() == [8, 9] and linear.weight.tolist() == [[1, 2, 3], [4, 5, 6]]


def error_of(module: nn.Module, path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(module, path)
    return str(caught.value)


def test_error_on_a_truncated_file_names_the_incomplete_layer(tmp_path: Path) -> None:
    save_darknet(small(), tmp_path / "a.weights")
    whole = (tmp_path / "a.weights").read_bytes()
    # the layers need 4 * 4 + 108 = 124, 4 * 5 + 20 = 40 and 6 + 30 = 36 floats
    (tmp_path / "b.weights").write_bytes(whole[: 20 + 4 * 130 + 2])
    text = error_of(small(), tmp_path / "b.weights")
    assert "expected 200 floats, got 130 and 2 bytes" in text
    assert "the file ends in '1.conv', layer 2 of 3, which needs 40 and gets 6" in text


def cut(tmp_path: Path) -> Path:
    """A file with the first two of the three layers of `small`, as ``darknet partial`` writes it."""
    save_darknet(small(), tmp_path / "a.weights")
    path = tmp_path / "small.conv.2"
    path.write_bytes((tmp_path / "a.weights").read_bytes()[: 20 + 4 * (124 + 40)])
    return path


def test_a_file_that_ends_after_a_layer_is_for_fine_tuning(tmp_path: Path) -> None:
    path, whole, module = cut(tmp_path), small(), small()
    load_darknet(whole, tmp_path / "a.weights")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    assert load_weights(module, path, partial=True).missing == ("2",)
    for name, tensor in module.state_dict().items():
        if name.startswith("2."):
            assert (tensor == 7).all()
        elif "num_batches" not in name:
            torch.testing.assert_close(tensor, whole.state_dict()[name])


def test_a_build_says_which_layers_are_missing(tmp_path: Path) -> None:
    text = error_of(small(), cut(tmp_path))
    assert "expected 3 layers, got 2: the file ends after '1.conv'" in text
    assert "fine-tuning: edgekit.train(MODEL, weights=FILE)" in text


def test_a_whole_file_has_no_missing_layers(tmp_path: Path) -> None:
    save_darknet(small(), tmp_path / "a.weights")
    assert load_weights(small(), tmp_path / "a.weights", partial=True).missing == ()


def test_error_on_a_file_that_is_too_long_says_how_much_remains(tmp_path: Path) -> None:
    save_darknet(small(), tmp_path / "a.weights")
    with (tmp_path / "a.weights").open("ab") as file:
        file.write(bytes(12))
    text = error_of(small(), tmp_path / "a.weights")
    assert "expected 200 floats, got 203" in text
    assert "3 remain after the last layer, '2'" in text


def test_error_on_weights_of_another_model(tmp_path: Path) -> None:
    save_darknet(small(channels=8), tmp_path / "a.weights")
    assert "another model" in error_of(small(), tmp_path / "a.weights")


def test_error_on_a_header_alone(tmp_path: Path) -> None:
    (tmp_path / "a.weights").write_bytes(struct.pack("<iii", 0, 2, 0))
    assert "expected 200 floats, got 0: the file ends in '0.conv'" in error_of(small(), tmp_path / "a.weights")


@pytest.mark.parametrize(
    ("at", "value", "expected"), [(0, "nan", "0.conv: bias"), (12, "-1", "0.conv: running variance")]
)
def test_error_on_invalid_values(at: int, value: str, expected: str, tmp_path: Path) -> None:
    save_darknet(small(), tmp_path / "a.weights")
    content = bytearray((tmp_path / "a.weights").read_bytes())
    content[20 + 4 * at : 24 + 4 * at] = struct.pack("<f", float(value))
    (tmp_path / "a.weights").write_bytes(content)
    assert expected in error_of(small(), tmp_path / "a.weights")


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.LayerNorm(2)),
        nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)),
        nn.Sequential(nn.Linear(1, 1, bias=False)),
        nn.Sequential(nn.BatchNorm2d(3)),
    ],
)
def test_error_on_a_module_that_the_format_does_not_support(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Darknet weights: expected convolutions, .* at '0'"):
        save_darknet(module, tmp_path / "a.weights")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=900),
        st.tuples(st.sampled_from([0, 1, -1, 2**31 - 1]), st.integers(0, 3), st.binary(max_size=900)).map(
            lambda t: struct.pack("<iii", t[0], t[1], 0) + t[2]
        ),
    )
)
def test_no_bytes_raise_anything_but_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzz.weights"
    path.write_bytes(content)
    for load in (load_weights, load_darknet):
        try:
            load(small(), path)
        except ModelError as e:
            assert "fuzz.weights" in str(e)
        else:
            assert len(content) in (12 + 4 + 800, 12 + 8 + 800)
