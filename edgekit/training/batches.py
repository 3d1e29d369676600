"""From a data set to batches of tensors: shuffled, augmented, preprocessed as the recipe says, and collated.

What stands in a batch depends on the seed, the epoch and its number alone. So a training that goes on after it was
killed sees what it would have seen, without the examples before it being read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from edgekit.data.augment import Augmentation, augmentation_from_names, clipped_boxes
from edgekit.data.examples import Boxes, DataSet, Example, check_first, feeds_from_example, input_from_image
from edgekit.data.images import Placement
from edgekit.data.mosaic import augmented_example
from edgekit.data.vocabulary import PAD, UNKNOWN, target_output_ids
from edgekit.errors import DataError, UsageError
from edgekit.evaluation.labels import knows_all, model_classes_from_labels
from edgekit.recipe.schema import Recipe
from edgekit.specs import TensorSpec
from edgekit.training.yolo_loss import Truth

__all__ = ["Batch", "Batches", "ahead", "classes_of"]

KEPT_BYTES = 512 << 20
"""Pictures are kept in memory, decoded, up to here: reading them again each epoch may take longer than learning."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples as a module takes them.

    Attributes:
        inputs: in the order of the recipe's, the batch first.
        targets: of a classifier int64 ``(N,)``; of a regression float32 ``(N, targets)``; of a translator int64
            ``(N, T)``; of a detector boxes in px of the input.
        examples: what they were made of; boxes have the model's numbers of classes.
        placements: of a detector, where each picture lies in its input.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor | Truth
    examples: tuple[Example, ...]
    placements: tuple[Placement, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)


class _Ready(NamedTuple):
    example: Example
    arrays: tuple[np.ndarray, ...]
    placement: Placement | None = None


class Batches:
    """The batches of a data set, an epoch at a time.

    Attributes:
        name: the data set's.
        skipped: why an example could not be read, or does not fit the model, by its index.
        unknown: texts with tokens that the model's vocabulary lacks, by their index.
    """

    def __init__(
        self, examples: DataSet, recipe: Recipe, *, size: int, seed: int = 0, augment: Sequence[str] = ()
    ) -> None:
        """Takes the set as it is; examples are read when they are asked for.

        Args:
            examples: what is learned from, or measured on.
            recipe: says how they become inputs.
            size: examples a batch.
            seed: of the order and of what augmentation draws.
            augment: what is done to pictures that are learned from.

        Raises:
            DataError: the set is empty, is for another task, has more classes than the model, or its first example is
                not what the model takes.
            UsageError: an augmentation is unknown, or none for the model.
        """
        self.name = examples.name
        self.skipped: dict[int, DataError] = {}
        self.unknown: dict[int, Example] = {}
        self._examples = _Kept(examples)
        self._recipe = recipe
        self._seed = seed
        self._augmentation = _augmentation(augment, recipe)
        if not len(examples):
            raise DataError(f"data set {examples.name}: expected examples, got none")
        if examples.task != recipe.task:
            raise DataError(
                f"data set {examples.name}: expected one for the task '{recipe.task}' of {recipe.name}, got one for "
                f"'{examples.task}'"
            )
        self._specs = [TensorSpec(spec.name, spec.dtype, (1, *spec.shape[1:])) for spec in recipe.inputs]
        self._size = min(size, len(examples))
        self._classes = classes_of(examples, recipe)
        check_first(self._examples, range(len(examples)), self._inputs)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._examples) // self._size

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch to learn from, in an order of its own, from the batch ``first`` on.

        Of examples that fill no batch, each epoch leaves out others. A batch is smaller by those that are broken.
        """
        order = np.random.default_rng([self._seed, epoch, 0]).permutation(len(self._examples))
        for batch in range(first, len(self)):
            chosen = order[batch * self._size : (batch + 1) * self._size].tolist()
            yield self._batch([self._ready(index, epoch) for index in chosen])

    def in_order(self) -> Iterator[Batch]:
        """All examples once, in their order and as they are, to be measured on."""
        for start in range(0, len(self._examples), self._size):
            chosen = range(start, min(start + self._size, len(self._examples)))
            ready = [self._ready(index) for index in chosen]
            if any(ready):
                yield self._batch(ready)

    def _ready(self, index: int, epoch: int | None = None) -> _Ready | None:
        """An example, changed as the epoch has it, as inputs; None where it cannot be read or does not fit."""
        try:
            if epoch is None or self._augmentation is None:
                example = self._examples[index]
            else:
                random = np.random.default_rng([self._seed, epoch, 1 + index])
                example = augmented_example(self._examples, index, self._augmentation, random)
            ready = self._inputs(example)
        except DataError as e:
            self.skipped[index] = e
            return None
        if isinstance(example.input, str) and any((ids == UNKNOWN).any() for ids in ready.arrays):
            self.unknown[index] = example
        return ready

    def _inputs(self, example: Example) -> _Ready:
        how, specs = self._recipe.preprocess, self._specs
        if isinstance(example.target, Boxes):
            assert how is not None
            array, placement = input_from_image(example, specs[0], how)
            return _Ready(example, (array,), placement)
        feeds = feeds_from_example(example, specs, how, self._recipe.labels.names)
        return _Ready(example, tuple(feeds[spec.name] for spec in specs))

    def _batch(self, rows: Sequence[_Ready | None]) -> Batch:
        ready = [row for row in rows if row is not None]
        if not ready:
            last = next(reversed(self.skipped.values()))
            raise DataError(
                f"data set {self.name}: expected one example in {len(rows)} at least that can be read, got none: "
                f"{last.message}",
                hint=last.hint,
            )
        inputs = tuple(
            torch.from_numpy(np.concatenate(column)) for column in zip(*(r.arrays for r in ready), strict=True)
        )
        examples = tuple(row.example for row in ready)
        if self._recipe.task == "detect":
            return self._detected(inputs, examples, tuple(row.placement for row in ready if row.placement is not None))
        if self._recipe.task == "translate":
            return self._translated(inputs, examples)
        if self._recipe.task == "classify":
            classes = [self._class(example, int(str(example.target))) for example in examples]
            return Batch(inputs, torch.tensor(classes), examples)
        numbers = np.stack([np.asarray(example.target, np.float32).reshape(-1) for example in examples])
        return Batch(inputs, torch.from_numpy(numbers), examples)

    def _translated(self, inputs: tuple[torch.Tensor, ...], examples: tuple[Example, ...]) -> Batch:
        # What is padding in all rows costs time and changes nothing.
        inputs = tuple(ids[:, : max(1, int((ids != PAD).any(dim=0).sum()))] for ids in inputs)
        targets = torch.full((len(examples), inputs[-1].shape[1]), PAD)
        for row, example in zip(targets, examples, strict=True):
            ids = target_output_ids(str(example.target), self._recipe.labels.names)
            row[: len(ids)] = torch.tensor(ids)
        return Batch(inputs, targets, examples)

    def _detected(
        self, inputs: tuple[torch.Tensor, ...], examples: tuple[Example, ...], placements: tuple[Placement, ...]
    ) -> Batch:
        examples = tuple(self._with_own_classes(example) for example in examples)
        height, width = self._recipe.inputs[0].shape[2:4]
        pictures, corners, classes = [], [], []
        for i, (example, placement) in enumerate(zip(examples, placements, strict=True)):
            assert isinstance(example.target, Boxes)
            moved = Boxes(placement.to_input(example.target.corners), example.target.classes)
            inside = clipped_boxes(moved, (width, height))
            corners.append(inside.corners)
            classes.append(inside.classes)
            pictures.append(np.full(len(inside), i))
        found = (torch.from_numpy(np.concatenate(column)) for column in (pictures, corners, classes))
        return Batch(inputs, Truth(*found), examples, placements)

    def _with_own_classes(self, example: Example) -> Example:
        """The example with the model's numbers of classes."""

        def of(boxes: Boxes) -> Boxes:
            classes = np.array([self._class(example, kind) for kind in boxes.classes.tolist()], np.int64)
            return Boxes(boxes.corners, classes, None if boxes.ignored is None else of(boxes.ignored))

        assert isinstance(example.target, Boxes)
        return Example(example.id, example.input, of(example.target))

    def _class(self, example: Example, number: int) -> int:
        """The model's number of a class of the set."""
        if not 0 <= number < len(self._classes):
            raise DataError(
                f"{example.id}: expected a class from 0 to {len(self._classes) - 1}, as {self._recipe.name} knows "
                f"{len(self._classes)}, got {number}"
            )
        return self._classes[number]


