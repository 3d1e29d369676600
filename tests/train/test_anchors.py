from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.kernels import reference
from edgekit.recipe import load_recipe
from edgekit.train.anchors import anchors_from_sizes, mean_overlap, size_iou


def sizes_around(centers: np.ndarray, count: int = 50) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([center * random.uniform(0.95, 1.05, (count, 2)) for center in centers])


def test_the_overlap_of_sizes_is_that_of_boxes_on_one_centre() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(1, 50, (6, 2)), random.uniform(1, 50, (4, 2))
    expected = [[reference.iou((-w, -h, w, h), (-v, -k, v, k)) for v, k in b] for w, h in a]
    np.testing.assert_allclose(size_iou(a, b), expected)


@pytest.mark.parametrize("seed", range(5))
def test_sizes_that_lie_around_some_centres_have_these_as_anchors(seed: int) -> None:
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


def test_the_anchors_of_the_scenes_are_about_as_good_as_new_ones() -> None:
    from edgekit.data.examples import Boxes, data_set

    examples = data_set("scenes", split="train")
    corners = [boxes.corners for i in range(60) if isinstance(boxes := examples[i].target, Boxes)]
    sizes = np.concatenate([corner[:, 2:] - corner[:, :2] for corner in corners])
    how = load_recipe("yolov3-tiny-scenes").postprocess
    assert how is not None
    own = np.array([anchor for head in how.heads for anchor in head.anchors])
    assert mean_overlap(sizes, own) > mean_overlap(sizes, anchors_from_sizes(sizes, 6)) - 0.03
