"""Random inputs in place of a calibration set, for models that the shipped images do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, TensorSpec, specs_at

__all__ = ["RandomInputs"]


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
        """Creates ``count`` inputs; integers of the input ``name`` are less than ``num_values[name]``."""
        self._count = count
        self._num_values = dict(num_values or {})
        self.digest = f"random {count} {sorted(self._num_values.items())}"

    def __len__(self) -> int:
        return self._count

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yields name and arrays of each input: floats are normally distributed; integers are 0 or 1 by default.

        0 and 1 are valid as an index, a mask and a flag. Dynamic dimensions have the ``opt`` size of their range in
        ``shapes``.
        """
        sized = specs_at(inputs, shapes)
        for index in range(self._count):
            generator = np.random.default_rng(index)
            feeds = {}
            for spec in sized:
                sizes = [int(size) for size in spec.shape]
                floats = np.dtype(spec.dtype).kind == "f"
                numbers = (
                    generator.standard_normal(sizes)
                    if floats
                    else generator.integers(0, self._num_values.get(spec.name, 2), sizes)
                )
                feeds[spec.name] = np.asarray(numbers).astype(spec.dtype)
            yield f"random input {index}", feeds
