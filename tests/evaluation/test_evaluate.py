from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest

from edgekit.data.examples import Boxes, Example
from edgekit.data.vocabulary import BEGIN, END, SPECIAL_TOKENS
from edgekit.errors import BackendUnavailable, DataError, RunError, UsageError
from edgekit.evaluation.evaluate import FIGURES, evaluate_session
from edgekit.recipe.heads import YoloHead, YoloV3
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.specs import ShapeRange, TensorSpec

COLOURS = ("red", "green", "blue")


def coloured(index: int, target: int, name: str = "") -> Example:
    """An image of a single color, and its class."""
    pixels = np.zeros((6, 5, 3), np.uint8)
    pixels[..., index] = 200
    return Example(name or f"{COLOURS[index]} {target}", pixels, target)


def brightest(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A classifier that predicts the brightest channel."""
    return {"logits": feeds["images"].mean(axis=(2, 3))}


FOUR = [coloured(0, 0), coloured(1, 1), coloured(2, 2), coloured(0, 1)]


def test_accuracy_is_the_share_of_right_answers(make_session, listed) -> None:
    session, _ = make_session(brightest)
    found = evaluate_session(session, listed(FOUR, COLOURS))
    assert found.figures == {"accuracy": 0.75}
    assert found.examples == 4
    assert {row.label: (row.count, row.value) for row in found.per_class} == {
        "red": (1, 1.0),
        "green": (2, 0.5),
        "blue": (1, 1.0),
    }
    assert set(found.figures) <= set(FIGURES)


def test_the_top_five_count_where_there_are_more_classes(make_session, listed) -> None:
    names = tuple("abcdefgh")
    spec = (TensorSpec("logits", "float32", (1, 8)),)
    session, _ = make_session(
        lambda feeds: {"logits": np.arange(8, 0, -1, dtype=np.float32)[None]}, labels=names, outputs=spec
    )
    found = evaluate_session(session, listed([coloured(0, i) for i in range(8)], names))
    assert found.figures == {"accuracy": 1 / 8, "top5": 5 / 8}


def test_classes_in_another_order_are_matched_by_name(make_session, listed) -> None:
    session, _ = make_session(brightest, labels=("Red", "Green", "Blue"))
    swapped = [coloured(0, 2), coloured(1, 1), coloured(2, 0), coloured(0, 0)]
    found = evaluate_session(session, listed(swapped, ("blue", "green", "red")))
    assert found.figures["accuracy"] == 0.75
    rows = [(row.label, row.count, row.value) for row in found.per_class]
    assert rows == [("blue", 2, 0.5), ("green", 1, 1.0), ("red", 1, 1.0)]


def test_a_set_may_have_a_part_of_the_models_classes(make_session, listed) -> None:
    session, _ = make_session(brightest, labels=("Red", "Green", "Blue"))
    # The second is a blue image that is called red: classes that the set lacks are in the running.
    found = evaluate_session(session, listed([coloured(0, 1), coloured(2, 1), coloured(1, 0)], ("green", "red")))
    assert found.figures["accuracy"] == pytest.approx(2 / 3)
    assert [(row.label, row.count, row.value) for row in found.per_class] == [("green", 1, 1.0), ("red", 2, 0.5)]
    assert found.notes == ("the data set has 2 of the model's 3 classes",)


def test_error_on_other_classes(make_session, listed) -> None:
    session, _ = make_session(brightest)
    with pytest.raises(UsageError, match="the model lacks 'pink', and the set lacks 'blue'"):
        evaluate_session(session, listed(FOUR, ("red", "green", "pink")))


def test_an_engine_without_names_has_the_classes_of_the_set(make_session, listed) -> None:
    session, _ = make_session(brightest, labels=(), task="tensor")
    found = evaluate_session(session, listed(FOUR, COLOURS))
    assert found.figures["accuracy"] == 0.75
    assert found.task == "classify"


def test_error_on_an_engine_without_names_and_another_number_of_classes(make_session, listed) -> None:
    session, _ = make_session(brightest, labels=(), task="tensor")
    with pytest.raises(RunError, match="expected a logit for each of 4 classes, got 3") as error:
        evaluate_session(session, listed(FOUR, (*COLOURS, "pink")))
    assert error.value.hint == "name the model's 3 classes: labels"


@pytest.mark.parametrize(("task", "own"), [("detect", "classify"), ("classify", "detect"), ("translate", "tensor")])
def test_error_on_a_set_for_another_task(make_session, listed, task: str, own: str) -> None:
    session, _ = make_session(brightest, task=own)
    with pytest.raises(UsageError, match=f"for the task '{own}' of 'scripted', got one for '{task}'"):
        evaluate_session(session, listed(FOUR, COLOURS, task=task))


# Batches, limits, broken examples.


@pytest.mark.parametrize(
    ("batch", "shapes", "given"),
    [
        (1, {}, [1] * 5),
        (2, {}, [2, 2, 2]),  # the last one full, as a fixed batch has to be
        ("batch", {}, [1] * 5),
        ("batch", {"images": ShapeRange((1, 3, 4, 4), (3, 3, 4, 4), (8, 3, 4, 4))}, [3, 2]),
        ("batch", {"images": ShapeRange((2, 3, 4, 4), (4, 3, 4, 4), (8, 3, 4, 4))}, [4, 2]),
    ],
)
def test_the_engine_gets_full_batches(make_session, listed, batch, shapes, given) -> None:
    spec = (TensorSpec("images", "float32", (batch, 3, 4, 4)),)
    session, engine = make_session(brightest, inputs=spec, shapes=shapes)
    found = evaluate_session(session, listed([*FOUR, coloured(2, 2)], COLOURS))
    assert engine.batches == given
    assert found.examples == 5
    assert found.figures["accuracy"] == 4 / 5


def test_inputs_in_half_precision_are_fed(make_session, listed) -> None:
    seen = []

    def half(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds["images"].dtype)
        return brightest(feeds)

    session, _ = make_session(half, inputs=(TensorSpec("images", "float16", (1, 3, 4, 4)),))
    assert evaluate_session(session, listed(FOUR, COLOURS)).figures["accuracy"] == 0.75
    assert set(seen) == {np.dtype("float16")}


def test_a_limit_takes_examples_from_all_over_the_set(make_session, listed) -> None:
    session, engine = make_session(brightest)
    sorted_by_class = [coloured(i, i) for i in range(3) for _ in range(10)]
    found = evaluate_session(session, listed(sorted_by_class, COLOURS), limit=3)
    assert found.examples == 3
    assert [row.count for row in found.per_class] == [1, 1, 1]


def test_broken_examples_are_skipped_and_counted(make_session, listed) -> None:
    session, _ = make_session(brightest)
    items = [FOUR[0], "b.jpg: broken image", FOUR[3], Example("floats", np.zeros(3, np.float32), 0)]
    found = evaluate_session(session, listed(items, COLOURS))
    assert found.examples == 2
    assert found.figures["accuracy"] == 0.5
    assert found.skipped[0] == "b.jpg: broken image"
    assert found.skipped[1].startswith("floats: expected an image")


def test_error_when_all_are_broken_or_there_is_none(make_session, listed) -> None:
    session, _ = make_session(brightest)
    with pytest.raises(DataError, match="all 2 examples are broken: a.jpg: broken image"):
        evaluate_session(session, listed(["a.jpg: broken image"] * 2, COLOURS))
    with pytest.raises(DataError, match="expected at least one example, got none"):
        evaluate_session(session, listed([], COLOURS))


def test_progress_counts_every_example(make_session, listed) -> None:
    advanced: list[float] = []

    class Watching:
        @contextmanager
        def stage(self, title: str, *, total: float | None = None, unit: str = ""):
            assert (title, total, unit) == ("evaluating FP32", 3, "examples")
            yield advanced.append

        def note(self, text: str) -> None:
            raise AssertionError(text)

    session, _ = make_session(brightest)
    evaluate_session(session, listed([*FOUR[:2], "broken"], COLOURS), progress=Watching())
    assert sum(advanced) == 3


def test_notes_of_engine_and_set_are_kept(make_session, listed) -> None:
    session, _ = make_session(brightest, notes=("the weights are random",))
    found = evaluate_session(session, listed(FOUR, COLOURS, notes=("2 files were left out",)))
    assert found.notes == ("the weights are random", "2 files were left out")


def test_what_is_not_a_number_becomes_null_in_json(make_session, listed) -> None:
    session, _ = make_session(brightest)
    written = json.loads(msgspec.json.encode(evaluate_session(session, listed(FOUR[:1], COLOURS))))
    assert [row["value"] for row in written["per_class"]] == [1.0, None, None]


# Regression.

ROWS = [Example(f"row {i}", np.array([i, 1.0], np.float32), np.array([2.0 * i], np.float32)) for i in range(5)]
TABLE = {
    "task": "regress",
    "labels": (),
    "preprocess": None,
    "inputs": (TensorSpec("features", "float32", (2, 2)),),
    "outputs": (TensorSpec("prediction", "float32", (2, 1)),),
}


def test_a_regression_is_measured_by_its_squares(make_session, listed) -> None:
    session, engine = make_session(lambda feeds: {"prediction": feeds["features"] @ [[2.0], [1.0]]}, **TABLE)
    found = evaluate_session(session, listed(ROWS, task="regress"))
    assert engine.batches == [2, 2, 2]
    assert found.figures == {"mse": 1.0, "rmse": 1.0, "r2": pytest.approx(1 - 5 / 40)}
    assert found.per_class == ()


def test_error_on_another_number_of_outputs(make_session, listed) -> None:
    session, _ = make_session(lambda feeds: {"prediction": np.zeros((2, 3), np.float32)}, **TABLE)
    with pytest.raises(RunError, match="one output with 1 numbers per example"):
        evaluate_session(session, listed(ROWS, task="regress"))


# Detection. A head of 2 x 2 cells of 32 px, one anchor of 32 x 16 px, and two classes.

DETECTOR = {
    "task": "detect",
    "labels": ("cat", "dog"),
    "inputs": (TensorSpec("images", "float32", (1, 3, 64, 64)),),
    "outputs": (TensorSpec("head", "float32", (1, 7, 2, 2)),),
    "preprocess": Preprocess(resize="letterbox"),
    "postprocess": Postprocess(
        head=YoloV3(heads=(YoloHead(output="head", stride=32, anchors=((32.0, 16.0),)),)), score_threshold=0.5
    ),
}


def dog_at(score: float = 0.9, kind: int = 1):
    """A detector that finds a dog in the upper left cell: at (0, 8) to (32, 24) of its input."""

    def answer(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        head = np.full((len(feeds["images"]), 7, 2, 2), -30, np.float32)
        head[:, :4] = 0
        head[:, 4, 0, 0], head[:, 5 + kind, 0, 0] = math.log(score / (1 - score)), 30
        return {"head": head}

    return answer


def scene(corners: tuple[float, ...], kind: int = 1, *, size: int = 64, ignored: Boxes | None = None) -> Example:
    boxes = Boxes(np.array([corners], np.float32).reshape(-1, 4), np.array([kind]), ignored)
    return Example(f"scene {corners}", np.zeros((size, size, 3), np.uint8), boxes)


ANIMALS = ("cat", "dog")


def test_boxes_in_px_of_the_image_are_compared(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **DETECTOR)
    scenes = listed([scene((0, 8, 32, 24)), scene((0, 16, 64, 48), size=128)], ANIMALS, task="detect")
    found = evaluate_session(session, scenes)
    assert found.figures == pytest.approx({"map50": 1.0, "map50_95": 1.0, "median_score": 0.9})
    assert [(row.label, row.count) for row in found.per_class] == [("cat", 0), ("dog", 2)]
    assert math.isnan(found.per_class[0].value)
    assert found.per_class[1].value == pytest.approx(1.0)


def test_detections_of_classes_that_the_set_lacks_do_not_count(make_session, listed) -> None:
    both = dog_at()

    def dog_and_cat(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        head = both(feeds)["head"]
        head[:, 5, 0, 0] = 30
        return {"head": head}

    session, _ = make_session(dog_and_cat, **DETECTOR)
    found = evaluate_session(session, listed([scene((0, 8, 32, 24), 0)], ("dog",), task="detect"))
    assert found.figures["map50"] == pytest.approx(1.0)
    assert [(row.label, row.count, row.value) for row in found.per_class] == [("dog", 1, pytest.approx(1.0))]


def test_an_overlap_of_half_counts_only_for_map50(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **DETECTOR)
    # 16 of 16 + 12 px high: an overlap of 0.57.
    found = evaluate_session(session, listed([scene((0, 8, 32, 36))], ANIMALS, task="detect"))
    assert found.figures == pytest.approx({"map50": 1.0, "map50_95": 0.2, "median_score": 0.9})


def test_detections_are_matched_by_name_too(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **DETECTOR)
    found = evaluate_session(session, listed([scene((0, 8, 32, 24), kind=0)], ("dog", "cat"), task="detect"))
    assert found.figures["map50"] == pytest.approx(1.0)
    assert [(row.label, row.count) for row in found.per_class] == [("dog", 1), ("cat", 0)]
    assert found.per_class[0].value == pytest.approx(1.0)


def test_detections_count_down_to_the_score_threshold(make_session, listed) -> None:
    session, _ = make_session(dog_at(score=0.01), **DETECTOR)
    scenes = listed([scene((0, 8, 32, 24))], ANIMALS, task="detect")
    assert evaluate_session(session, scenes).figures["map50"] == pytest.approx(1.0)
    assert evaluate_session(session, scenes, score_threshold=0.1).figures["map50"] == 0.0
    with pytest.raises(UsageError, match="expected 0 to 1, got 2"):
        evaluate_session(session, scenes, score_threshold=2)


def test_ignored_boxes_are_neither_right_nor_wrong(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **DETECTOR)
    crowd = Boxes(np.array([[0, 0, 40, 40]], np.float32), np.array([1]))
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    with_crowd = Example("crowd", np.zeros((64, 64, 3), np.uint8), Boxes(*nothing, crowd))
    without = Example("nothing", np.zeros((64, 64, 3), np.uint8), Boxes(*nothing))
    right = scene((0, 8, 32, 24))
    for first, expected in ((with_crowd, 1.0), (without, 0.5)):
        found = evaluate_session(session, listed([first, right], ANIMALS, task="detect"))
        assert found.figures["map50"] == pytest.approx(expected)
        assert found.per_class[1].count == 1


def test_grey_images_are_taken(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **DETECTOR)
    grey = Example("grey", np.zeros((64, 64), np.uint8), scene((0, 8, 32, 24)).target)
    assert evaluate_session(session, listed([grey], ANIMALS, task="detect")).figures["map50"] == pytest.approx(1.0)


def test_a_detector_with_a_batch_gets_several_at_once(make_session, listed) -> None:
    batched = {**DETECTOR, "inputs": (TensorSpec("images", "float32", (2, 3, 64, 64)),)}
    session, engine = make_session(dog_at(), **batched)
    scenes = [scene((0, 8, 32, 24)), scene((32, 40, 64, 56)), scene((0, 8, 32, 24))]
    found = evaluate_session(session, listed(scenes, ANIMALS, task="detect"))
    assert engine.batches == [2, 2]
    # Two of three boxes; all three guesses score the same, and the second is wrong.
    assert 0.4 < found.figures["map50"] < 0.67


def test_error_on_a_detector_with_more_classes_than_the_set(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **{**DETECTOR, "labels": ()})
    with pytest.raises(RunError, match="expected objects of 1 classes, got one of class 1"):
        evaluate_session(session, listed([scene((0, 8, 32, 24), kind=0)], ("cat",), task="detect"))


def test_error_without_pycocotools(make_session, listed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.cocoeval", None)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    session, engine = make_session(dog_at(), **DETECTOR)
    with pytest.raises(BackendUnavailable, match="pycocotools"):
        evaluate_session(session, listed([scene((0, 8, 32, 24))], ANIMALS, task="detect"))
    assert engine.batches == []


# Translation.

VOCABULARY = (*SPECIAL_TOKENS, *"abc")
TRANSLATOR = {
    "task": "translate",
    "labels": VOCABULARY,
    "preprocess": None,
    "inputs": (TensorSpec("source", "int64", (1, 6)), TensorSpec("target", "int64", (1, 6))),
    "outputs": (TensorSpec("logits", "float32", (1, 6, 7)),),
}


def copies(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A translator that copies its source, but never writes a ``c``: it ends there."""
    source, target = feeds["source"], feeds["target"]
    assert (target[:, 0] == BEGIN).all()
    tokens = np.where(source == VOCABULARY.index("c"), END, source)
    return {"logits": np.eye(7, dtype=np.float32)[tokens]}


def test_a_translator_writes_by_itself_and_is_compared_token_by_token(make_session, listed) -> None:
    session, engine = make_session(copies, **TRANSLATOR)
    texts = [Example("1", "ab", "ab"), Example("2", "abc", "abc"), Example("3", "b", "a"), Example("4", "", "")]
    found = evaluate_session(session, listed(texts, VOCABULARY, task="translate"))
    # With the ends: 3 of 3, 2 of 4, 1 of 2, 1 of 1.
    assert found.figures == {"token_accuracy": pytest.approx(7 / 10), "sequence_accuracy": 0.5}
    assert len(engine.batches) == 3 + 3 + 2 + 1


def test_texts_are_read_with_the_engines_vocabulary(make_session, listed) -> None:
    session, _ = make_session(copies, **TRANSLATOR)
    other = listed([Example("1", "ab", "ab")], (*SPECIAL_TOKENS, *"cba"), task="translate")
    assert evaluate_session(session, other).figures["sequence_accuracy"] == 1.0


def test_a_token_outside_the_vocabulary_is_never_right(make_session, listed) -> None:
    session, _ = make_session(copies, **TRANSLATOR)
    texts = [Example("1", "aé", "aé"), Example("2", "ab", "ab")]
    found = evaluate_session(session, listed(texts, VOCABULARY, task="translate"))
    assert found.figures == {"token_accuracy": pytest.approx(5 / 6), "sequence_accuracy": 0.5}


def test_texts_that_are_too_long_are_skipped(make_session, listed) -> None:
    session, _ = make_session(copies, **TRANSLATOR)
    found = evaluate_session(session, listed([Example("1", "ab", "ab"), Example("2", "a" * 9, "a")], VOCABULARY,
                                             task="translate"))  # fmt: skip
    assert found.examples == 1
    assert "at most 6 tokens" in found.skipped[0]


def test_classes_that_are_taken_for_others_are_counted_and_the_worst_examples_named(make_session, listed) -> None:
    session, _ = make_session(brightest)
    found = evaluate_session(session, listed(FOUR, COLOURS)).details
    assert set(found.confusion) == {(0, 0, 1), (1, 1, 1), (2, 2, 1), (1, 0, 1)}
    (mistake,) = found.mistakes
    assert (mistake.index, mistake.id) == (3, "red 1")
    assert mistake.text.endswith("taken for red")


def test_mistakes_have_their_places_in_the_data_set(make_session, listed) -> None:
    session, _ = make_session(brightest)
    broken = Example("broken", np.zeros((6, 5, 4), np.uint8), 0)
    found = evaluate_session(session, listed([FOUR[0], broken, FOUR[3]], COLOURS))
    assert len(found.skipped) == 1
    assert [mistake.index for mistake in found.details.mistakes] == [2]


def test_missed_false_and_confused_objects_are_counted_at_the_engines_threshold(make_session, listed) -> None:
    scenes = [scene((0, 8, 32, 24)), scene((0, 8, 32, 24), kind=0), scene((40, 40, 60, 60))]
    session, _ = make_session(dog_at(), **DETECTOR)
    found = evaluate_session(session, listed(scenes, ANIMALS, task="detect")).details
    # A dog that is found, a cat that is taken for one, and a dog elsewhere: missed, and a false one.
    assert found.confusion == ((-1, 1, 1), (0, 1, 1), (1, -1, 1), (1, 1, 1))
    assert [(m.index, m.text) for m in found.mistakes] == [(2, "1 missed, 1 false"), (1, "1 of another class")]
    assert found.mistakes[0].boxes[0] == pytest.approx((0, 8, 32, 24), abs=0.01)
    session, _ = make_session(dog_at(score=0.4), **DETECTOR)
    found = evaluate_session(session, listed(scenes, ANIMALS, task="detect")).details
    assert found.confusion == ((0, -1, 1), (1, -1, 2)), "scores of 0.4 are below the engine's threshold of 0.5"


def test_detections_in_ignored_regions_are_not_false(make_session, listed) -> None:
    crowd = Boxes(np.array([[0, 8, 32, 24]], np.float32), np.array([1]))
    session, _ = make_session(dog_at(), **DETECTOR)
    one = scene((40, 40, 60, 60), ignored=crowd)
    found = evaluate_session(session, listed([one], ANIMALS, task="detect")).details
    assert found.confusion == ((1, -1, 1),)


def test_the_precision_recall_curve_has_the_area_of_the_mean_average_precision(make_session, listed) -> None:
    session, _ = make_session(dog_at(), **DETECTOR)
    scenes = [scene((0, 8, 32, 24)), scene((40, 40, 60, 60)), scene((0, 8, 32, 24))]
    found = evaluate_session(session, listed(scenes, ANIMALS, task="detect"))
    curve = found.details.curves["IoU 0.50"]
    assert len(curve) == 101
    assert np.mean(curve) == pytest.approx(found.figures["map50"])
