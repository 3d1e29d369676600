"""Chooses the inputs that a pass of quantization measures on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["spread_feeds"]


def spread_feeds(feeds: Sequence[Mapping[str, np.ndarray]], count: int) -> list[Mapping[str, np.ndarray]]:
    """Returns at most ``count`` of ``feeds``, evenly spaced: the first images of a folder may be alike."""
    count = min(count, len(feeds))
    return [feeds[len(feeds) * index // count] for index in range(count)]
