"""What the numbers of an output are: parts that are judged alone, such as the boxes and the scores of a detector.

In one figure for a whole output, the large numbers hide the small ones: boxes of 34 dB hide scores of which nothing is
left. `edgekit.quantize.output_parts` finds the parts in a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["MOST_COLUMNS", "WHOLE", "OutputForm", "Part", "Select"]

MOST_COLUMNS = 512
"""Most columns of an axis that is divided by magnitude."""
FEWEST_ROWS = 16
"""Fewest numbers in a column, so that its magnitude means something."""
DECADE = 10.0
"""Parts whose columns differ by this factor in magnitude are judged alone."""
NEGLIGIBLE = 1e-6
"""Magnitude of a column relative to the largest, below which it is not judged: it is zero but for rounding."""

Select = Callable[[np.ndarray], np.ndarray]


class Part(NamedTuple):
    """Some of the columns of an output.

    Attributes:
        name: ``boxes``, ``scores``, or the columns, such as ``0:4``; empty for the whole output.
        select: returns the part of an output's array.
        probability: the numbers are probabilities, from 0 to 1.
    """

    name: str
    select: Select
    probability: bool = False


WHOLE = Part("", lambda array: array)


class OutputForm(NamedTuple):
    """What the numbers of an output are.

    Attributes:
        parts: the known parts, which cover the output; none if they are to be found by magnitude.
        selected: the rows are chosen by values, as by TopK or non-maximum suppression: close values may exchange them.
        unordered: the axis along which a TopK leaves its values in any order; None if there is none.
    """

    parts: tuple[Part, ...] = ()
    selected: bool = False
    unordered: int | None = None

    def parts_at(self, arrays: Sequence[np.ndarray]) -> tuple[Part, ...]:
        """Returns the parts; if none are known, those of different magnitude in ``arrays``."""
        return self.parts or _by_magnitude(arrays)


def _by_magnitude(arrays: Sequence[np.ndarray]) -> tuple[Part, ...]:
    """Divides an axis by magnitude: the last, or of three axes the second, as in ``(N, 84, 8400)``."""
    if not arrays or arrays[0].ndim < 2:
        return (WHOLE,)
    axes = (-1, -2) if arrays[0].ndim == 3 else (-1,)
    divided = (_columns_of_one_magnitude([np.moveaxis(array, axis, -1) for array in arrays]) for axis in axes)
    for axis, groups in zip(axes, divided, strict=True):
        if len(groups) > 1:
            return tuple(Part(_ranges(group), _chosen(group, axis)) for group in groups)
    return (WHOLE,)


def _columns_of_one_magnitude(arrays: Sequence[np.ndarray]) -> list[list[int]]:
    """Returns the columns of the last axis, those of about the same magnitude together; none if it is not divided."""
    width = arrays[0].shape[-1]
    if not 2 <= width <= MOST_COLUMNS:
        return []
    rows = np.concatenate([array.reshape(-1, width) for array in arrays if array.shape[-1] == width]).astype(np.float64)
    if len(rows) < FEWEST_ROWS * len(arrays):
        return []
    finite = np.where(np.isfinite(rows), rows, 0.0)
    sizes = np.sqrt(np.square(finite).mean(axis=0))
    order = [int(column) for column in np.argsort(sizes, kind="stable") if sizes[column] > NEGLIGIBLE * sizes.max()]
    starts = [i for i in range(1, len(order)) if sizes[order[i]] > DECADE * sizes[order[i - 1]]]
    return [sorted(map(int, each)) for each in np.split(np.array(order), starts)]


def _chosen(columns: Sequence[int], axis: int) -> Select:
    index = list(columns)
    return lambda array: np.take(array, index, axis)


def _ranges(columns: Sequence[int]) -> str:
    """Writes sorted columns as ranges: ``0:4,6:7``."""
    starts = [column for i, column in enumerate(columns) if i == 0 or columns[i - 1] != column - 1]
    stops = [column + 1 for i, column in enumerate(columns) if i + 1 == len(columns) or columns[i + 1] != column + 1]
    return ",".join(f"{start}:{stop}" for start, stop in zip(starts, stops, strict=True))
