"""Run lengths against pycocotools, and outlines against the masks that they enclose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from edgekit.kernels.masks.masks import Crop, whole_masks
from edgekit.runtime.outlines import polygons_of_mask, rle_of_mask

coder = pytest.importorskip("pycocotools.mask")
# pycocotools 2.0.11 decodes with an interface that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@st.composite
def crops(draw: st.DrawFn) -> tuple[Crop, tuple[int, int]]:
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    left, top = draw(st.integers(0, width)), draw(st.integers(0, height))
    shape = draw(st.integers(0, height - top)), draw(st.integers(0, width - left))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    mask = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(shape) < density
    return Crop(left, top, mask), (width, height)


def whole(crop: Crop, size: tuple[int, int]) -> np.ndarray:
    return whole_masks([crop], size)[0]


def enclosed(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centers are inside: a ray to the left crosses the outline an odd number of times."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    inside = np.zeros((size[1], size[0]), bool)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        assert (x1 == x2) != (y1 == y2), "an edge is horizontal or vertical, and has a length"
        if x1 == x2:
            inside ^= ((y1 > y) != (y2 > y)) & (x1 < x)
    return inside


def without_holes(mask: np.ndarray) -> np.ndarray:
    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True), structure=np.ones((3, 3)))
    return (outside != outside[0, 0])[1:-1, 1:-1]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crops())
def test_run_lengths_are_those_of_pycocotools(made: tuple[Crop, tuple[int, int]]) -> None:
    crop, size = made
    expected = coder.encode(np.asfortranarray(whole(crop, size).astype(np.uint8)))
    assert rle_of_mask(crop, size) == {"size": list(expected["size"]), "counts": expected["counts"].decode()}


def test_long_runs_need_several_characters() -> None:
    size = (3000, 2000)
    for left, top, width, height in ((0, 0, 3000, 2000), (2999, 1999, 1, 1), (1500, 1000, 3, 900), (0, 0, 1, 2000)):
        crop = Crop(left, top, np.ones((height, width), bool))
        found = rle_of_mask(crop, size)
        np.testing.assert_array_equal(coder.decode(found), whole(crop, size))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crops())
def test_outlines_enclose_the_mask_and_its_holes(made: tuple[Crop, tuple[int, int]]) -> None:
    crop, size = made
    expected = without_holes(whole(crop, size))
    found = np.zeros_like(expected)
    for polygon in polygons_of_mask(crop):
        assert polygon.dtype == np.float32
        part = enclosed(polygon, size)
        x, y = polygon.T.astype(float)
        # The area by the shoelace formula is positive, since the outline is clockwise on the screen.
        assert np.sum((x + np.roll(x, -1)) * (np.roll(y, -1) - y)) / 2 == part.sum() > 0
        assert not (found & part).any() or (part & ~expected).sum() == 0
        found |= part
    np.testing.assert_array_equal(found, expected)


def test_outline_of_a_rectangle_has_its_four_corners() -> None:
    (polygon,) = polygons_of_mask(Crop(3, 5, np.ones((2, 4), bool)))
    assert polygon.tolist() == [[3, 5], [7, 5], [7, 7], [3, 7]]
    assert polygons_of_mask(Crop(0, 0, np.zeros((4, 4), bool))) == []


def test_parts_that_touch_at_a_corner_have_an_outline_each() -> None:
    for mask in (np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]):
        assert [len(polygon) for polygon in polygons_of_mask(Crop(0, 0, mask))] == [4, 4, 4]


def test_pycocotools_reads_the_outlines_as_the_same_mask() -> None:
    disc = np.hypot(*(np.mgrid[:60, :80] - [[[30]], [[40]]])) < 22.3
    polygons = [polygon.reshape(-1).tolist() for polygon in polygons_of_mask(Crop(0, 0, disc))]
    read = coder.decode(coder.merge(coder.frPyObjects(polygons, 60, 80)))
    assert (read != disc).sum() <= 2
