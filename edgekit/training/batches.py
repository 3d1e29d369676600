"""Batches of tensors from a data set: shuffled, augmented, preprocessed by the recipe, and collated.

The content of a batch depends only on the seed, the epoch and the batch number. Training that resumes after a crash
therefore sees the same batches, without reading the earlier examples again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
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
from edgekit.training.messages import train_argument
from edgekit.training.yolo_loss import Truth

__all__ = ["Batch", "Batches", "classes_of", "known_classes", "prefetched"]

CACHE_BYTES = 512 << 20
"""Memory limit for decoded images; decoding them in every epoch may take longer than the training steps."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of examples as module inputs and targets.

    Attributes:
        inputs: in the order of the recipe's inputs, batch axis first.
        targets: int64 ``(N,)`` for classification; float32 ``(N, targets)`` for regression; int64 ``(N, T)`` for
            translation; boxes in input px for detection.
        examples: the source examples; boxes have the model's class indices.
        placements: for detection, the placement of each image in its input.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor | Truth
    examples: tuple[Example, ...]
    placements: tuple[Placement, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)


class _Prepared(NamedTuple):
    example: Example
    arrays: tuple[np.ndarray, ...]
    placement: Placement | None = None


class Batches:
    """Batches of a data set, one epoch at a time.

    Attributes:
        name: name of the data set.
        skipped: errors of examples that could not be read or do not fit the model, by index.
        unknown: texts with tokens that are not in the model's vocabulary, by index.
    """

    def __init__(
        self, examples: DataSet, recipe: Recipe, *, size: int, seed: int = 0, augment: Sequence[str] = ()
    ) -> None:
        """Checks that the data set fits the model; examples are read on demand.

        Args:
            examples: the data set, for training or evaluation.
            recipe: defines the preprocessing.
            size: examples per batch.
            seed: random seed for the order and the augmentation.
            augment: augmentations of training images.

        Raises:
            DataError: the data set is empty, has another task or more classes than the model, or its first example
                does not fit the model's inputs.
            UsageError: an augmentation is unknown, or does not apply to the model.
        """
        self.name = examples.name
        self.skipped: dict[int, DataError] = {}
        self.unknown: dict[int, Example] = {}
        self._examples = _Cached(examples)
        self._recipe = recipe
        self._seed = seed
        self._augmentation = _augmentation(augment, recipe)
        if not len(examples):
            raise DataError(f"data set {examples.name}: expected examples, got none")
        if examples.task != recipe.task:
            raise DataError(
                f"data set {examples.name}: expected the task '{recipe.task}' of {recipe.name}, got '{examples.task}'"
            )
        self._specs = [TensorSpec(spec.name, spec.dtype, (1, *spec.shape[1:])) for spec in recipe.inputs]
        self._size = min(size, len(examples))
        self._classes = classes_of(examples, recipe)
        check_first(self._examples, range(len(examples)), self._inputs)

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self._examples) // self._size

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yields the training batches of one epoch, in an order that depends on the epoch, starting at ``first``.

        The last incomplete batch is dropped; each epoch drops other examples. Unreadable examples make a batch smaller.
        """
        order = np.random.default_rng([self._seed, epoch, 0]).permutation(len(self._examples))
        for batch in range(first, len(self)):
            chosen = order[batch * self._size : (batch + 1) * self._size].tolist()
            yield self._batch([self._prepared(index, epoch) for index in chosen])

    def in_order(self) -> Iterator[Batch]:
        """Yields all examples once, in order and without augmentation, for evaluation."""
        for start in range(0, len(self._examples), self._size):
            chosen = range(start, min(start + self._size, len(self._examples)))
            ready = [self._prepared(index) for index in chosen]
            if any(ready):
                yield self._batch(ready)

    def _prepared(self, index: int, epoch: int | None = None) -> _Prepared | None:
        """Augments and preprocesses an example; None if it cannot be read or does not fit the model."""
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

    def _inputs(self, example: Example) -> _Prepared:
        how, specs = self._recipe.preprocess, self._specs
        if isinstance(example.target, Boxes):
            assert how is not None
            array, placement = input_from_image(example, specs[0], how)
            return _Prepared(example, (array,), placement)
        feeds = feeds_from_example(example, specs, how, self._recipe.labels.names)
        return _Prepared(example, tuple(feeds[spec.name] for spec in specs))

    def _batch(self, rows: Sequence[_Prepared | None]) -> Batch:
        ready = [row for row in rows if row is not None]
        if not ready:
            last = next(reversed(self.skipped.values()))
            raise DataError(
                f"data set {self.name}: expected at least one readable example in a batch of {len(rows)}, got none: "
                f"{last.message}",
                hint=last.hint,
            )
        inputs = tuple(
            torch.from_numpy(np.concatenate(column)) for column in zip(*(r.arrays for r in ready), strict=True)
        )
        examples = tuple(row.example for row in ready)
        if self._recipe.task == "detect":
            return self._detection_batch(
                inputs, examples, tuple(row.placement for row in ready if row.placement is not None)
            )
        if self._recipe.task == "translate":
            return self._translation_batch(inputs, examples)
        if self._recipe.task == "classify":
            classes = [self._class(example, int(str(example.target))) for example in examples]
            return Batch(inputs, torch.tensor(classes), examples)
        numbers = np.stack([np.asarray(example.target, np.float32).reshape(-1) for example in examples])
        return Batch(inputs, torch.from_numpy(numbers), examples)

    def _translation_batch(self, inputs: tuple[torch.Tensor, ...], examples: tuple[Example, ...]) -> Batch:
        # Columns that are padding in all rows cost time and do not change the result.
        inputs = tuple(ids[:, : max(1, int((ids != PAD).any(dim=0).sum()))] for ids in inputs)
        targets = torch.full((len(examples), inputs[-1].shape[1]), PAD)
        for row, example in zip(targets, examples, strict=True):
            ids = target_output_ids(str(example.target), self._recipe.labels.names)
            row[: len(ids)] = torch.tensor(ids)
        return Batch(inputs, targets, examples)

    def _detection_batch(
        self, inputs: tuple[torch.Tensor, ...], examples: tuple[Example, ...], placements: tuple[Placement, ...]
    ) -> Batch:
        examples = tuple(self._with_own_classes(example) for example in examples)
        height, width = self._recipe.inputs[0].shape[2:4]
        indices, corners, classes = [], [], []
        for i, (example, placement) in enumerate(zip(examples, placements, strict=True)):
            assert isinstance(example.target, Boxes)
            moved = Boxes(placement.to_input(example.target.corners), example.target.classes)
            inside = clipped_boxes(moved, (width, height))
            corners.append(inside.corners)
            classes.append(inside.classes)
            indices.append(np.full(len(inside), i))
        found = (torch.from_numpy(np.concatenate(column)) for column in (indices, corners, classes))
        return Batch(inputs, Truth(*found), examples, placements)

    def _with_own_classes(self, example: Example) -> Example:
        """Maps the class indices of an example to the model's."""

        def of(boxes: Boxes) -> Boxes:
            classes = np.array([self._class(example, kind) for kind in boxes.classes.tolist()], np.int64)
            return Boxes(boxes.corners, classes, None if boxes.ignored is None else of(boxes.ignored))

        assert isinstance(example.target, Boxes)
        return Example(example.id, example.input, of(example.target))

    def _class(self, example: Example, number: int) -> int:
        """Maps a class index of the data set to the model's."""
        if not 0 <= number < len(self._classes):
            raise DataError(
                f"{example.id}: expected a class from 0 to {len(self._classes) - 1}, since {self._recipe.name} has "
                f"{len(self._classes)} classes, got {number}"
            )
        return self._classes[number]


