"""Reads detections that the model has decoded itself; see `edgekit.kernels.decode.reference` for the definitions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.kernels.decode.candidates import Candidates
from edgekit.kernels.decode.limits import MAX_CLASS
from edgekit.recipe.heads import BatchedRows, BoxesScoresLabels, EfficientNms

__all__ = ["decode_rows"]


def decode_rows(
    outputs: Mapping[str, np.ndarray],
    head: BoxesScoresLabels | EfficientNms | BatchedRows,
    *,
    input_size: tuple[int, int],
    score_threshold: float,
    index: int,
) -> Candidates:
    """Reads the detections of one image.

    Args:
        outputs: outputs by name, of all images.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.

    Returns:
        Candidates in the order of the rows; those whose score or class is no number are left out.
    """
    if isinstance(head, BatchedRows):
        boxes, scores, kinds, cells = _of_batch(outputs[head.output].astype(np.float32, copy=False), head, index)
    else:
        classes = head.labels if isinstance(head, BoxesScoresLabels) else head.classes
        batched = outputs[head.boxes].ndim == 3
        boxes, scores, kinds = (
            (outputs[name][index] if batched else outputs[name]) for name in (head.boxes, head.scores, classes)
        )
        if isinstance(head, EfficientNms):
            count = max(0, int(outputs[head.count].reshape(-1)[index]))
            boxes, scores, kinds = boxes[:count], scores[:count], kinds[:count]
        elif head.background:
            kinds = kinds - 1
        boxes, scores = boxes.astype(np.float32, copy=False), scores.astype(np.float32, copy=False)
        # Half precision has no number as large as the limit of classes.
        kinds = kinds.astype(np.float32) if kinds.dtype == np.float16 else kinds
        cells = np.arange(len(boxes))
        if head.coordinates == "normalized":
            with np.errstate(over="ignore", invalid="ignore"):  # a box that is not finite is dropped by the suppression
                boxes = boxes * np.array(input_size * 2, np.float32)
    passed = (scores > np.float32(score_threshold)) & (kinds >= 0) & (kinds < MAX_CLASS)
    return Candidates(boxes[passed], scores[passed], kinds[passed].astype(np.int64), cells[passed])


def _of_batch(rows: np.ndarray, head: BatchedRows, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if head.columns == "paddle":
        return rows[:, 2:6], rows[:, 1], rows[:, 0], np.arange(len(rows))
    own = np.flatnonzero(rows[:, 0] == index)
    return rows[own, 1:5], rows[own, 6], rows[own, 5], own
