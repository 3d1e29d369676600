from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgekit.data.examples import Boxes, Example
from edgekit.data.vocabulary import BEGIN, END, PAD, text_from_ids
from edgekit.errors import DataError, UsageError
from edgekit.recipe.schema import Labels, load_recipe
from edgekit.training.batches import Batch, Batches
from edgekit.training.yolo_loss import Truth


def ids(batches: list[Batch]) -> list[str]:
    return [example.id for batch in batches for example in batch.examples]


def test_the_seed_sets_a_different_order_for_each_epoch(few: Any) -> None:
    examples, recipe = few("digits"), load_recipe("lenet")
    batches = Batches(examples, recipe, size=5, seed=3)
    first, second = (ids(list(batches.epoch(epoch))) for epoch in (0, 1))
    assert len(batches) == 2
    assert len(set(first)) == len(set(second)) == 10
    assert first != second
    assert first == ids(list(Batches(examples, recipe, size=5, seed=3).epoch(0)))
    assert first != ids(list(Batches(examples, recipe, size=5, seed=4).epoch(0)))


@pytest.mark.parametrize(
    ("model", "source", "augment"),
    [("lenet", "digits", ("crop", "color")), ("yolov3-tiny-scenes", "scenes", ("scale", "color", "mosaic"))],
)
def test_an_epoch_that_starts_late_has_the_same_batches(
    few: Any, model: str, source: str, augment: tuple[str, ...]
) -> None:
    def batches() -> Batches:
        return Batches(few(source), load_recipe(model), size=3, seed=1, augment=augment)

    whole, late = list(batches().epoch(2)), list(batches().epoch(2, first=2))
    assert len(late) == 2
    for a, b in zip(whole[2:], late, strict=True):
        torch.testing.assert_close(a.inputs, b.inputs, rtol=0, atol=0)
        torch.testing.assert_close(tuple(a.targets), tuple(b.targets), rtol=0, atol=0)


def test_evaluation_uses_all_examples_in_order_without_augmentation(few: Any) -> None:
    examples = few("digits")
    batches = list(Batches(examples, load_recipe("lenet"), size=5, augment=("crop",)).in_order())
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert ids(batches) == [example.id for example in examples.examples]
    assert batches[0].inputs[0].shape == (5, 1, 32, 32)
    assert batches[0].targets.tolist() == [example.target for example in examples.examples[:5]]


def test_texts_are_padded_to_the_longest_of_the_batch(few: Any) -> None:
    recipe = load_recipe("transformer-tiny")
    batch = next(Batches(few("spelling"), recipe, size=4).in_order())
    source, target = batch.inputs
    assert isinstance(batch.targets, torch.Tensor)
    longest = max(len(str(example.target)) for example in batch.examples)
    assert target.shape == batch.targets.shape == (4, longest + 1)
    assert (target[:, 0] == BEGIN).all()
    for i, example in enumerate(batch.examples):
        length = len(str(example.target))
        assert text_from_ids(batch.targets[i].tolist(), recipe.labels.names) == example.target
        assert batch.targets[i, length] == END
        assert (batch.targets[i, length + 1 :] == PAD).all()
        torch.testing.assert_close(target[i, 1 : length + 1], batch.targets[i, :length])
        assert text_from_ids(source[i].tolist(), recipe.labels.names) == example.input


def test_boxes_are_placed_like_their_image(few: Any) -> None:
    picture = np.zeros((80, 160, 3), np.uint8)
    picture[20:40, 60:100] = 255
    boxes = Boxes(np.array([[60, 20, 100, 40]], np.float32), np.array([7]))
    examples = few("scenes", 1, examples=[Example("one", picture, boxes)])
    batch = next(Batches(examples, load_recipe("yolov3-tiny-scenes"), size=1).in_order())
    truth = batch.targets
    assert isinstance(truth, Truth)
    assert truth.classes.tolist() == [7]
    x1, y1, x2, y2 = truth.corners[0].int().tolist()
    assert (batch.inputs[0][0, :, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] > 0.9).all()
    assert batch.inputs[0][0, 0].gt(0.9).sum() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.1)


def test_classes_are_mapped_to_the_model_by_name(few: Any) -> None:
    recipe = msgspec.structs.replace(load_recipe("lenet"), labels=Labels(names=tuple("9876543210")))
    batch = next(Batches(few("digits"), recipe, size=4).in_order())
    assert isinstance(batch.targets, torch.Tensor)
    assert batch.targets.tolist() == [9 - int(str(example.target)) for example in batch.examples]


def test_broken_examples_are_skipped_and_counted(few: Any) -> None:
    good = few("spelling", 3).examples
    bad = Example("line 9", "1" * 20, "one")
    batches = Batches(few("spelling", 4, examples=[*good, bad]), load_recipe("transformer-tiny"), size=4)
    (batch,) = batches.epoch(0)
    assert sorted(example.id for example in batch.examples) == sorted(example.id for example in good)
    assert "line 9: expected at most 8 tokens for input 'source', got 21" in batches.skipped[3].message


def test_error_if_no_example_is_readable(few: Any) -> None:
    bad = Example("line 9", "1" * 20, "one")
    with pytest.raises(DataError, match="expected at least one readable example in a batch of 1, got none: line 9: "):
        list(Batches(few("spelling", 1, examples=[bad]), load_recipe("transformer-tiny"), size=4).epoch(0))


def test_ignored_boxes_are_not_trained_on(few: Any) -> None:
    ignored = Boxes(np.array([[0, 0, 9, 9]], np.float32), np.array([3]))
    boxes = Boxes(np.array([[5, 5, 60, 60]], np.float32), np.array([1]), ignored)
    example = Example("one", np.zeros((80, 80, 3), np.uint8), boxes)
    batch = next(Batches(few("scenes", 1, examples=[example]), load_recipe("yolov3-tiny-scenes"), size=1).in_order())
    assert isinstance(batch.targets, Truth)
    assert batch.targets.classes.tolist() == [1]
    target = batch.examples[0].target
    assert isinstance(target, Boxes)
    assert target.ignored is not None
    assert target.ignored.classes.tolist() == [3]


def test_error_on_an_empty_set(few: Any) -> None:
    with pytest.raises(DataError, match="expected examples, got none"):
        Batches(few("digits", 1, examples=[]), load_recipe("lenet"), size=4)


def test_error_on_a_set_for_another_task(few: Any) -> None:
    with pytest.raises(DataError, match="expected the task 'classify' of lenet, got 'detect'"):
        Batches(few("scenes"), load_recipe("lenet"), size=4)


def test_error_on_a_set_with_more_classes_than_the_model(few: Any) -> None:
    examples = dataclasses.replace(few("digits"), labels=tuple("abcdefghijkl"))
    with pytest.raises(DataError, match=r"expected at most 10 classes, as many as lenet has, got 12: a, b") as raised:
        Batches(examples, load_recipe("lenet"), size=4)
    assert "copy the model's recipe" in raised.value.hint


def test_error_on_a_label_that_the_model_has_no_class_for(few: Any) -> None:
    examples = few("digits", 1, examples=[Example("line 7", np.zeros((8, 8), np.uint8), 10)])
    with pytest.raises(DataError, match="line 7: expected a class from 0 to 9, since lenet has 10 classes, got 10"):
        list(Batches(examples, load_recipe("lenet"), size=1).in_order())


def test_error_on_augmentation_of_texts(few: Any) -> None:
    with pytest.raises(
        UsageError,
        match=r"changes\['augment'\]: expected none for transformer-tiny, which has no image input, got flip",
    ):
        Batches(few("spelling"), load_recipe("transformer-tiny"), size=1, augment=("flip",))
