import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.data.images import Placement, preprocess
from edgekit.errors import RecipeError
from edgekit.recipe.schema import Preprocess

rng = np.random.default_rng(0)
sides = st.integers(1, 700)
ways = st.sampled_from(["letterbox", "stretch", "crop"])


def noise(height, width):
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_input_is_contiguous_float32_of_the_model_s_shape():
    for layout, shape in (("nchw", (1, 3, 20, 30)), ("nhwc", (1, 20, 30, 3))):
        batch, _ = preprocess(noise(50, 40), Preprocess(resize="letterbox", layout=layout), shape)
        assert batch.shape == shape and batch.dtype == np.float32 and batch.flags.c_contiguous


def test_every_input_value_is_a_whole_number_divided_by_255():
    batch, _ = preprocess(noise(77, 133), Preprocess(resize="letterbox"), (1, 3, 64, 64))
    pixels = np.rint(batch * 255)
    np.testing.assert_array_equal(batch, pixels.astype(np.float32) / np.float32(255))
    quantized = np.clip(np.rint(batch / np.float32(1 / 255)), 0, 255)
    np.testing.assert_array_equal(quantized, pixels)


def test_image_of_the_input_s_size_is_not_changed():
    image = noise(16, 24)
    for resize in ("letterbox", "stretch", "crop"):
        batch, placement = preprocess(image, Preprocess(resize=resize), (1, 3, 16, 24))
        np.testing.assert_array_equal(batch[0] * 255, image.transpose(2, 0, 1))
        assert placement == Placement((1.0, 1.0), (0.0, 0.0), (24, 16), (24, 16))


def test_layouts_and_color_orders_are_the_same_numbers():
    image = noise(30, 50)
    rgb, _ = preprocess(image, Preprocess(resize="letterbox"), (1, 3, 32, 32))
    bgr, _ = preprocess(image, Preprocess(resize="letterbox", color="bgr"), (1, 3, 32, 32))
    nhwc, _ = preprocess(image, Preprocess(resize="letterbox", layout="nhwc"), (1, 32, 32, 3))
    np.testing.assert_array_equal(bgr, rgb[:, ::-1])
    np.testing.assert_array_equal(nhwc, rgb.transpose(0, 2, 3, 1))


def test_gray_is_the_luma_that_opencv_computes():
    image = noise(16, 16)
    how = Preprocess(color="gray", divisor=1.0, mean=(0.0,), std=(1.0,))
    batch, _ = preprocess(image, how, (1, 1, 16, 16))
    assert np.abs(batch[0, 0] - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).max() <= 1


def test_mean_and_std_are_taken_channel_by_channel():
    image, mean, std = noise(8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch, _ = preprocess(image, Preprocess(mean=mean, std=std), (1, 3, 8, 8))
    expected = (image / 255 - mean) / std
    np.testing.assert_allclose(batch[0].transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-6)


def test_letterbox_lies_where_darknet_puts_it():
    batch, placement = preprocess(np.zeros((576, 768, 3), np.uint8), Preprocess(resize="letterbox"), (1, 3, 416, 416))
    assert placement.offset == (0, 52) and placement.size == (768, 576)
    inside = batch[0, 0] == 0
    assert inside[52:364].all() and not inside[:52].any() and not inside[364:].any()
    assert np.unique(batch).tolist() == [0, np.float32(128 / 255)]


def test_pad_is_normalized_as_a_pixel_is():
    how = Preprocess(resize="letterbox", pad=100, divisor=1.0, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0))
    batch, _ = preprocess(np.full((4, 8, 3), 100, np.uint8), how, (1, 3, 8, 8))
    assert [np.unique(channel).tolist() for channel in batch[0]] == [[49.5], [49.0], [48.5]]