def _augmentation(names: Sequence[str], recipe: Recipe) -> Augmentation | None:
    """What the names stand for; None where there are none."""
    if not names:
        return None
    if recipe.preprocess is None:
        raise UsageError(f"--augment is for pictures: expected none for {recipe.name}, got {', '.join(names)}")
    if "mosaic" in names and recipe.task != "detect":
        others = ",".join(name for name in names if name != "mosaic") or "none"
        raise UsageError(
            f"--augment: expected no mosaic for {recipe.name}, whose task is '{recipe.task}', since it puts pictures "
            f"with boxes together, got {','.join(names)}",
            hint=f"--augment {others}",
        )
    return augmentation_from_names(names, pad=recipe.preprocess.pad)


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; while one is learned from, a thread makes the next one ready."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = worker.submit(next, batches, None)
            yield batch


def _known_classes(recipe: Recipe) -> int:
    """How many classes a model of that recipe tells apart; 0 where it does not say."""
    said = recipe.model.arguments.get("classes", 0)
    return len(recipe.labels.names) or (said if isinstance(said, int) else 0)


def classes_of(examples: DataSet, recipe: Recipe) -> Sequence[int]:
    """The model's number of each class of the set: by name where the model knows all of the set's names.

    Where it does not, it learns the set's classes in their order, and its own names mean nothing any more.

    Raises:
        DataError: the set has more classes than the model.
        UsageError: several of the model's classes have the same name, and the set has them in another order.
    """
    if recipe.task not in ("classify", "detect"):
        return ()
    if examples.labels and knows_all(recipe.labels.names, examples.labels):
        found: list[int] = model_classes_from_labels(recipe.labels.names, examples.labels, name=examples.name).tolist()
        return found
    known = _known_classes(recipe)
    if known and len(examples.labels) > known:
        raise DataError(
            f"data set {examples.name}: expected {known} classes at most, as {recipe.name} knows, got "
            f"{len(examples.labels)}: {', '.join(examples.labels[:8])}{', ...' if len(examples.labels) > 8 else ''}",
            hint="copy the model's recipe, set classes and labels in it to those of the set, and give its file",
        )
    return range(known or len(examples.labels))


class _Kept:
    """Keeps the examples that were read, as long as there is room."""

    def __init__(self, examples: DataSet) -> None:
        self._examples = examples
        self.name, self.task, self.labels, self.notes = examples.name, examples.task, examples.labels, examples.notes
        self._kept: dict[int, Example] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        if index in self._kept:
            return self._kept[index]
        example = self._examples[index]
        size = example.input.nbytes if isinstance(example.input, np.ndarray) else len(example.input)
        if self._bytes + size <= KEPT_BYTES:
            self._kept[index] = example
            self._bytes += size
        return example
