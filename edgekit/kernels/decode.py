"""Raw outputs of detector heads to candidate boxes, computed only where a score can pass the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.errors import RunError
from edgekit.kernels.reference import MAX_EXPONENT
from edgekit.recipe import YoloHead

__all__ = ["Candidates", "decode_yolov3"]

# Logits are compared with a threshold this much too low first; what passes is compared again as a score.
_LOGIT_SLACK = 1e-3


class Candidates(NamedTuple):
    """Boxes before suppression.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the input, not clipped to it; float32, shape ``(M, 4)``.
        scores: objectness times class probability; float32, shape ``(M,)``.
        classes: int64, shape ``(M,)``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def decode_yolov3(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, picture: int = 0
) -> Candidates:
    """Candidates of one picture; the formulas stand in `edgekit.kernels.reference.decode_yolov3`.

    Every class whose score is greater than the threshold makes a candidate of its own, as in Darknet, where others
    keep only the best class of a box: suppression looks at one class at a time, so both lists lead to the
    published results only with Darknet's.

    A score is at most the objectness and at most the class probability, so only cells whose objectness, and
    classes whose probability, pass the threshold by themselves are decoded.

    Args:
        outputs: by name; float32, shape ``(N, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: a candidate's score is greater; 0 to 1.
        picture: which picture of the batch.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the anchors.
    """
    found = [_decode_head(_raw_head(outputs, head, picture), head, score_threshold) for head in heads]
    return Candidates(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _raw_head(outputs: Mapping[str, np.ndarray], head: YoloHead, picture: int) -> np.ndarray:
    """The head's numbers as ``(anchors, 5 + classes, h, w)``."""
    anchors = len(head.anchors)
    expected = f"(N, {anchors} * (5 + classes), h, w)"
    if head.output not in outputs:
        raise RunError(f"output '{head.output}': expected {expected}, got no such output among {sorted(outputs)}")
    raw = outputs[head.output]
    if raw.ndim != 4 or raw.shape[1] % anchors or raw.shape[1] // anchors < 6:
        raise RunError(f"output '{head.output}': expected {expected}, got {raw.shape}")
    numbers: np.ndarray = raw[picture].reshape(anchors, -1, *raw.shape[2:])
    return numbers.astype(np.float32, copy=False)


def _decode_head(raw: np.ndarray, head: YoloHead, score_threshold: float) -> Candidates:
    least = _logit(score_threshold) - _LOGIT_SLACK
    anchor, row, column = np.nonzero(raw[:, 4] > least)
    cells = raw[anchor, :, row, column]
    cell, kind = np.nonzero(cells[:, 5:] > least)
    scores = _sigmoid(cells[cell, 4]) * _sigmoid(cells[cell, 5 + kind])
    passed = scores > np.float32(score_threshold)
    cell = cell[passed]

    position = np.stack([column, row], axis=1)[cell]
    center = (_sigmoid(cells[cell, 0:2]) + position.astype(np.float32)) * np.float32(head.stride)
    sizes = np.asarray(head.anchors, np.float32)[anchor[cell]]
    half = sizes * np.exp(np.minimum(cells[cell, 2:4], np.float32(MAX_EXPONENT))) / 2
    boxes = np.concatenate([center - half, center + half], axis=1)
    return Candidates(boxes, scores[passed], kind[passed].astype(np.int64, copy=False))


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability / (1 - probability)) if probability < 1 else math.inf


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # exp of a positive number could overflow; of a negative one it cannot.
    small = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, np.float32(1), small) / (1 + small)
    return result
