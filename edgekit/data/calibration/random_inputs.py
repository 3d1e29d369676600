"""Random numbers in place of a calibration set, for models that no shipped picture can be shown to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.recipe.schema import Preprocess
from edgekit.specs import ShapeRange, TensorSpec, specs_at

__all__ = ["RandomInputs"]


class RandomInputs:
    """The same numbers every time; read like a `CalibrationSet`.

    Attributes:
        name: what it is called in reports.
        digest: of what is in it.
        skipped: nothing ever is.
    """

    name = "random numbers"
    skipped: Sequence[str] = ()

    def __init__(self, count: int, num_values: Mapping[str, int] | None = None) -> None:
        """Makes ``count`` inputs; integers of the input ``name`` are less than ``num_values[name]``."""
        self._count = count
        self._below = dict(num_values or {})
        self.digest = f"random {count} {sorted(self._below.items())}"

    def __len__(self) -> int:
        return self._count

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None, shapes: Mapping[str, ShapeRange] = {}
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Name and arrays of each input: floats are normal; integers of which nothing is known are 0 or 1.

        These are valid as index, mask and flag. Dimensions that are chosen at run time have the usual size of their
        range in ``shapes``.
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
                    else generator.integers(0, self._below.get(spec.name, 2), sizes)
                )
                feeds[spec.name] = np.asarray(numbers).astype(spec.dtype)
            yield f"random input {index}", feeds
