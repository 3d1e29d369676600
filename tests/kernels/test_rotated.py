"""Overlap of rotated boxes: numpy against the references, the references against OpenCV and an integral."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.kernels.suppression import reference, rotated
from edgekit.kernels.suppression.suppress import Overlap, nms

OVERLAPS = {"rotated": reference.rotated_iou, "probiou": reference.probiou}
FAST = {"rotated": rotated.rotated_iou, "probiou": rotated.probiou}


def pairs(count: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that overlap, among them equal boxes, boxes turned by a right angle, and neighbours that share a side."""
    random = np.random.default_rng(seed)
    a, b = (
        np.column_stack(
            [random.uniform(0, 50, (count, 2)), random.uniform(0.5, 40, (count, 2)), random.uniform(-2, 4, count)]
        )
        for _ in range(2)
    )
    b[:50] = a[:50]
    b[50:100, :4], b[50:100, 4] = a[50:100, :4], a[50:100, 4] + np.pi / 2
    b[100:150] = a[100:150]
    b[100:150, 0] += np.cos(a[100:150, 4]) * a[100:150, 2]
    b[100:150, 1] += np.sin(a[100:150, 4]) * a[100:150, 2]
    return a, b


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_pairs_overlap_as_in_the_reference(overlap: str) -> None:
    a, b = pairs()
    expected = [OVERLAPS[overlap](*both) for both in zip(a.tolist(), b.tolist(), strict=True)]
    # The square root of a difference of two numbers near 1 loses half of the digits.
    np.testing.assert_allclose(FAST[overlap](a, b), expected, atol=1e-12 if overlap == "rotated" else 1e-6)
    assert 100 < sum(0.01 < each < 0.99 for each in expected)


def test_the_reference_cuts_out_what_opencv_cuts_out() -> None:
    a, b = pairs()
    for first, second in zip(a.tolist(), b.tolist(), strict=True):
        boxes = [((x, y), (w, h), math.degrees(angle)) for x, y, w, h, angle in (first, second)]
        _, polygon = cv2.rotatedRectangleIntersection(*boxes)
        area = 0.0 if polygon is None else cv2.contourArea(cv2.convexHull(polygon))
        union = first[2] * first[3] + second[2] * second[3] - area
        assert reference.rotated_iou(first, second) == pytest.approx(area / union, abs=2e-3)


def test_the_reference_is_the_integral_of_its_definition() -> None:
    a, b = [12.0, 9.0, 12.0, 4.0, 0.4], [15.0, 7.0, 9.0, 6.0, -0.7]
    x, y = np.meshgrid(np.arange(-20, 50, 0.1), np.arange(-20, 50, 0.1))

    def density(box: list[float]) -> np.ndarray:
        cos, sin = math.cos(box[4]), math.sin(box[4])
        u, v = cos * (x - box[0]) + sin * (y - box[1]), cos * (y - box[1]) - sin * (x - box[0])
        along, across = box[2] ** 2 / 12, box[3] ** 2 / 12
        return np.exp(-(u**2 / along + v**2 / across) / 2) / (2 * math.pi * math.sqrt(along * across))

    coefficient = float(np.sqrt(density(a) * density(b)).sum()) * 0.01  # of Bhattacharyya
    assert reference.probiou(a, b) == pytest.approx(1 - math.sqrt(1 - coefficient), abs=1e-6)


def test_upright_boxes_overlap_as_those_with_corners() -> None:
    random = np.random.default_rng(3)
    a, b = (np.column_stack([random.uniform(0, 9, (99, 2)), random.uniform(1, 9, (99, 2)), np.zeros(99)]) for _ in "ab")
    for first, second in zip(a.tolist(), b.tolist(), strict=True):
        corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h, _ in (first, second)]
        assert reference.rotated_iou(first, second) == pytest.approx(reference.iou(*corners), abs=1e-12)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_a_box_without_area_overlaps_nothing(overlap: str) -> None:
    whole, flat, negative = [5.0, 5, 4, 4, 0.3], [5.0, 5, 0, 4, 0.3], [5.0, 5, 4, -4, 0.3]
    for other in (flat, negative):
        for a, b in ((whole, other), (other, whole), (other, other)):
            assert OVERLAPS[overlap](a, b) == 0
            assert FAST[overlap](np.array([a]), np.array([b])).tolist() == [0]


side = st.integers(0, 12).map(float) | st.floats(0.25, 12, width=32)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(*[side] * 4, st.floats(-1, 3, width=32), st.integers(0, 4), st.integers(0, 1)), max_size=25),
    st.sampled_from(["rotated", "probiou"]),
    st.sampled_from([0.05, 0.31, 0.77]),
    st.booleans(),
)
def test_suppression_keeps_what_the_reference_keeps(
    rows: list[tuple[float, ...]], overlap: Overlap, threshold: float, fast: bool
) -> None:
    table = np.array(rows, np.float32).reshape(-1, 7)
    boxes, scores, classes = table[:, :5], table[:, 5] / 4, table[:, 6].astype(np.int64)
    options = {"score_threshold": 0.2, "iou_threshold": threshold, "max_detections": 9, "fast": fast}
    measured = [OVERLAPS[overlap](a, b) for i, a in enumerate(boxes.tolist()) for b in boxes[:i].tolist()]
    if any(abs(each - threshold) < 1e-6 for each in measured):
        return  # rounding decides
    expected = reference.nms(boxes, scores, classes, **options, overlap=OVERLAPS[overlap])  # type: ignore[arg-type]
    found = nms(boxes, scores, classes, **options, overlap=overlap)  # type: ignore[arg-type]
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("fast", [False, True])
def test_a_box_that_overlaps_a_dropped_one_alone_stays_unless_suppression_is_fast(fast: bool) -> None:
    boxes = np.array([[x, 0, 10, 10, 0] for x in (0, 4, 8)], np.float32)  # each overlaps the next by 6 / 14
    options = {"score_threshold": 0.0, "iou_threshold": 0.4, "max_detections": 9, "overlap": "rotated", "fast": fast}
    found = nms(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64), **options)  # type: ignore[arg-type]
    assert found.tolist() == ([0] if fast else [0, 2])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_gaussians_that_overlap_by_more_than_the_threshold_are_near(seed: int, threshold: float) -> None:
    a, b = pairs(200, seed)
    over = rotated.probiou(a, b) > threshold
    assert not (over & ~rotated.near_gaussians(a, b, threshold)).any()
    assert rotated.near_gaussians(a, b, 0.0).all()


