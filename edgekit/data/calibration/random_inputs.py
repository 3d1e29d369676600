"""Random inputs in place of a calibration set, for models that the shipped images do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, TensorSpec, specs_at

__all__ = ["RandomInputs", "is_random"]

_NAME = "random input"
_BYTES = ("uint8", "int8")
_LENGTH = re.compile(r"(.*?)_?(len|lens|length|lengths)")


def is_random(input_id: str) -> bool:
    """Returns whether this is the id of an input of `RandomInputs`."""
    return input_id.startswith(_NAME)


class RandomInputs:
    """Reproducible random inputs with the interface of a `CalibrationSet`.

    Attributes:
        name: name in reports.
        digest: identifies the numbers.
        skipped: always empty.
    """

    name = "random numbers"
    skipped: Sequence[str] = ()

    def __init__(self, count: int, num_values: Mapping[str, int] | None = None) -> None:
        """Creates ``count`` inputs; those of the name ``name`` are integers that are less than ``num_values[name]``."""
        self._count = count
        self._num_values = dict(num_values or {})
        self.digest = f"random numbers, lengths and bytes {count} {sorted(self._num_values.items())}"

    def __len__(self) -> int:
        return self._count

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yields name and arrays of each input: floats are normally distributed; integers are 0 or 1 by default.

        0 and 1 are valid as a mask and a flag, and as an index of most tables. A length, by its name, is that of the
        input that it belongs to, as ``waveforms_lens`` to ``waveforms``: with a length of 0 or 1, most models of speech
        compute nothing. Bytes with three or more dimensions are pixels, or quantized values: they have all values of
        their type.
        Dynamic dimensions have the ``opt`` size of their range in ``shapes``.
        """
        sized = specs_at(inputs, shapes)
        lengths = {spec.name: _length(spec, sized) for spec in sized}
        for index in range(self._count):
            generator = np.random.default_rng(index)
            feeds = {}
            for spec in sized:
                sizes = [int(size) for size in spec.shape]
                length = lengths[spec.name]
                numbers: np.ndarray
                if spec.name in self._num_values:
                    numbers = generator.integers(0, self._num_values[spec.name], sizes)
                elif np.dtype(spec.dtype).kind == "f":
                    numbers = generator.standard_normal(sizes)
                elif length:
                    numbers = np.full(sizes, length)
                else:
                    numbers = generator.integers(*_range(spec), sizes)
                feeds[spec.name] = np.asarray(numbers).astype(spec.dtype)
            yield f"{_NAME} {index}", feeds


def _range(spec: TensorSpec) -> tuple[int, int]:
    """Returns the least integer of an input, and the first that is too large."""
    if spec.dtype in _BYTES and len(spec.shape) > 2:
        limits = np.iinfo(spec.dtype)
        return int(limits.min), int(limits.max) + 1
    return 0, 2


def _length(spec: TensorSpec, specs: Sequence[TensorSpec]) -> int:
    """Returns the largest size of the tensor whose length an input of integers gives, by its name; 0 if it is none."""
    if not _gives_length(spec):
        return 0
    signals = [each for each in specs if len(each.shape) > 1]
    stem = _LENGTH.fullmatch(spec.name)
    named = [each for each in signals if stem is not None and each.name == stem[1]]
    floats = [each for each in signals if np.dtype(each.dtype).kind == "f"]
    owner = next(iter((*named, *floats, *signals)), None)
    return max(int(size) for size in owner.shape[1:]) if owner is not None else 0


def _gives_length(spec: TensorSpec) -> bool:
    integers = np.dtype(spec.dtype).kind in "iu" and len(spec.shape) <= 1
    return integers and _LENGTH.fullmatch(spec.name) is not None
