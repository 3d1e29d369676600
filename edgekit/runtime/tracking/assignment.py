"""The assignment of rows to columns with the smallest total cost: the Hungarian method."""

from __future__ import annotations

import numpy as np

__all__ = ["assign", "assign_below"]


def assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """Assigns each row to a column of its own, or each column to a row, so that the total cost is smallest.

    The Hungarian method in the form of shortest augmenting paths (Jonker and Volgenant, 1987), O(n^2 m).

    Args:
        costs: finite; shape ``(N, M)``.

    Returns:
        ``min(N, M)`` pairs of row and column, ordered by row.
    """
    rows, columns = costs.shape
    if rows > columns:
        return sorted((row, column) for column, row in assign(costs.T))
    costs = costs.astype(np.float64)
    # Potentials; a column belongs to a row in `owner`, where row 0 and column 0 stand for "none".
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.int64)
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        slack = np.full(columns + 1, np.inf)
        before = np.zeros(columns + 1, np.int64)
        seen = np.zeros(columns + 1, bool)
        while owner[column]:
            seen[column] = True
            at = owner[column]
            reduced = np.empty(columns + 1)
            reduced[0] = np.inf
            reduced[1:] = costs[at - 1] - row_potential[at] - column_potential[1:]
            better = ~seen & (reduced < slack)
            slack[better], before[better] = reduced[better], column
            following = int(np.where(seen, np.inf, slack).argmin())
            step = slack[following]
            row_potential[owner[seen]] += step
            column_potential[seen] -= step
            slack[~seen] -= step
            column = following
        while column:  # turns the path around
            owner[column] = owner[before[column]]
            column = int(before[column])
    return sorted((int(owner[column]) - 1, column - 1) for column in range(1, columns + 1) if owner[column])


def assign_below(costs: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Assigns rows to columns at costs below a limit; leaving a row and a column alone costs the limit.

    Args:
        costs: shape ``(N, M)``; infinite where a pair is not allowed.
        limit: only pairs of a smaller cost.

    Returns:
        Pairs of row and column, ordered by row; may be empty.
    """
    if costs.size == 0:
        return []
    gains = np.minimum(costs - limit, 0.0)
    return [(row, column) for row, column in assign(gains) if gains[row, column] < 0]
