"""Candidate boxes of one image, and the steps that decoders share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "LOGIT_SLACK",
    "Candidates",
    "best_candidates",
    "best_classes",
    "concatenated",
    "corners",
    "logit",
    "passing",
    "sigmoid",
    "softmax",
]

# Logits are first compared with a threshold that is lower by this; then the scores are compared exactly.
LOGIT_SLACK = 1e-3


class Candidates(NamedTuple):
    """Candidate boxes before non-maximum suppression.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the input, not clipped to the input; float32, shape ``(M, 4)``.
            Rotated boxes are ``(center x, center y, width, height, angle)`` in px and radians, shape ``(M, 5)``.
        scores: float32, shape ``(M,)``.
        classes: int64, shape ``(M,)``.
        cells: which of the boxes that the model predicts each one is; int64, shape ``(M,)``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    cells: np.ndarray


def concatenated(found: Sequence[Candidates]) -> Candidates:
    """Concatenates candidates, in order."""
    return Candidates(*(np.concatenate(column) for column in zip(*found, strict=True)))


def best_candidates(candidates: Candidates, number: int) -> Candidates:
    """Returns the best candidates by score and index, in their order, if there are more than ``number``.

    Those that are not finite do not count.
    """
    if len(candidates.scores) <= number:
        return candidates
    finite = np.flatnonzero(np.isfinite(candidates.boxes).all(axis=1))
    best = np.sort(finite[np.argsort(-candidates.scores[finite], kind="stable")[:number]])
    return Candidates(*(each[best] for each in candidates))


def passing(
    raw: np.ndarray, objectness: np.ndarray | None, activation: str, score_threshold: float, *, multi_label: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the classes of cells whose score passes.

    Args:
        raw: a value for each class, before the activation; float32, shape ``(M, classes)``.
        objectness: factor of the scores of each cell, in 0..1; float32, shape ``(M,)``.
        activation: ``none`` or ``sigmoid``.
        score_threshold: only greater scores pass.
        multi_label: all classes of a cell may pass; otherwise only the first one with the largest value.

    Returns:
        Position of the cell, class, and score of each candidate, in the order cells, classes.
    """
    if multi_label:
        # A score is at most the activated value, so most need no exponential.
        least = logit(score_threshold) - LOGIT_SLACK if activation == "sigmoid" else score_threshold
        cell, kind = np.nonzero(raw > np.float32(least))
        values = raw[cell, kind]
    else:
        cell, kind = np.arange(len(raw)), best_classes(raw)
        values = raw[cell, kind]
    scores = sigmoid(values) if activation == "sigmoid" else values
    if objectness is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # values that should be probabilities need not be
            scores = objectness[cell] * scores
    passed = scores > np.float32(score_threshold)
    return cell[passed], kind[passed], scores[passed]


def best_classes(raw: np.ndarray) -> np.ndarray:
    """Returns the first class with the largest value of each row, NaN last; int64."""
    if raw.shape[1] == 0 or not np.isnan(raw).any():
        return raw.argmax(axis=1) if raw.size else np.zeros(len(raw), np.int64)
    found: np.ndarray = np.where(np.isnan(raw), -np.inf, raw).argmax(axis=1)
    # If all others are -inf, a NaN may be chosen; neither passes a threshold.
    return found


def corners(center: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Converts centers and sides, shape ``(M, 2)`` each, to corners ``(M, 4)``."""
    half = sides / 2
    with np.errstate(invalid="ignore", over="ignore"):  # a box that is not finite is dropped by the suppression
        return np.concatenate([center - half, center + half], axis=1)


def logit(probability: float) -> float:
    """Computes ``log(p / (1 - p))``, infinite at the ends."""
    if probability <= 0:
        return -math.inf
    return math.log(probability / (1 - probability)) if probability < 1 else math.inf


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Computes ``1 / (1 + exp(-x))`` without overflow."""
    # exp of a positive number can overflow, but not of a negative number.
    small = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, np.float32(1), small) / (1 + small)
    return result


def softmax(x: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis; NaN if a value is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        result: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return result
