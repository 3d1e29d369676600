"""Tracks in the results of a task: which objects are shown, and the number of each."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgekit.errors import UsageError
from edgekit.runtime.detections import Detections
from edgekit.runtime.tracking.byte_track import ByteTrack, TrackOptions

__all__ = ["Tracking"]

LOW_SCORE = 0.1
"""Score of the least certain boxes that still continue a track; the paper's."""


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
            result: the `Detections` of a frame: all objects whose score is above ``low_score``.
            index: number of the frame.

        Raises:
            UsageError: the result has no boxes.
        """
        if not isinstance(result, Detections):
            raise UsageError(f"tracks: expected results with boxes, got {type(result).__name__}")
        ids = self._tracker.update(result.boxes, result.scores, result.classes, index=index)
        seen = ids > 0
        return dataclasses.replace(result[seen], tracks=ids[seen])
