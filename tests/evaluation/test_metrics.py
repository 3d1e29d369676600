from __future__ import annotations

import copy
import io
import math
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgekit.errors import BackendUnavailable, UsageError
from edgekit.evaluation.metrics import (
    AveragePrecision,
    FoundBoxes,
    ranks,
    regression_figures,
    sequence_figures,
    share,
)
from edgekit.extras import install_command


def scores_and_targets(seed: int, examples: int = 200, classes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((examples, classes)).astype(np.float32), random.integers(0, classes, examples)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_top_k_accuracy_is_scikit_learns(k: int, seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, targets = scores_and_targets(seed)
    expected = sklearn.top_k_accuracy_score(targets, scores, k=k, labels=np.arange(12))
    assert share(ranks(scores, targets) < k) == pytest.approx(expected, abs=1e-12)


@given(arrays(np.float32, (7, 5), elements=st.integers(-2, 2)), arrays(np.int64, 7, elements=st.integers(0, 4)))
def test_a_rank_is_the_place_in_a_stable_sort(scores: np.ndarray, targets: np.ndarray) -> None:
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.argmax(order == targets[:, None], axis=1)
    assert ranks(scores, targets).tolist() == places.tolist()
    assert share(ranks(scores, targets) < 1) == np.mean(scores.argmax(axis=1) == targets)


@given(arrays(np.float32, (6, 5), elements=st.floats(-9, 9, width=32)), arrays(np.int64, 6, elements=st.integers(0, 4)))
def test_more_places_never_lower_the_accuracy_and_all_of_them_make_it_one(
    scores: np.ndarray, targets: np.ndarray
) -> None:
    found = [share(ranks(scores, targets) < k) for k in range(1, 6)]
    assert found == sorted(found)
    assert found[-1] == 1.0


def test_scores_that_are_not_numbers_are_never_right() -> None:
    scores = np.array([[np.nan, 1, 0], [3, 2, 1]], np.float32)
    assert share(ranks(scores, np.array([0, 0])) < 1) == 0.5
    assert share(ranks(scores, np.array([1, 0])) < 1) == 0.5


@pytest.mark.parametrize(("targets", "got"), [([0, 3], "got 3"), ([-1, 0], "got -1"), ([0], r"\(1,\)")])
def test_error_on_targets_that_are_no_classes(targets: list[int], got: str) -> None:
    with pytest.raises(UsageError, match=got):
        ranks(np.zeros((2, 3)), np.array(targets))


@pytest.mark.parametrize("outputs", [(), (1,), (3,)])
def test_figures_of_regression_are_scikit_learns(outputs: tuple[int, ...]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(5)
    expected = random.standard_normal((50, *outputs)) * 3 + 1
    predicted = expected + random.standard_normal((50, *outputs))
    figures = regression_figures(predicted.astype(np.float32), expected.astype(np.float32))
    assert figures["mse"] == pytest.approx(sklearn.mean_squared_error(expected, predicted), rel=1e-5)
    assert figures["rmse"] == pytest.approx(math.sqrt(sklearn.mean_squared_error(expected, predicted)), rel=1e-5)
    assert figures["r2"] == pytest.approx(sklearn.r2_score(expected, predicted), rel=1e-5)


def test_r2_of_outputs_that_never_vary_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    expected = np.array([[2.0, 1.0, 5.0], [2.0, 1.0, 6.0], [2.0, 1.0, 7.0]])
    predicted = np.array([[2.0, 1.5, 5.0], [2.0, 1.0, 6.5], [2.0, 1.0, 7.0]])
    assert regression_figures(predicted, expected)["r2"] == pytest.approx(sklearn.r2_score(expected, predicted))


def test_the_mean_as_answer_explains_nothing() -> None:
    expected = np.array([1.0, 2.0, 6.0])
    figures = regression_figures(np.full(3, 3.0), expected)
    assert figures["r2"] == 0.0
    assert figures["mse"] == pytest.approx(14 / 3)


@given(arrays(np.float64, (4, 2), elements=st.floats(-1e3, 1e3)))
def test_a_perfect_answer_has_no_error(expected: np.ndarray) -> None:
    assert regression_figures(expected, expected) == {"mse": 0.0, "rmse": 0.0, "r2": 1.0}


def test_one_example_has_no_r2() -> None:
    assert math.isnan(regression_figures(np.array([1.0]), np.array([2.0]))["r2"])


def test_error_on_shapes_that_differ() -> None:
    with pytest.raises(UsageError, match=r"got \(3, 1\) and \(3,\)"):
        regression_figures(np.zeros((3, 1)), np.zeros(3))


def test_tokens_count_with_the_end_and_sequences_as_a_whole() -> None:
    figures = sequence_figures(["abc", "ab", "abcd", ""], ["abc", "abc", "abc", ""])
    # 4 right; 2 of 4, then the end is too early; 3 of 4, then it goes on; the end alone.
    assert figures["token_accuracy"] == pytest.approx((4 + 2 + 3 + 1) / (4 + 4 + 4 + 1))
    assert figures["sequence_accuracy"] == 0.5


@given(st.lists(st.tuples(st.text("ab", max_size=4), st.text("ab", max_size=4)), min_size=1, max_size=9))
def test_sequences_are_right_when_all_their_tokens_are(pairs: list[tuple[str, str]]) -> None:
    got, wanted = [list(column) for column in zip(*pairs, strict=True)]
    figures = sequence_figures(got, wanted)
    assert figures["sequence_accuracy"] == np.mean([a == b for a, b in pairs])
    assert (figures["token_accuracy"] == 1.0) == (figures["sequence_accuracy"] == 1.0)
    assert 0 <= figures["token_accuracy"] <= 1


def test_error_on_a_prediction_too_few() -> None:
    with pytest.raises(UsageError, match="expected as many"):
        sequence_figures(["a"], ["a", "b"])


# Average precision.


def boxes(
    rows: list[tuple[float, float, float, float]], kinds: list[int], scores: list[float] | None = None
) -> FoundBoxes:
    corners = np.array(rows, np.float32).reshape(-1, 4)
    return FoundBoxes(corners, np.array(kinds, np.int64), None if scores is None else np.array(scores, np.float32))


NOTHING = boxes([], [])
NOTHING_FOUND = boxes([], [], [])
BOX = (10.0, 10.0, 30.0, 30.0)


def test_a_hand_computed_example() -> None:
    # Two boxes. The best guess hits one with an overlap of 1; the second misses; the third hits the other with an
    # overlap of 18/20 = 0.9. At overlaps up to 0.90 the precision is 1 for recalls up to 0.5 and 2/3 above: of the 101
    # recalls 51 and 50. Above 0.90 the third is no hit: 1 up to a recall of 0.5, nothing above.
    collected = AveragePrecision(1)
    other = (50.0, 10.0, 70.0, 30.0)
    collected.add(
        boxes([BOX, other], [0, 0]),
        boxes([BOX, (80.0, 80.0, 90.0, 90.0), (50.0, 10.0, 70.0, 28.0)], [0, 0, 0], [0.9, 0.8, 0.7]),
    )
    figures = collected.figures()
    loose, strict = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert figures.map50 == pytest.approx(loose, abs=1e-9)
    assert figures.map50_95 == pytest.approx((9 * loose + strict) / 10, abs=1e-9)
    assert figures.per_class == (pytest.approx(figures.map50_95),)


def test_finding_everything_is_one_and_nothing_zero() -> None:
    for found, expected in ((boxes([BOX], [0], [0.5]), 1.0), (NOTHING_FOUND, 0.0)):
        collected = AveragePrecision(1)
        collected.add(boxes([BOX], [0]), found)
        assert collected.figures().map50 == pytest.approx(expected)


def test_a_class_without_a_box_has_no_figure_and_is_in_no_mean() -> None:
    collected = AveragePrecision(3)
    collected.add(boxes([BOX], [1]), boxes([BOX, BOX], [1, 2], [0.5, 0.9]))
    figures = collected.figures()
    assert figures.map50 == pytest.approx(1.0)
    assert np.isnan(figures.per_class).tolist() == [True, False, True]


def test_images_without_any_box_have_no_figure() -> None:
    collected = AveragePrecision(2)
    collected.add(NOTHING, boxes([BOX], [0], [0.5]))
    assert math.isnan(collected.figures().map50)
    assert math.isnan(AveragePrecision(2).figures().map50_95)


def test_an_image_without_boxes_counts_what_is_found_in_it_as_wrong() -> None:
    collected = AveragePrecision(1)
    collected.add(boxes([BOX], [0]), boxes([BOX], [0], [0.5]))
    collected.add(NOTHING, boxes([BOX], [0], [0.9]))
    assert collected.figures().map50 == pytest.approx(0.5)


def random_images(seed: int, classes: int, images: int) -> list[tuple[FoundBoxes, FoundBoxes]]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        count = int(random.integers(0, 6))
        start = random.uniform(0, 80, (count, 2))
        truth = np.concatenate([start, start + random.uniform(5, 40, (count, 2))], axis=1)
        kinds = random.integers(0, classes, count)
        hits = random.random(count) < 0.8
        near = truth[hits] + random.normal(0, 2, (int(hits.sum()), 4))
        false = random.uniform(0, 50, (int(random.integers(0, 4)), 2))
        corners = np.concatenate([near, np.concatenate([false, false + 20], axis=1)])
        found = np.concatenate([kinds[hits], random.integers(0, classes, len(false))])
        scores = random.random(len(corners)).round(2)  # with ties
        made.append((FoundBoxes(truth, kinds), FoundBoxes(corners, found, scores)))
    return made


def by_files(images: list[tuple[FoundBoxes, FoundBoxes]], classes: int) -> tuple[float, float]:
    """As its own documentation uses pycocotools: annotations, ``loadRes``, ``summarize``."""
    annotations, results = [], []
    for i, (truth, found) in enumerate(images):
        for corners, kind in zip(truth.corners, truth.classes, strict=True):
            x, y, width, height = corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "category_id": int(kind) + 1, "iscrowd": 0,
                 "bbox": [x, y, width, height], "area": width * height}
            )  # fmt: skip
        assert found.scores is not None
        for corners, kind, score in zip(found.corners, found.classes, found.scores, strict=True):
            box = [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]
            results.append({"image_id": i + 1, "category_id": int(kind) + 1, "bbox": box, "score": float(score)})
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(images))],
            "categories": [{"id": i + 1, "name": str(i)} for i in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_pycocotools_used_directly(seed: int) -> None:
    images = random_images(seed, classes=4, images=15)
    collected = AveragePrecision(4)
    for truth, found in images:
        collected.add(truth, found)
    figures = collected.figures()
    assert (figures.map50, figures.map50_95) == pytest.approx(by_files(images, 4), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_an_overlap_that_is_easier_to_reach_gives_no_lower_precision(seed: int) -> None:
    collected = AveragePrecision(2)
    for truth, found in random_images(seed, classes=2, images=3):
        collected.add(truth, found)
    figures = collected.figures()
    assert math.isnan(figures.map50) or 0 <= figures.map50_95 <= figures.map50 <= 1


def test_pycocotools_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    collected = AveragePrecision(1)
    collected.add(boxes([BOX], [0]), boxes([BOX], [0], [0.5]))
    collected.figures()
    assert capfd.readouterr() == ("", "")


def test_error_on_a_class_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="expected 0 to 1, got 2 to 2"):
        AveragePrecision(2).add(boxes([BOX], [2]), NOTHING_FOUND)


def test_without_pycocotools_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(BackendUnavailable) as error:
        AveragePrecision(1)
    assert error.value.hint == install_command("eval")
