import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    augmentation_from_names,
    augmented,
    clipped_boxes,
    flipped,
    jittered,
    padded_crop,
    scaled,
)
from edgekit.data.examples import Boxes, Example, data_set
from edgekit.data.mosaic import augmented_example, mosaic, mosaic_of
from edgekit.errors import UsageError

random = np.random.default_rng(0)
NOISE = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
GROUND = 40


def boxes(*corners, ignored=None):
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), np.arange(len(corners)), ignored)


def painted(width, height, corners):
    """An image with a white box."""
    image = np.full((height, width, 3), GROUND, np.uint8)
    x1, y1, x2, y2 = corners
    image[y1:y2, x1:x2] = 255
    return image


def found(image):
    """Corners of the pixels brighter than the midpoint of background and box."""
    white = np.asarray(image, int).max(2) > (GROUND + 255) // 2
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_flip_is_opencvs():
    np.testing.assert_array_equal(flipped(NOISE)[0], cv2.flip(NOISE, 1))
    np.testing.assert_array_equal(flipped(NOISE, axis="y")[0], cv2.flip(NOISE, 0))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_two_flips_change_nothing(axis):
    given_boxes = boxes([1, 2, 5, 9], [0, 0, 40, 30], ignored=boxes([3, 4, 5, 6]))
    image, once = flipped(NOISE, given_boxes, axis)
    image, twice = flipped(image, once, axis)
    np.testing.assert_array_equal(image, NOISE)
    np.testing.assert_array_equal(twice.corners, given_boxes.corners)
    np.testing.assert_array_equal(twice.ignored.corners, given_boxes.ignored.corners)
    assert not np.array_equal(once.corners, given_boxes.corners)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_box_follows_a_flip(axis):
    corners = [3, 5, 12, 25]
    image, moved = flipped(painted(40, 30, corners), boxes(corners), axis)
    assert moved.corners[0].tolist() == found(image)


def test_a_box_follows_a_crop():
    corners = [13, 5, 32, 25]
    image, moved = padded_crop(painted(40, 30, corners), boxes(corners), (10, 3, 40, 28), 0)
    assert image.shape == (25, 30, 3)
    assert moved.corners[0].tolist() == found(image) == [3, 2, 22, 22]
    image, moved = padded_crop(painted(40, 30, corners), boxes(corners), (20, 10, 40, 20), 0)
    assert moved.corners[0].tolist() == found(image) == [0, 0, 12, 10]


def test_a_crop_around_a_crop_gives_the_image_back():
    image, moved = padded_crop(NOISE, boxes([5, 6, 20, 21]), (-7, -3, 50, 33), 128)
    assert image.shape == (36, 57, 3) and (image[0] == 128).all() and (image[:, -1] == 128).all()
    back, again = padded_crop(image, moved, (7, 3, 47, 33), 0)
    np.testing.assert_array_equal(back, NOISE)
    assert again.corners.tolist() == [[5, 6, 20, 21]]


def test_a_window_beside_the_image_shows_nothing_of_it():
    for window in ((50, 0, 60, 10), (-20, -20, -5, -5), (0, 40, 10, 50)):
        image, left = padded_crop(NOISE, boxes([0, 0, 40, 30]), window, 77)
        assert (image == 77).all() and len(left) == 0


def test_of_a_grey_image_a_part_is_grey():
    image, none = padded_crop(NOISE[..., 0], None, (-1, -1, 5, 5), 9)
    assert image.shape == (6, 6) and none is None
    np.testing.assert_array_equal(image[1:, 1:], NOISE[:5, :5, 0])


def test_a_box_of_which_too_little_is_left_is_left_out():
    got = clipped_boxes(boxes([-90, 0, 9, 10], [-90, 0, 11, 10], [-1, 0, 1, 10], [39, 0, 60, 1]), (40, 30))
    assert got.classes.tolist() == [1]
    assert got.corners.tolist() == [[0, 0, 11, 10]]
    assert clipped_boxes(boxes([1, 1, 2, 2]), (40, 30)).corners.tolist() == [[1, 1, 2, 2]]


