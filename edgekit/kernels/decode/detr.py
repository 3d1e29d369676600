"""Decodes outputs of DETR and its successors; see `edgekit.kernels.decode.reference.decode_detr` for the definition."""

from __future__ import annotations

import numpy as np

from edgekit.kernels.decode.candidates import Candidates, best_classes, corners, passing, softmax
from edgekit.recipe.heads import Detr

__all__ = ["decode_detr"]


def decode_detr(
    boxes: np.ndarray,
    logits: np.ndarray,
    head: Detr,
    *,
    input_size: tuple[int, int],
    score_threshold: float,
) -> Candidates:
    """Decodes the outputs of one image.

    Args:
        boxes: float32, shape ``(queries, 4)``.
        logits: float32, shape ``(queries, slots)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned; 0 to 1.

    Returns:
        Candidates in the order queries, classes; those with a NaN score are left out.
    """
    slots = slice(head.background == "first", logits.shape[1] - (head.background == "last"))
    raw = logits[:, slots]
    if head.activation == "softmax":
        scores = softmax(logits)[:, slots]
        passed = scores > np.float32(score_threshold)
        if not head.multi_label:
            passed &= np.arange(raw.shape[1]) == best_classes(raw)[:, None]
        query, kind = np.nonzero(passed)
        scores = scores[query, kind]
    else:
        query, kind, scores = passing(raw, None, head.activation, score_threshold, multi_label=head.multi_label)
    size = np.array(input_size, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a box that is not finite is dropped by the suppression
        center, sides = boxes[query, :2] * size, boxes[query, 2:4] * size
    return Candidates(corners(center, sides), scores, kind, query)
