"""Tracks in the results of a task: which objects are shown, and the number of each."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekit.errors import UsageError
from edgekit.runtime.tracking.byte_track import ByteTrack, TrackOptions

__all__ = ["Boxed", "Tracking", "taken"]

LOW_SCORE = 0.1
"""Score of the least certain boxes that still continue a track; the paper's."""


@runtime_checkable
class Boxed(Protocol):
    """A result with boxes, such as `Detections`.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the image; shape ``(N, 4)``.
        scores: shape ``(N,)``.
        classes: shape ``(N,)``.
    """

    @property
    def boxes(self) -> np.ndarray: ...

    @property
    def scores(self) -> np.ndarray: ...

    @property
    def classes(self) -> np.ndarray: ...


class Tracking:
    """Follows the objects in the results of consecutive frames.

    Args:
        score_threshold: objects that begin a track have a greater score.
    """

    def __init__(self, score_threshold: float) -> None:
        self.low_score = min(LOW_SCORE, score_threshold)
        options = TrackOptions(high_score=score_threshold, low_score=self.low_score, new_score=score_threshold)
        self._tracker = ByteTrack(options)

    def followed(self, result: Any, index: int) -> Any:
        """Returns the objects of a result that belong to a track, with their numbers as ``tracks``.

        Args:
            result: the result of a frame, with all objects whose score is above ``low_score``.
            index: number of the frame.

        Raises:
            UsageError: the result has no boxes.
        """
        if not isinstance(result, Boxed):
            raise UsageError(f"tracks: expected results with boxes, got {type(result).__name__}")
        ids = self._tracker.update(result.boxes, result.scores, result.classes, index=index)
        seen = ids > 0
        return taken(result, seen, tracks=ids[seen])


def taken(result: Any, chosen: np.ndarray, **changes: Any) -> Any:
    """Returns a result with the chosen objects only.

    Args:
        result: a dataclass; its arrays with one entry for each object are indexed.
        chosen: which objects; bool, shape ``(N,)``.
        changes: fields of the new result.
    """
    count = len(result.scores)
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    arrays = {
        name: value[chosen]
        for name, value in fields.items()
        if isinstance(value, np.ndarray) and value.ndim and len(value) == count
    }
    return dataclasses.replace(result, **{**arrays, **changes})
