import time
import tracemalloc
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import UsageError
from edgekit.kernels import host
from edgekit.kernels.suppression import reference, suppress
from edgekit.kernels.suppression.suppress import nms


@pytest.fixture(params=["compiled", "numpy"], scope="module", autouse=True)
def implementation(request):
    if request.param == "compiled" and host.library("nms") is None:
        pytest.skip("there is no compiled library for this system")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(suppress, "_compiled", lambda: None)
        yield


thresholds = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0])


def corners(xy, wh):
    return np.concatenate([xy, xy + wh], axis=1).astype(np.float32)


@st.composite
def candidates(draw, low=0, coordinates=None, scores=None):
    count = draw(st.integers(0, 40))
    coordinates = st.integers(low, 12) if coordinates is None else coordinates
    scores = st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.5000001, 0.9, 1.0]) if scores is None else scores
    xy = draw(hnp.arrays(np.float32, (count, 2), elements=st.integers(0, 12)))
    wh = draw(hnp.arrays(np.float32, (count, 2), elements=coordinates))
    values = draw(hnp.arrays(np.float32, count, elements=scores.map(lambda score: float(np.float32(score)))))
    kinds = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 2)))
    return corners(xy, wh), values, kinds


@settings(deadline=None)
@given(candidates(low=-2), thresholds, thresholds, st.sampled_from([0, 1, 3, 300]))
def test_equals_the_reference_with_ties_and_boxes_of_no_area(found, score_threshold, iou_threshold, most):
    options = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "max_detections": most}
    kept = nms(*found, **options)
    assert kept.dtype == np.int64
    assert kept.tolist() == reference.nms(*found, **options).tolist()


anything = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(candidates(coordinates=anything, scores=anything), thresholds)
def test_equals_the_reference_on_nan_and_infinity(found, iou_threshold):
    options = {"score_threshold": 0.25, "iou_threshold": iou_threshold, "max_detections": 300}
    kept = nms(*found, **options)
    assert kept.tolist() == reference.nms(*found, **options).tolist()
    assert np.isfinite(found[0][kept]).all() and not np.isnan(found[1][kept]).any()


@pytest.mark.parametrize("count", [127, 128, 129, 400])
@pytest.mark.parametrize("most", [10, 130, 1000])
def test_equals_the_reference_across_blocks(count, most):
    rng = np.random.default_rng(count)
    boxes = corners(rng.uniform(0, 200, (count, 2)), rng.uniform(5, 60, (count, 2)))
    scores, kinds = rng.random(count).round(2).astype(np.float32), rng.integers(0, 3, count)
    options = {"score_threshold": 0.05, "iou_threshold": 0.4, "max_detections": most}
    assert nms(boxes, scores, kinds, **options).tolist() == reference.nms(boxes, scores, kinds, **options).tolist()


def clusters(count, classes, seed):
    """Boxes as a detector gives them: many around few objects, the best ones closest, and scores with ties."""
    rng = np.random.default_rng(seed)
    near = rng.integers(0, 12, count)
    center, size = rng.uniform(50, 590, (12, 2))[near], rng.uniform(20, 150, (12, 2))[near]
    quality = rng.random((count, 1)) ** 3
    center += rng.normal(0, 0.3, center.shape) * (1 - quality) * size
    size *= np.exp(rng.normal(0, 0.3, size.shape) * (1 - quality))
    kinds = np.where(rng.random(count) < 0.7, near % classes, rng.integers(0, classes, count))
    return corners(center - size / 2, size), quality[:, 0].round(2).astype(np.float32), kinds


# Few pairs and few boxes at a time, so that even small inputs need all steps: several blocks, several rounds of heads,
# and several slices of pairs.
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_equals_the_reference_whatever_is_compared_at_once(data):
    found = clusters(data.draw(st.integers(0, 150)), data.draw(st.sampled_from([1, 3, 80])), data.draw(st.integers(0)))
    most = data.draw(st.sampled_from([0, 1, 5, 40, 300]))
    options = {"score_threshold": 0.01, "iou_threshold": data.draw(thresholds), "max_detections": most}
    with pytest.MonkeyPatch.context() as patch:
        limits = {"_BLOCK": (1, 7, 64, 4096), "_PAIRS": (1, 50, 32768), "_ROUND": (1, 200, 8192), "_MANY": (9, 1 << 20)}
        for name, sizes in limits.items():
            patch.setattr(suppress, name, data.draw(st.sampled_from(sizes)))
        kept = nms(*found, **options)
    assert kept.tolist() == reference.nms(*found, **options).tolist()


@pytest.mark.parametrize("classes", [1, 5, 80])
@pytest.mark.parametrize("count", [363, 364, 365, 727, 728, 3000])
def test_equals_the_reference_on_clusters_of_more_than_a_block(count, classes):
    found = clusters(count, classes, count)
    for most in (20, 300):
        options = {"score_threshold": 0.001, "iou_threshold": 0.45, "max_detections": most}
        assert nms(*found, **options).tolist() == reference.nms(*found, **options).tolist()