def test_boxes_that_are_far_apart_are_not_compared() -> None:
    a = np.array([[0.0, 0, 4, 3, 0.5]])
    assert rotated.near(a, np.array([[5.0, 0, 4, 3, 1]])).tolist() == [True]
    assert rotated.near(a, np.array([[5.1, 0, 4, 3, 1]])).tolist() == [False]


@pytest.mark.parametrize("fast", [False, True])
def test_boxes_of_several_blocks_are_kept_as_in_the_reference(fast: bool) -> None:
    random = np.random.default_rng(5)
    columns = [random.uniform(0, 140, (300, 2)), random.uniform(2, 12, (300, 2)), random.uniform(-1, 3, 300)]
    boxes, scores, classes = np.column_stack(columns).astype(np.float32), random.random(300), np.zeros(300, np.int64)
    options = {"score_threshold": 0.0, "iou_threshold": 0.2, "max_detections": 300, "fast": fast}
    expected = reference.nms(boxes, scores, classes, **options, overlap=reference.probiou)  # type: ignore[arg-type]
    found = nms(boxes, scores.astype(np.float32), classes, **options, overlap="probiou")  # type: ignore[arg-type]
    assert found.tolist() == expected.tolist()
    assert 128 < len(found) < 280


@pytest.mark.parametrize("fast", [False, True])
def test_comparisons_grow_in_proportion_to_the_candidates_if_one_box_suppresses_all(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        compared.append(len(a))
        return rotated.rotated_iou(a, b)

    monkeypatch.setattr("edgekit.kernels.suppression.suppress_rotated.rotated_iou", counted)
    numbers = []
    for count in (1000, 4000):
        compared.clear()
        boxes, scores = np.tile(np.float32([5, 5, 4, 3, 0.2]), (count, 1)), np.linspace(0.9, 0.1, count)
        options = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 300, "overlap": "rotated"}
        found = nms(boxes, scores.astype(np.float32), np.zeros(count, np.int64), **options, fast=fast)  # type: ignore[arg-type]
        assert found.tolist() == [0]
        numbers.append(sum(compared))
    assert numbers[1] < 4.1 * numbers[0]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("overlap", ["rotated", "probiou"])
def test_boxes_sorted_by_place_are_kept_as_if_each_was_compared_with_each(
    overlap: Overlap, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(7)
    count = 1000
    sides = np.exp(random.uniform(np.log(0.5), np.log(60), (count, 2)))  # of many grids
    columns = [random.uniform(-20, 50, (count, 2)), sides, random.uniform(-1, 3, count)]
    boxes, scores = np.column_stack(columns).astype(np.float32), random.random(count).astype(np.float32)
    boxes[:40, :2] *= 100  # far from the others
    boxes[40:50, 2] = 0
    options = {"score_threshold": 0.0, "iou_threshold": 0.1, "max_detections": count, "overlap": overlap, "fast": fast}
    classes = random.choice([-5, 3, 2**40], count)
    expected = nms(boxes, scores, classes, **options)  # type: ignore[arg-type]
    for dense in (16, 200):
        monkeypatch.setattr("edgekit.kernels.suppression.suppress_rotated._DENSE", dense)
        assert nms(boxes, scores, classes, **options).tolist() == expected.tolist()  # type: ignore[arg-type]
    assert 250 < len(expected) < 900


def test_comparisons_grow_in_proportion_to_the_boxes_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = rotated.near(a, b)
        compared.append(result.size)
        return result

    monkeypatch.setattr("edgekit.kernels.suppression.suppress_rotated.near", counted)
    monkeypatch.setattr("edgekit.kernels.suppression.suppress_rotated._DENSE", 64)
    monkeypatch.setattr("edgekit.kernels.suppression.suppress_rotated._BLOCK", 16)
    numbers = []
    for side in (24, 48):
        compared.clear()
        count = side * side
        boxes = np.zeros((count, 5), np.float32)
        boxes[:, :2] = np.indices((side, side)).reshape(2, -1).T * 10
        boxes[:, 2:4] = 9
        order = np.random.default_rng(0).permutation(count).astype(np.float32)
        options = {"score_threshold": 0.0, "iou_threshold": 0.3, "max_detections": count, "overlap": "rotated"}
        found = nms(boxes, (order + 1) / count, np.zeros(count, np.int64), **options)  # type: ignore[arg-type]
        assert len(found) == count
        numbers.append(sum(compared) / count)
    assert numbers[1] < 1.3 * numbers[0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_no_overlap_is_above_its_bound(seed: int) -> None:
    a, b = pairs(200, seed)
    assert (rotated.rotated_iou(a, b) <= rotated.highest_iou(a, b) + 1e-12).all()
