"""Finds boxes that may overlap, without comparing each with each: for suppression that keeps thousands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Circles", "Nearby"]

_CELLS = 256
"""Cells of a grid along an axis, at most."""
_SLACK = 1 + 1e-6
"""Radii are rounded up: two circles that only touch are near each other."""


@dataclass(frozen=True, eq=False)
class Circles:
    """Circles that boxes cannot overlap without touching.

    Attributes:
        centers: finite; float64, shape ``(N, 2)``.
        radii: float64, shape ``(N,)``; may be infinite.
        kinds: classes; boxes of two classes are never near. Integers, shape ``(N,)``.
    """

    centers: np.ndarray
    radii: np.ndarray
    kinds: np.ndarray

    def at(self, indices: np.ndarray) -> Circles:
        return Circles(self.centers[indices], self.radii[indices], self.kinds[indices])


class Nearby:
    """Circles sorted into grids, one for each power of two of their radii.

    A cell is as wide as the largest circle of its grid, so that small circles are in small cells, whatever the size of
    the others.
    """

    def __init__(self, circles: Circles) -> None:
        self._kinds, number = np.unique(circles.kinds, return_inverse=True)
        least = circles.centers.min(axis=0)
        span = float((circles.centers.max(axis=0) - least).max())
        # Circles that are smaller than a cell can be, or larger than all together, share a grid.
        smallest, largest = max(span / _CELLS / 2, np.finfo(np.float64).tiny), max(span, np.finfo(np.float64).tiny)
        levels = np.ceil(np.log2(np.clip(circles.radii, smallest, largest)))
        self._grids = [
            _Grid(circles, number, np.flatnonzero(levels == level), least, span) for level in np.unique(levels)
        ]

    def pairs(self, others: Circles) -> tuple[np.ndarray, np.ndarray]:
        """Returns which circle of ``others`` may touch which one in here; int64, shapes ``(P,)`` and ``(P,)``."""
        known = np.flatnonzero(np.isin(others.kinds, self._kinds))
        numbers = np.searchsorted(self._kinds, others.kinds[known])
        found = [grid.pairs(others.at(known), numbers) for grid in self._grids]
        rows, columns = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        return known[rows], columns


class _Grid:
    """Circles of similar radii, sorted by class, row and column."""

    def __init__(
        self, circles: Circles, kinds: np.ndarray, members: np.ndarray, least: np.ndarray, span: float
    ) -> None:
        self._radius = float(circles.radii[members].max()) * _SLACK
        self._least = least
        self._cell = max(2 * min(self._radius, span), span / _CELLS) or 1.0
        cells = self._cells(circles.centers[members])
        keys = (kinds[members] * _CELLS + cells[:, 1]) * _CELLS + cells[:, 0]
        order = np.argsort(keys, kind="stable")
        self._members, self._keys = members[order], keys[order]

    def pairs(self, others: Circles, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reach = (others.radii * _SLACK + self._radius)[:, None]
        first, last = self._cells(others.centers - reach), self._cells(others.centers + reach)
        rows = last[:, 1] - first[:, 1] + 1  # cells of a row are neighbours in `_keys`
        which = np.arange(len(kinds)).repeat(rows)
        start = (kinds * _CELLS + first[:, 1])[which] + _counted(rows)
        begin = np.searchsorted(self._keys, start * _CELLS + first[which, 0], "left")
        end = np.searchsorted(self._keys, start * _CELLS + last[which, 0], "right")
        counts = end - begin
        return which.repeat(counts), self._members[begin.repeat(counts) + _counted(counts)]

    def _cells(self, points: np.ndarray) -> np.ndarray:
        """Returns the column and the row of points, those outside of the grid in its outer cells."""
        cells: np.ndarray = np.clip((points - self._least) // self._cell, 0, _CELLS - 1).astype(np.int64)
        return cells


def _counted(counts: np.ndarray) -> np.ndarray:
    """Returns ``0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1`` and so on."""
    numbers: np.ndarray = np.arange(counts.sum()) - (counts.cumsum() - counts).repeat(counts)
    return numbers