def spread(count, classes):
    rng = np.random.default_rng(classes)
    boxes = corners(rng.uniform(0, 600, (count, 2)), rng.uniform(4, 64, (count, 2)))
    return boxes, rng.random(count).astype(np.float32), rng.integers(0, classes, count)


MANY = 100_000


@pytest.mark.parametrize("most", [300, 3000])
@pytest.mark.parametrize(
    "found",
    [
        pytest.param(spread(MANY, 1), id="one class"),
        pytest.param(spread(MANY, 80), id="80 classes"),
        pytest.param((*spread(MANY, 1)[:2], np.arange(MANY)), id="all classes distinct"),
        pytest.param((np.ones((MANY, 1), np.float32) * [2, 3, 5, 7], *spread(MANY, 1)[1:]), id="identical boxes"),
        pytest.param((spread(MANY, 1)[0], np.full(MANY, 0.5, np.float32), spread(MANY, 80)[2]), id="equal scores"),
        pytest.param(clusters(MANY, 80, 0), id="clusters"),
    ],
)
def test_a_hundred_thousand_candidates_need_less_than_32_megabytes(found, most):
    tracemalloc.start()
    try:
        kept = nms(*found, score_threshold=0.001, iou_threshold=0.45, max_detections=most)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < len(kept) <= most
    assert peak < 32e6


# OpenCV computes overlaps of its own accord in float32 or float64, so a threshold stays clear of the fractions that
# boxes of whole numbers can have.
@settings(deadline=None)
@given(candidates(low=1), st.sampled_from([0.1001, 0.4503, 0.7002]))
def test_keeps_what_opencv_keeps(found, iou_threshold):
    boxes, scores, kinds = found
    assume(len(boxes))
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = nms(boxes, scores, kinds, score_threshold=0.25, iou_threshold=iou_threshold, max_detections=300)
    theirs = cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), kinds.tolist(), 0.25, iou_threshold)
    assert sorted(kept.tolist()) == sorted(np.asarray(theirs).ravel().tolist())

    one_class = nms(boxes, scores, 0 * kinds, score_threshold=0.25, iou_threshold=iou_threshold, max_detections=300)
    theirs = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.25, iou_threshold)
    assert one_class.tolist() == np.asarray(theirs).ravel().tolist()


def test_score_equal_to_the_threshold_is_not_kept_and_overlap_equal_to_it_is():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1], [10, 0, 12, 1]], np.float32)  # the first two overlap by 1/3
    scores = np.array([0.9, 0.8, 0.3], np.float32)
    kinds = np.zeros(3, np.int64)
    kept = nms(boxes, scores, kinds, score_threshold=0.3, iou_threshold=1 / 3, max_detections=300)
    assert kept.tolist() == [0, 1]
    kept = nms(boxes, scores, kinds, score_threshold=0.29, iou_threshold=0.33, max_detections=300)
    assert kept.tolist() == [0, 2]


def test_ties_go_to_the_lower_index_and_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 4, 4]] * 4, np.float32)
    scores = np.full(4, 0.5, np.float32)
    kept = nms(boxes, scores, np.array([7, 7, 3, 3]), score_threshold=0.1, iou_threshold=0.5, max_detections=300)
    assert kept.tolist() == [0, 2]


@pytest.mark.parametrize("kinds", [np.int8, np.int32, np.uint64, np.float64])
@pytest.mark.parametrize("coordinates", [np.float16, np.float32, np.float64])
def test_equals_the_reference_for_arrays_of_other_types_and_strides(coordinates, kinds):
    boxes, scores, classes = clusters(500, 5, 0)
    boxes, scores, classes = boxes.astype(coordinates)[::-2], scores[::-2], classes.astype(kinds)[::-2]
    options = {"score_threshold": 0.01, "iou_threshold": 0.45, "max_detections": 100}
    kept = nms(boxes, scores, classes, **options)
    assert kept.tolist() == reference.nms(boxes, scores, classes, **options).tolist()


@pytest.mark.parametrize(("boxes", "classes"), [(9, 10), (10, 9)])
def test_error_on_too_few_boxes_or_classes(boxes, classes):
    found = np.ones((boxes, 4), np.float32), np.ones(10, np.float32), np.zeros(classes, np.int64)
    with pytest.raises(IndexError):
        nms(*found, score_threshold=0.25, iou_threshold=0.45, max_detections=300)