@settings(deadline=None)
@given(sides, sides, st.sampled_from([224, 256, 300]), st.sampled_from([(224, 224), (160, 224)]))
def test_crop_is_resize_and_center_crop(height, width, short_side, size):
    image = Image.fromarray(noise(height, width))
    batch, placement = preprocess(image, Preprocess(resize="crop", resize_to=short_side), (1, 3, *size))
    # as torchvision.transforms.functional.resize and center_crop do it
    short, long = sorted(image.size)
    new_long = short_side * long // short
    new_size = (short_side, new_long) if image.width <= image.height else (new_long, short_side)
    left, top = round((new_size[0] - size[1]) / 2), round((new_size[1] - size[0]) / 2)
    if max(new_size) < 3000:
        whole = image.resize(new_size, Image.Resampling.BILINEAR)
        expected = np.asarray(whole.crop((left, top, left + size[1], top + size[0])), int)
        differences = np.abs(np.rint(batch[0].transpose(1, 2, 0) * 255) - expected)
        assert differences.max() <= 2  # each of Pillow's two passes rounds
    assert placement.offset == (-left, -top)


def test_huge_and_thin_images_need_no_more_memory_than_the_input():
    for size in ((1, 60_000), (60_000, 1), (5472, 3648), (1, 1)):
        for resize in ("letterbox", "stretch", "crop"):
            batch, _ = preprocess(Image.new("RGB", size, (255, 0, 0)), Preprocess(resize=resize), (1, 3, 96, 128))
            assert batch.shape == (1, 3, 96, 128) and batch[0, 0].max() == 1


@settings(deadline=None)
@given(sides, sides, sides, sides, ways)
def test_image_s_corners_come_back_from_the_input(height, width, out_height, out_width, resize):
    image = Image.new("RGB", (width, height))
    _, placement = preprocess(image, Preprocess(resize=resize), ("N", 3, out_height, out_width))
    inner = np.sort(rng.uniform(0, (width, height), (5, 2, 2)), axis=1).reshape(5, 4).astype(np.float32)
    boxes = np.concatenate([inner, [[0, 0, width, height]]])
    np.testing.assert_allclose(placement.to_image(placement.to_input(boxes)), boxes, atol=width * height * 1e-4)


@settings(deadline=None)
@given(sides, sides)
def test_boxes_are_clipped_to_the_image(height, width):
    _, placement = preprocess(Image.new("RGB", (width, height)), Preprocess(resize="letterbox"), (1, 3, 100, 100))
    boxes = placement.to_image(np.array([[-1e9, -1e9, 1e9, 1e9], [0, 0, 100, 100]], np.float32))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, [[0, 0, width, height]] * 2)
    assert placement.to_image(np.empty((0, 4), np.float32)).shape == (0, 4)


@settings(deadline=None)
@given(st.integers(40, 300), st.integers(40, 300), ways)
def test_a_mark_in_the_image_is_found_where_the_placement_says(height, width, resize):
    image = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2 - 6, width // 2 - 6
    image[y : y + 12, x : x + 12] = 255
    batch, placement = preprocess(image, Preprocess(resize=resize, pad=0), (1, 3, 120, 160))
    rows, columns = np.nonzero(batch[0, 0] > 0.5)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    expected = placement.to_input(np.array([[x, y, x + 12, y + 12]], np.float32))[0]
    assert np.abs(found - expected).max() <= 1.0


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8), (1, 3, "H", "W"), (1, 8, 8, 3), (3, 8, 8)])
def test_error_on_a_shape_that_is_no_image(shape):
    with pytest.raises(RecipeError, match=r"input shape: expected \(N, 3, H, W\) with fixed H and W .*, got \("):
        preprocess(noise(8, 8), Preprocess(), shape)


def test_error_when_less_is_resized_to_than_is_cut_out():
    with pytest.raises(RecipeError, match=r"preprocess.resize_to: expected 0 or at least 224, .* got 100"):
        preprocess(noise(8, 8), Preprocess(resize="crop", resize_to=100), (1, 3, 224, 224))