def test_a_box_follows_a_scale():
    corners = [8, 6, 20, 18]
    image, moved = scaled(painted(40, 30, corners), boxes(corners), (80, 90))
    assert image.shape == (90, 80, 3)
    assert moved.corners[0].tolist() == [16, 18, 40, 54] == found(image)


def test_a_scale_is_opencvs():
    got, _ = scaled(NOISE, None, (80, 60))
    expected = cv2.resize(NOISE, (80, 60), interpolation=cv2.INTER_LINEAR)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_a_scale_there_and_back_changes_little():
    smooth = cv2.GaussianBlur(NOISE, (0, 0), 3)
    there, moved = scaled(smooth, boxes([1, 2, 13, 14]), (160, 120))
    back, again = scaled(there, moved, (40, 30))
    assert np.abs(back.astype(int) - smooth).mean() < 1
    np.testing.assert_allclose(again.corners, [[1, 2, 13, 14]], atol=1e-5)


def test_colours_that_are_not_changed_stay_to_the_last_bit():
    assert jittered(NOISE, 0, 1, 1) is NOISE


@pytest.mark.parametrize(
    ("hue", "saturation", "exposure"), [(0.2, 1, 1), (-0.1, 1, 1), (0, 0.5, 1), (0, 1, 0.6), (0.1, 1.4, 1.3)]
)
def test_colours_change_as_the_formula_has_them(hue, saturation, exposure):
    got = jittered(NOISE, hue, saturation, exposure)
    for y, x in random.integers(0, 30, (100, 2)):
        h, s, v = colorsys.rgb_to_hsv(*(NOISE[y, x] / 255))
        changed = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * exposure))
        # Hue has 256 steps, so a saturated colour is off by a sixth of that at most.
        assert np.abs(got[y, x] - 255 * np.array(changed)).max() <= 8


def test_a_grey_image_changes_its_exposure_alone():
    grey = NOISE[..., 0]
    assert jittered(grey, 0.3, 2, 1) is grey
    np.testing.assert_allclose(jittered(grey, 0.3, 2, 0.5), grey * 0.5, atol=0.51)


def test_nothing_is_changed_unless_it_is_asked_for():
    example = Example("x", NOISE, boxes([1, 2, 3, 4]))
    same = augmented(example, Augmentation(), np.random.default_rng(0))
    np.testing.assert_array_equal(same.input, NOISE)
    assert same.target is example.target


