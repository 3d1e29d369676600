"""A data set as something to calibrate on: what a model is shown of its examples, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.data.examples import DataSet, Example, feeds_from_example
from edgekit.errors import CalibrationError, DataError, UsageError
from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, TensorSpec

__all__ = ["ENOUGH", "ExampleFeeds", "spread"]

ENOUGH = 256
"""Ranges hardly grow beyond so many examples, where nobody names another number."""


def spread(length: int, limit: int | None) -> Sequence[int]:
    """At most ``limit`` places of ``length``, evenly spread: what stands side by side in a set is often alike.

    Raises:
        UsageError: ``limit`` is less than 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    if limit is None or limit >= length:
        return range(length)
    return [i * length // limit for i in range(limit)]


class ExampleFeeds:
    """Examples of a data set as a model's inputs; what is broken is passed over and counted.

    Attributes:
        name: the data set's.
        skipped: names of the broken examples that the last iteration passed over, each with the reason.
    """

    def __init__(self, examples: DataSet, *, limit: int | None = None, labels: Sequence[str] = ()) -> None:
        """Takes ``limit`` examples at most, spread evenly over the set.

        Args:
            examples: the part of the set that is to learn from: what is calibrated on is not to be measured on.
            limit: `ENOUGH` where it is None.
            labels: the model's own: for texts its vocabulary. The data set's where there are none.

        Raises:
            UsageError: ``limit`` is less than 1.
            CalibrationError: the set is empty.
        """
        self.name = examples.name
        self.skipped: list[str] = []
        self._examples = examples
        self._labels = tuple(labels or examples.labels)
        self._places = spread(len(examples), ENOUGH if limit is None else limit)
        if not self._places:
            raise CalibrationError(f"calibration set {self.name}: expected examples, got none")

    def __len__(self) -> int:
        """How many there are if none is broken."""
        return len(self._places)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over what the examples hold and the labels, names left aside."""
        total = hashlib.sha256(repr(self._labels).encode())
        for place in self._places:
            try:
                example = self._examples[place]
            except DataError:
                continue
            total.update(hashlib.sha256(_content(example)).digest())
        return total.hexdigest()

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Every example as the inputs of a model, with its id.

        Args:
            inputs: what the model takes.
            how: how a picture becomes the model's input; None where it takes no pictures.
            shapes: ranges of the inputs whose sizes are chosen at run time; pictures are made to fit the usual ones,
                rows and texts are as long as they are.

        Raises:
            CalibrationError: no example can be read, or none is what the model takes.
        """
        skipped: list[str] = []
        self.skipped = skipped
        for place in self._places:
            try:
                example = self._examples[place]
                feeds = feeds_from_example(example, inputs, how, self._labels, shapes)
            except DataError as e:
                skipped.append(e.message)
                if len(skipped) == len(self._places):
                    raise CalibrationError(
                        f"calibration set {self.name}: none of {len(skipped)} examples can be used: {skipped[0]}",
                        hint=e.hint,
                    ) from e
                continue
            yield example.id, feeds


def _content(example: Example) -> bytes:
    """What the feeds of the example depend on."""
    if isinstance(example.input, str):
        return f"{example.input!r} {example.target!r}".encode()
    return f"{example.input.dtype} {example.input.shape} ".encode() + np.ascontiguousarray(example.input).tobytes()
