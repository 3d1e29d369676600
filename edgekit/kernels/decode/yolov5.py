"""Decodes outputs of YOLOv5 and v7; see `edgekit.kernels.decode.reference.decode_yolov5` for the definition."""

from __future__ import annotations

import numpy as np

from edgekit.kernels.decode.candidates import LOGIT_SLACK, Candidates, corners, logit, passing, sigmoid
from edgekit.recipe.heads import YoloV5, YoloX

__all__ = ["decode_yolov5", "sure_cells"]


def decode_yolov5(output: np.ndarray, head: YoloV5, *, score_threshold: float) -> Candidates:
    """Decodes the output of one image.

    Args:
        output: float32, shape ``(cells, 5 + classes + extras)``.
        head: the parameters.
        score_threshold: only candidates with a greater score are returned; 0 to 1.

    Returns:
        Candidates in the order cells, classes; those with a NaN score are left out.
    """
    classes = output.shape[1] - 5 - head.extras
    cells, kind, scores = sure_cells(output[:, : 5 + classes], head, score_threshold)
    values = output[cells, :4]
    return Candidates(corners(values[:, :2], values[:, 2:]), scores, kind, cells)


def sure_cells(
    rows: np.ndarray, head: YoloV5 | YoloX, score_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the candidates of rows ``(cells, 5 + classes)`` with objectness; returns cell, class and score of each."""
    objectness = rows[:, 4]
    if head.activation == "sigmoid":
        cells = np.flatnonzero(objectness > np.float32(logit(score_threshold) - LOGIT_SLACK))
        objectness = sigmoid(objectness[cells])
        cells, objectness = (each[objectness > np.float32(score_threshold)] for each in (cells, objectness))
    else:
        cells = np.flatnonzero(objectness > np.float32(score_threshold))
        objectness = objectness[cells]
    cell, kind, scores = passing(
        rows[cells, 5:], objectness, head.activation, score_threshold, multi_label=head.multi_label
    )
    return cells[cell], kind, scores