def test_the_same_generator_gives_the_same_changes():
    scenes, how = data_set("scenes:64", split="train"), augmentation_from_names(list(AUGMENTATIONS))
    one, same, other = (augmented_example(scenes, 0, how, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.input, same.input)
    np.testing.assert_array_equal(one.target.corners, same.target.corners)
    assert not np.array_equal(one.input, other.input)


def test_what_was_handed_in_is_not_changed():
    image, corners = NOISE.copy(), boxes([1, 2, 30, 20])
    for seed in range(5):
        augmented(
            Example("x", image, corners), augmentation_from_names(list(AUGMENTATIONS)), np.random.default_rng(seed)
        )
    np.testing.assert_array_equal(image, NOISE)
    assert corners.corners.tolist() == [[1, 2, 30, 20]]


def test_a_class_stays_and_the_image_keeps_its_size():
    how = augmentation_from_names(["flip", "crop", "scale", "color"])
    for image in (NOISE, NOISE[..., 0]):
        got = augmented(Example("x", image, 7), how, np.random.default_rng(3))
        assert got.target == 7 and got.input.shape == image.shape and got.input.dtype == np.uint8


def test_an_unknown_augmentation_is_an_error():
    with pytest.raises(UsageError, match="unknown augmentation 'mosiac'") as e:
        augmentation_from_names(["mosiac"])
    assert "mosaic" in e.value.hint


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(5, 50), st.integers(5, 40), st.integers(14, 40), st.integers(14, 40))
def test_an_augmented_box_matches_the_augmented_image(seed, x, y, width, height):
    """Through flip, scale, shift, stretch and clipping, to two px: the edge of a scaled box is blurred."""
    corners = [x, y, min(x + width, 95), min(y + height, 75)]
    example = Example("x", painted(100, 80, corners), boxes(corners))
    how = Augmentation(flip=0.5, scale=0.3, shift=0.15, stretch=0.2, pad=GROUND)
    got = augmented(example, how, np.random.default_rng(seed))
    assert got.input.shape == (80, 100, 3)
    if len(got.target):
        np.testing.assert_allclose(got.target.corners[0], found(got.input), atol=2)
    else:
        assert (got.input > 150).any(2).sum() < 0.2 * (corners[2] - corners[0]) * (corners[3] - corners[1])


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_boxes_in_a_mosaic_match_the_image(seed):
    """Each of four images shows one box in a colour of its own."""
    numbers = np.random.default_rng(seed)
    examples = []
    for i in range(4):
        width, height = numbers.integers(40, 120, 2)
        x1, y1 = numbers.integers(0, (width // 2, height // 2))
        x2, y2 = x1 + width // 3, y1 + height // 3
        image = np.zeros((height, width, 3), np.uint8)
        image[y1:y2, x1:x2] = [255 * (i in (0, 3)), 255 * (i in (1, 3)), 255 * (i in (2, 3))]
        examples.append(Example(f"{i}", image, Boxes(np.float32([[x1, y1, x2, y2]]), np.array([i]))))
    got = mosaic(examples, (100, 80), numbers, pad=0)
    assert got.input.shape == (80, 100, 3) and got.id == "0 + 1 + 2 + 3"
    bright = got.input > 128
    colors = [bright[..., i] & (bright.sum(2) == 1) for i in range(3)] + [bright.all(2)]
    for corners, label in zip(got.target.corners, got.target.classes, strict=True):
        rows, columns = np.flatnonzero(colors[label].any(1)), np.flatnonzero(colors[label].any(0))
        np.testing.assert_allclose(corners, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1.5)
    for label in set(range(4)) - set(got.target.classes.tolist()):
        assert colors[label].sum() < 0.25 * 40 * 40


def test_four_images_meet_in_the_middle():
    values = (10, 20, 30, 40)
    examples = [Example("x", np.full((20, 20, 3), value, np.uint8), boxes([0, 0, 20, 20])) for value in values]
    got = mosaic_of(examples, (20, 20), (8, 12), (1, 1, 1, 1))
    expected = np.block([[np.full((12, 8), 10), np.full((12, 12), 20)], [np.full((8, 8), 30), np.full((8, 12), 40)]])
    np.testing.assert_array_equal(got.input[..., 0], expected)
    assert got.target.corners.tolist() == [[0, 0, 8, 12], [8, 0, 20, 12], [0, 12, 8, 20], [8, 12, 20, 20]]


def test_small_images_leave_the_rest_of_a_mosaic_padded_and_keep_what_is_ignored():
    aside = boxes([1, 1, 5, 5])
    examples = [Example("x", np.zeros((10, 20), np.uint8), boxes([0, 0, 20, 10], ignored=aside)) for _ in range(4)]
    got = mosaic_of(examples, (40, 40), (20, 20), (0.5, 0.5, 0.5, 0.5), pad=99)
    assert (got.input[:10] == 99).all() and (got.input[10:30] == 0).all() and (got.input[30:] == 99).all()
    assert len(got.target.ignored) == 4
    assert got.target.corners.tolist() == [[0, 10, 20, 20], [20, 10, 40, 20], [0, 20, 20, 30], [20, 20, 40, 30]]


def test_a_mosaic_is_made_as_often_as_it_is_asked_for():
    scenes = data_set("scenes:32", split="train")
    made = [augmented_example(scenes, 0, Augmentation(mosaic=0.5), np.random.default_rng(seed)) for seed in range(60)]
    assert 15 <= sum(" + " in example.id for example in made) <= 45
    digits = data_set("digits", split="train")
    assert augmented_example(digits, 0, Augmentation(mosaic=1), np.random.default_rng(0)).id == digits[0].id
