"""Decodes outputs of YOLOv10 and YOLO26; see `edgekit.kernels.decode.reference.decode_end2end` for the definition."""

from __future__ import annotations

import numpy as np

from edgekit.kernels.decode.candidates import Candidates, corners
from edgekit.kernels.decode.limits import MAX_CLASS
from edgekit.recipe.heads import End2End

__all__ = ["decode_end2end"]


def decode_end2end(
    output: np.ndarray, head: End2End, *, input_size: tuple[int, int], score_threshold: float
) -> Candidates:
    """Decodes the output of one image.

    Args:
        output: float32, shape ``(boxes, 6 + extras)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned; 0 to 1.

    Returns:
        Candidates in the order of the rows; those whose score or class is no number are left out.
    """
    kind = output[:, 5]
    cells = np.flatnonzero((output[:, 4] > np.float32(score_threshold)) & (kind >= 0) & (kind < MAX_CLASS))
    if head.coordinates == "centers":
        with np.errstate(over="ignore", invalid="ignore"):  # a box that is not finite is dropped by the suppression
            boxes = output[cells, :4] * np.array(input_size * 2, np.float32)
        return Candidates(corners(boxes[:, :2], boxes[:, 2:]), output[cells, 4], kind[cells].astype(np.int64), cells)
    columns = [0, 1, 2, 3, -1] if head.angle else [0, 1, 2, 3]
    return Candidates(output[cells][:, columns], output[cells, 4], kind[cells].astype(np.int64), cells)