def test_far_apart_classes_do_not_suppress_each_other():
    kinds = np.array([-(2**63), -1, 0, 511, 512, 1024, 2**63 - 1])
    boxes, scores = np.ones((7, 1), np.float32) * np.float32([0, 0, 4, 4]), np.full(7, 0.5, np.float32)
    kept = nms(boxes, scores, kinds, score_threshold=0.1, iou_threshold=0.5, max_detections=300)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_nothing_comes_from_nothing():
    empty = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
    assert nms(*empty, score_threshold=0.25, iou_threshold=0.45, max_detections=300).shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [{"score_threshold": 1.5}, {"iou_threshold": -0.1}, {"iou_threshold": float("nan")}, {"max_detections": -1}],
)
def test_error_on_thresholds_out_of_range(wrong):
    options = {"score_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 300} | wrong
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}: expected .*, got {next(iter(wrong.values()))}"):
        nms(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), **options)


@pytest.mark.parametrize(("spread", "size"), [(416, 30), (416, 120), (1, 100)])
def test_all_candidates_of_a_yolov3_at_once_take_less_than_a_quarter_second(spread, size):
    rng = np.random.default_rng(0)
    boxes = corners(rng.uniform(0, spread, (10_647, 2)), rng.uniform(0.8 * size, size, (10_647, 2)))
    scores, kinds = rng.random(10_647).astype(np.float32), np.zeros(10_647, np.int64)
    start = time.process_time()
    nms(boxes, scores, kinds, score_threshold=0.0, iou_threshold=0.45, max_detections=300)
    assert time.process_time() - start < 0.25


@settings(deadline=None)
@given(candidates(low=-2), thresholds, thresholds, st.sampled_from([0.3, 0.6, 1.0, 2.0]), st.sampled_from([1, 3, 300]))
def test_diou_equals_the_reference(found, score_threshold, iou_threshold, beta, most):
    options = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "max_detections": most}
    expected = reference.nms(*found, **options, overlap=partial(reference.diou, beta=beta))
    assert nms(*found, **options, diou_beta=beta).tolist() == expected.tolist()


def test_a_smaller_exponent_keeps_more_of_the_boxes_that_are_apart():
    # The overlap is 0.6, the centers are 2.5 apart, and the diagonal is sqrt(12.5 ** 2 + 10 ** 2).
    boxes = np.array([[0, 0, 10, 10], [2.5, 0, 12.5, 10]], np.float32)
    scores, kinds = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    term = 2.5**2 / (12.5**2 + 10**2)
    for beta in (0.3, 0.6, 1.0):
        for slack, kept in ((-1e-6, [0]), (1e-6, [0, 1])):
            limit = 0.6 - term**beta + slack
            options = {"score_threshold": 0.1, "iou_threshold": limit, "max_detections": 9}
            assert nms(boxes, scores, kinds, **options, diou_beta=beta).tolist() == kept


@pytest.fixture
def by_place(monkeypatch):
    """All boxes are sorted by their place and compared with those nearby, a few at once."""
    monkeypatch.setattr(suppress, "_compiled", lambda: None)
    for name, value in (("_MANY", -1), ("_LOOKED_UP", 4), ("_PAIRS", 16)):
        monkeypatch.setattr(suppress, name, value)


far = st.sampled_from([0.0, 1e-30, 0.5, 3.0, 1e6, 3e38])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(candidates(low=-2), candidates(coordinates=far), candidates(coordinates=anything)),
    thresholds,
    st.sampled_from([1, 3, 300]),
    st.sampled_from([0.0, 0.6, 1.0]),
)
def test_boxes_sorted_by_place_equal_the_reference(by_place, found, iou_threshold, most, diou_beta):
    options = {"score_threshold": 0.2, "iou_threshold": iou_threshold, "max_detections": most}
    overlap = {"overlap": partial(reference.diou, beta=diou_beta)} if diou_beta else {}
    expected = reference.nms(*found, **options, **overlap)
    assert nms(*found, **options, diou_beta=diou_beta).tolist() == expected.tolist()


def test_boxes_that_hardly_overlap_are_compared_with_few_others(monkeypatch):
    monkeypatch.setattr(suppress, "_compiled", lambda: None)
    monkeypatch.setattr(suppress, "_MANY", 1 << 16)
    compared = 0
    overlapping = suppress._overlapping

    def counted(corners, areas, a, b, limit):
        nonlocal compared
        compared += len(a)
        return overlapping(corners, areas, a, b, limit)

    monkeypatch.setattr(suppress, "_overlapping", counted)
    pairs = []
    for count in (2000, 8000):
        random, compared = np.random.default_rng(0), 0
        found = corners(random.uniform(0, 20 * count**0.5, (count, 2)), random.uniform(8, 30, (count, 2)))
        scores, kinds = random.random(count).astype(np.float32), np.zeros(count, np.int64)
        kept = nms(found, scores, kinds, score_threshold=0, iou_threshold=0.45, max_detections=count)
        assert len(kept) > 0.9 * count
        pairs.append(compared - suppress._MANY)
    assert pairs[1] < 8 * pairs[0]
    assert pairs[1] < 8000**2 / 50
