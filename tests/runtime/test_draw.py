import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.runtime.detections import Detections
from edgekit.runtime.draw import class_color, draw


def found(*boxes, classes=None, names=()):
    count = len(boxes)
    classes = list(range(count)) if classes is None else classes
    scores = np.linspace(0.9, 0.5, count).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(count, 4), scores, np.array(classes, np.int64), names)


def is_color(pixels, color):
    return (np.asarray(pixels) == color).all(axis=-1)


def test_the_image_is_unchanged_and_so_is_a_copy_without_objects():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    before = image.copy()
    drawn = draw(image, found((10, 10, 50, 50)))
    np.testing.assert_array_equal(image, before)
    assert drawn.mode == "RGB" and drawn.size == (80, 60) and (np.asarray(drawn) != before).any()
    np.testing.assert_array_equal(np.asarray(draw(image, found())), before)


def test_box_is_drawn_along_its_edges_in_the_color_of_its_class():
    drawn = np.asarray(draw(Image.new("RGB", (400, 400)), found((100, 150, 300, 350), classes=[5])))
    colored = is_color(drawn, class_color(5))
    assert colored[150:351, [100, 300]].all() and colored[[150, 350], 100:301].all()
    assert not colored[160:340, 110:290].any()


@pytest.mark.parametrize("box", [(0, 0, 400, 400), (390, 390, 400, 400), (0, 0, 5, 5), (395, 0, 400, 400)])
def test_label_lies_within_the_image(box):
    background = (1, 2, 3)
    drawn = np.asarray(
        draw(Image.new("RGB", (400, 400), background), found(box, classes=[5], names=("",) * 5 + ("giraffe",)))
    )
    colored = is_color(drawn, class_color(5))
    rows, columns = np.flatnonzero(colored.sum(axis=1) >= 40), np.flatnonzero(colored.any(axis=0))
    # the whole label, not one that is cut off at the edge of the image
    assert rows.max() - rows.min() >= 14 and columns.max() - columns.min() >= 40
    text = ~colored & ~is_color(drawn, background)
    assert text.sum() > 100


def test_labels_of_boxes_in_one_place_lie_side_by_side():
    one = draw(Image.new("RGB", (400, 400)), found((100, 100, 300, 300)))
    two = draw(Image.new("RGB", (400, 400)), found((100, 100, 300, 300), (100, 100, 300, 300)))
    labels = [is_color(np.asarray(image), class_color(0)) for image in (one, two)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert is_color(np.asarray(two), class_color(1)).sum() > 300


def test_neighbouring_classes_have_colors_far_apart():
    colors = np.array([class_color(kind) for kind in range(80)], int)
    assert len(np.unique(colors, axis=0)) == 80
    assert np.abs(colors[1:] - colors[:-1]).sum(axis=1).min() > 100


def test_lines_scale_with_the_image():
    widths = []
    for side in (200, 2000):
        drawn = np.asarray(draw(Image.new("RGB", (side, side)), found((side / 4, side / 4, side / 2, side / 2))))
        row = is_color(drawn, class_color(0))[side * 3 // 8]
        widths.append(row.sum() // 2)
    assert widths == [1, 10]


sides = st.integers(1, 300)


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4))
def test_any_boxes_in_any_image_are_drawn(width, height, fractions):
    boxes = [(min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height) for a, b, c, d in fractions]
    assert draw(Image.new("RGB", (width, height)), found(*boxes)).size == (width, height)


def test_an_object_that_is_followed_keeps_its_color_whatever_its_class():
    box, score = np.array([[10, 40, 60, 90]], np.float32), np.array([0.5], np.float32)
    for kind in (0, 1):
        found = Detections(box, score, np.array([kind]), ("cat", "dog"), tracks=np.array([5]))
        pixels = np.asarray(draw(np.zeros((100, 100, 3), np.uint8), found))
        assert tuple(pixels[90, 30]) == class_color(5)
