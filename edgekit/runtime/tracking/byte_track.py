"""ByteTrack (Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, arXiv:2110.06864)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import UsageError
from edgekit.runtime.tracking.assignment import assign_below
from edgekit.runtime.tracking.motion import Motion

__all__ = ["ByteTrack", "TrackOptions"]


@dataclass(frozen=True)
class TrackOptions:
    """Parameters of `ByteTrack`; the defaults are the paper's (section 4.1).

    Attributes:
        high_score: boxes with a greater score are matched first, with all tracks.
        low_score: boxes with a score between this and ``high_score`` are matched to the tracks that remain, so that an
            object that is partly hidden keeps its track. Boxes below it are ignored.
        new_score: only boxes with a greater score begin a track.
        min_iou: smallest overlap of a box with the predicted place of its track.
        min_iou_low: the same for boxes of a low score.
        keep_frames: for so many frames, an object that is not seen keeps its track.
    """

    high_score: float = 0.6
    low_score: float = 0.1
    new_score: float = 0.7
    min_iou: float = 0.2
    min_iou_low: float = 0.5
    keep_frames: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.low_score <= self.high_score <= self.new_score <= 1:
            raise UsageError(
                "scores of tracks: expected 0 <= low_score <= high_score <= new_score <= 1, got "
                f"{self.low_score}, {self.high_score}, {self.new_score}"
            )


class ByteTrack:
    """Gives the boxes of consecutive frames the numbers of the objects that they belong to.

    A track predicts where its object will be with a Kalman filter of constant velocity. In each frame, boxes of a high
    score are assigned to the predicted places, by the Hungarian method on 1 - IoU; then boxes of a low score to the
    tracks that are left and were seen in the frame before (algorithm 1 of the paper). Boxes of different classes are
    never the same object.

    Args:
        options: the parameters.
    """

    def __init__(self, options: TrackOptions = TrackOptions()) -> None:  # noqa: B008 - frozen
        self.options = options
        self._motion = Motion()
        self._ids = np.zeros(0, np.int64)
        self._classes = np.zeros(0, np.int64)
        self._unseen = np.zeros(0, np.int64)  # frames since a track was last seen
        self._next = 1
        self._index: int | None = None

    def update(
        self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, *, index: int | None = None
    ) -> np.ndarray:
        """Returns the track of each box in the next frame.

        Args:
            boxes: corners ``(x1, y1, x2, y2)`` in px; shape ``(N, 4)``.
            scores: shape ``(N,)``.
            classes: shape ``(N,)``.
            index: number of the frame, if frames may have been dropped before it; default: the next one.

        Returns:
            The number of each box's track, from 1, or 0 if it has none; int64, shape ``(N,)``.
        """
        options = self.options
        steps = self._steps(index)
        for _ in range(steps):
            self._motion.predict(self._unseen > 0)
            self._unseen += 1
        self._forget(self._unseen > options.keep_frames)
        ids = np.zeros(len(scores), np.int64)
        matched = np.zeros(len(self._ids), bool)
        predicted = self._motion.boxes

        def match(candidates: np.ndarray, tracks: np.ndarray, min_iou: float) -> None:
            costs = 1 - iou_matrix(predicted[tracks], boxes[candidates])
            costs[self._classes[tracks][:, None] != classes[candidates][None]] = np.inf
            pairs = assign_below(costs, 1 - min_iou)
            rows = tracks[[row for row, _ in pairs]]
            columns = candidates[[column for _, column in pairs]]
            self._motion.correct(rows, boxes[columns])
            ids[columns], matched[rows], self._unseen[rows] = self._ids[rows], True, 0

        match(np.flatnonzero(scores > options.high_score), np.arange(len(self._ids)), options.min_iou)
        low = np.flatnonzero((scores > options.low_score) & (scores <= options.high_score))
        match(low, np.flatnonzero(~matched & (self._unseen <= steps)), options.min_iou_low)
        new = np.flatnonzero((ids == 0) & (scores > options.new_score))
        ids[new] = self._begin(boxes[new], classes[new])
        return ids

    def _steps(self, index: int | None) -> int:
        """Returns how many frames have passed since the one before."""
        before, self._index = self._index, index
        if index is None or before is None:
            return 1
        # After so many, all tracks are gone.
        return min(max(1, index - before), self.options.keep_frames + 1)

    def _forget(self, gone: np.ndarray) -> None:
        kept = ~gone
        self._motion.keep(kept)
        self._ids, self._classes, self._unseen = self._ids[kept], self._classes[kept], self._unseen[kept]

    def _begin(self, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Begins a track for each box, and returns their numbers."""
        ids = np.arange(self._next, self._next + len(boxes), dtype=np.int64)
        self._next += len(boxes)
        self._motion.add(boxes)
        self._ids = np.concatenate([self._ids, ids])
        self._classes = np.concatenate([self._classes, classes.astype(np.int64)])
        self._unseen = np.concatenate([self._unseen, np.zeros(len(boxes), np.int64)])
        return ids


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of every box with every other.

    Args:
        a: corners ``(x1, y1, x2, y2)``; shape ``(N, 4)``.
        b: corners; shape ``(M, 4)``.

    Returns:
        Intersection over union in ``[0, 1]``; float64, shape ``(N, M)``; 0 for two boxes without an area.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    shared = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = np.maximum(shared, 0).prod(axis=2)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - intersection
    overlap: np.ndarray = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap
