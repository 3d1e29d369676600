"""Random numbers in place of a calibration set, for models that no shipped picture can be shown to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgekit.recipe import Preprocess
from edgekit.specs import TensorSpec

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

    def __init__(self, count: int) -> None:
        self._count = count
        self.digest = f"random {count}"

    def __len__(self) -> int:
        return self._count

    def feeds(
        self, inputs: Sequence[TensorSpec], how: Preprocess | None
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Name and arrays of each input: normal for floats; 0 or 1 for others, valid as index, mask and flag."""
        for index in range(self._count):
            generator = np.random.default_rng(index)
            feeds = {}
            for spec in inputs:
                sizes = [size if isinstance(size, int) else 1 for size in spec.shape]
                floats = np.dtype(spec.dtype).kind == "f"
                numbers = generator.standard_normal(sizes) if floats else generator.integers(0, 2, sizes)
                feeds[spec.name] = np.asarray(numbers).astype(spec.dtype)
            yield f"random input {index}", feeds
