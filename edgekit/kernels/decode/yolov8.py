"""Decodes outputs of YOLOv8 and later; see `edgekit.kernels.decode.reference.decode_yolov8` for the definition."""

from __future__ import annotations

import numpy as np

from edgekit.kernels.decode.candidates import LOGIT_SLACK, Candidates, corners, logit, passing
from edgekit.recipe.heads import YoloV8

__all__ = ["decode_yolov8"]


def decode_yolov8(output: np.ndarray, head: YoloV8, *, score_threshold: float) -> Candidates:
    """Decodes the output of one image.

    Args:
        output: float32, shape ``(4 + classes + extras, cells)``, or ``(cells, 4 + classes + extras)`` if the layout is
            ``channels-last``.
        head: the parameters.
        score_threshold: only candidates with a greater score are returned; 0 to 1.

    Returns:
        Candidates in the order cells, classes; those with a NaN score are left out.
    """
    planes = output if head.layout == "channels-first" else output.T
    raw = planes[4 : len(planes) - head.extras]
    least = logit(score_threshold) - LOGIT_SLACK if head.activation == "sigmoid" else score_threshold
    # fmax ignores NaN.
    cells = np.flatnonzero(np.fmax.reduce(raw, axis=0) > np.float32(least))
    cell, kind, scores = passing(raw[:, cells].T, None, head.activation, score_threshold, multi_label=head.multi_label)
    cells = cells[cell]
    values = planes[:4, cells].T
    if head.angle:
        boxes = np.concatenate([values, planes[-1:, cells].T], axis=1)
    else:
        boxes = corners(values[:, :2], values[:, 2:])
    return Candidates(boxes, scores, kind, cells)
