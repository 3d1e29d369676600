"""Calibration inputs from a data set, one example at a time."""

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
"""Default number of examples; ranges hardly grow with more."""


def spread(length: int, limit: int | None) -> Sequence[int]:
    """Returns at most ``limit`` evenly spaced indices below ``length``, since neighboring examples are often similar.

    Raises:
        UsageError: ``limit`` is less than 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    if limit is None or limit >= length:
        return range(length)
    return [i * length // limit for i in range(limit)]


class ExampleFeeds:
    """Converts examples of a data set to model inputs; broken examples are skipped and counted.

    Attributes:
        name: name of the data set.
        skipped: broken examples that the last iteration skipped, each with the reason.
    """

    def __init__(self, examples: DataSet, *, limit: int | None = None, labels: Sequence[str] = ()) -> None:
        """Selects at most ``limit`` examples, evenly spaced over the data set.

        Args:
            examples: the train split; accuracy must not be measured on calibration data.
            limit: maximum number of examples; None for `ENOUGH`.
            labels: the model's labels, or its vocabulary for texts; if empty, the data set's.

        Raises:
            UsageError: ``limit`` is less than 1.
            CalibrationError: the set is empty.
        """
        self.name = examples.name
        self.skipped: list[str] = []
        self._examples = examples
        self._labels = tuple(labels or examples.labels)
        self._indices = spread(len(examples), ENOUGH if limit is None else limit)
        if not self._indices:
            raise CalibrationError(f"calibration set {self.name}: expected examples, got none")

    def __len__(self) -> int:
        """Number of examples, including broken ones."""
        return len(self._indices)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the examples' contents and the labels, independent of names."""
        total = hashlib.sha256(repr(self._labels).encode())
        for index in self._indices:
            try:
                example = self._examples[index]
            except DataError:
                continue
            total.update(hashlib.sha256(_content(example)).digest())
        return total.hexdigest()

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yields the id and the model inputs of every example.

        Args:
            inputs: specs of the model's inputs.
            how: image preprocessing; None if the model takes no images.
            shapes: shape ranges of the dynamic inputs. Images are resized to the ``opt`` shape; rows and texts keep
                their own length.

        Raises:
            CalibrationError: no example can be read, or none matches the inputs.
        """
        skipped: list[str] = []
        self.skipped = skipped
        for index in self._indices:
            try:
                example = self._examples[index]
                feeds = feeds_from_example(example, inputs, how, self._labels, shapes)
            except DataError as e:
                skipped.append(e.message)
                if len(skipped) == len(self._indices):
                    raise CalibrationError(
                        f"calibration set {self.name}: none of {len(skipped)} examples can be used: {skipped[0]}",
                        hint=e.hint,
                    ) from e
                continue
            yield example.id, feeds


def _content(example: Example) -> bytes:
    """Everything that determines the model inputs of the example, as bytes."""
    if isinstance(example.input, str):
        return f"{example.input!r} {example.target!r}".encode()
    return f"{example.input.dtype} {example.input.shape} ".encode() + np.ascontiguousarray(example.input).tobytes()
