from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.data.examples import Boxes, Example
from edgekit.data.images import preprocess
from edgekit.errors import DataError
from edgekit.kernels.suppression.reference import iou
from edgekit.recipe.schema import load_recipe
from edgekit.training.anchors import anchors_from_sizes, mean_overlap, size_iou, sizes_from_examples


def sizes_around(centers: np.ndarray, count: int = 50) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([center * random.uniform(0.95, 1.05, (count, 2)) for center in centers])


def test_size_iou_is_the_iou_of_centered_boxes() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(1, 50, (6, 2)), random.uniform(1, 50, (4, 2))
    expected = [[iou((-w, -h, w, h), (-v, -k, v, k)) for v, k in b] for w, h in a]
    np.testing.assert_allclose(size_iou(a, b), expected)


@pytest.mark.parametrize("seed", range(5))
def test_anchors_are_the_centers_of_the_clusters(seed: int) -> None:
    centers = np.array([[10.0, 12.0], [20.0, 60.0], [90.0, 30.0], [150.0, 160.0]])
    found = anchors_from_sizes(sizes_around(centers), 4, seed=seed)
    np.testing.assert_allclose(found, centers[np.argsort(centers.prod(1))], rtol=0.02)


def test_more_anchors_fit_better() -> None:
    sizes = np.random.default_rng(1).lognormal(3, 0.6, (500, 2))
    fits = [mean_overlap(sizes, anchors_from_sizes(sizes, count)) for count in (1, 3, 5, 9)]
    assert fits == sorted(fits)
    assert fits[-1] > fits[0] + 0.15


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.lists(st.tuples(st.floats(0.5, 500), st.floats(0.5, 500)), min_size=6, max_size=30))
def test_anchors_lie_among_the_sizes_and_are_sorted(count: int, sizes: list[tuple[float, float]]) -> None:
    array = np.array(sizes)
    found = anchors_from_sizes(array, count)
    assert found.shape == (count, 2)
    assert (found >= array.min(0) * (1 - 1e-9)).all()
    assert (found <= array.max(0) * (1 + 1e-9)).all()
    assert (np.diff(found.prod(1)) >= 0).all()


@pytest.mark.parametrize("size", [(80, 160), (200, 100), (64, 64)])
def test_sizes_are_in_px_of_the_letterboxed_input(few: Any, size: tuple[int, int]) -> None:
    corners = np.array([[4, 8, 24, 48], [0, 0, 64, 64]], np.float32)
    ignored = Boxes(np.array([[0, 0, 9, 9]], np.float32), np.array([0]))
    picture = np.zeros((*size, 3), np.uint8)
    boxes = Boxes(corners, np.array([0, 1]), ignored)
    recipe = load_recipe("yolov3-tiny-scenes")
    assert recipe.preprocess is not None
    placement = preprocess(picture, recipe.preprocess, recipe.inputs[0].shape)[1]
    moved = placement.to_input(corners)
    found = sizes_from_examples(few("scenes", 1, examples=[Example("one", picture, boxes)]), (160, 160))
    np.testing.assert_allclose(found.sizes, moved[:, 2:] - moved[:, :2], rtol=0.01)
    assert (found.images, found.skipped) == (1, [])


def test_unreadable_images_are_skipped_and_counted(few: Any) -> None:
    class Broken(list[Example]):
        def __getitem__(self, index: Any) -> Any:
            if index == 0:
                raise DataError("a.jpg: broken image")
            return super().__getitem__(index)

    boxes = Boxes(np.array([[0, 0, 5, 10]], np.float32), np.array([0]))
    examples = few("scenes", 1, examples=Broken([Example("x", np.zeros((10, 10, 3), np.uint8), boxes)] * 2))
    told: list[float] = []
    found = sizes_from_examples(examples, (20, 20), advance=told.append)
    assert found.sizes.tolist() == [[10, 20]]
    assert (found.images, found.skipped, sum(told)) == (1, ["a.jpg: broken image"], 2)


def test_the_anchors_of_the_scenes_are_about_as_good_as_new_ones() -> None:
    from edgekit.data.examples import data_set

    examples = data_set("scenes", split="train")
    corners = [boxes.corners for i in range(60) if isinstance(boxes := examples[i].target, Boxes)]
    sizes = np.concatenate([corner[:, 2:] - corner[:, :2] for corner in corners])
    how = load_recipe("yolov3-tiny-scenes").postprocess
    assert how is not None
    own = np.array([anchor for head in how.head.heads for anchor in head.anchors])
    assert mean_overlap(sizes, own) > mean_overlap(sizes, anchors_from_sizes(sizes, 6)) - 0.03