def _augmentation(names: Sequence[str], recipe: Recipe) -> Augmentation | None:
    """Builds the augmentation from its names; None if there are none."""
    if not names:
        return None
    if recipe.preprocess is None:
        raise UsageError(
            f"{train_argument('augment')}: expected none for {recipe.name}, which has no image input, got "
            f"{', '.join(names)}"
        )
    if "mosaic" in names and recipe.task != "detect":
        others = [name for name in names if name != "mosaic"]
        raise UsageError(
            f"{train_argument('augment')}: expected no mosaic for {recipe.name}, whose task is '{recipe.task}', "
            "since mosaic is for "
            f"detection, got {','.join(names)}",
            hint=train_argument("augment", others, shell=",".join(others) or "none"),
        )
    return augmentation_from_names(names, pad=recipe.preprocess.pad)


def prefetched(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Yields the same batches, preparing the next one in a thread."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = worker.submit(next, batches, None)
            yield batch


def known_classes(recipe: Recipe) -> int:
    """Returns the number of classes of the recipe's model; 0 if unknown."""
    declared = recipe.model.arguments.get("classes", 0)
    return len(recipe.labels.names) or (declared if isinstance(declared, int) else 0)


def classes_of(examples: DataSet, recipe: Recipe) -> Sequence[int]:
    """Maps each class of the data set to the model's class index, by name if the model has all names of the set.

    Otherwise the classes keep their order, and the model's own class names no longer apply.

    Raises:
        DataError: the data set has more classes than the model.
        UsageError: several of the model's classes have the same name, and the data set has them in another order.
    """
    if recipe.task not in ("classify", "detect"):
        return ()
    if examples.labels and knows_all(recipe.labels.names, examples.labels):
        found: list[int] = model_classes_from_labels(recipe.labels.names, examples.labels, name=examples.name).tolist()
        return found
    known = known_classes(recipe)
    if known and len(examples.labels) > known:
        raise DataError(
            f"data set {examples.name}: expected at most {known} classes, as many as {recipe.name} has, got "
            f"{len(examples.labels)}: {', '.join(examples.labels[:8])}{', ...' if len(examples.labels) > 8 else ''}",
            hint="copy the model's recipe, set its classes and labels to those of the data set, and pass the file",
        )
    return range(known or len(examples.labels))


class _Cached:
    """Caches examples in memory, up to `CACHE_BYTES`."""

    def __init__(self, examples: DataSet) -> None:
        self._examples = examples
        self.name, self.task, self.labels, self.notes = examples.name, examples.task, examples.labels, examples.notes
        self._cache: dict[int, Example] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        if index in self._cache:
            return self._cache[index]
        example = self._examples[index]
        size = example.input.nbytes if isinstance(example.input, np.ndarray) else len(example.input)
        if self._bytes + size <= CACHE_BYTES:
            self._cache[index] = example
            self._bytes += size
        return example
