"""Decodes raw outputs of detector heads to candidate boxes, only for cells whose score can pass the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.errors import RunError
from edgekit.kernels.decode.limits import MAX_EXPONENT, MAX_ROOT
from edgekit.recipe.schema import Postprocess, YoloHead

__all__ = ["Candidates", "decode", "decode_yolov1", "decode_yolov2", "decode_yolov3"]

# Logits are first compared with a threshold that is lower by this; then the scores are compared exactly.
_LOGIT_SLACK = 1e-3


class Candidates(NamedTuple):
    """Candidate boxes before non-maximum suppression.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the input, not clipped to the input; float32, shape ``(M, 4)``.
        scores: objectness times class probability; float32, shape ``(M,)``.
        classes: int64, shape ``(M,)``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def decode(
    outputs: Mapping[str, np.ndarray], how: Postprocess, *, score_threshold: float, index: int = 0
) -> Candidates:
    """Decodes the outputs of one image with the decoder of the model.

    Args:
        outputs: outputs by name; float32.
        how: the kind of decoder, and the heads.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.

    Raises:
        RunError: an output is missing or does not fit the heads.
    """
    return _DECODERS[how.kind](outputs, how.heads, score_threshold=score_threshold, index=index)


def decode_yolov1(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, index: int = 0
) -> Candidates:
    """Decodes YOLOv1 outputs of one image; see `edgekit.kernels.decode.reference.decode_yolov1` for the formulas.

    Args:
        outputs: outputs by name; float32, shape ``(N, classes + 5 * boxes, h, w)``.
        heads: the outputs' names, strides and numbers of boxes.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.

    Returns:
        Candidates in the order heads, boxes, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the boxes.
    """
    found = [_decode_cells(_raw_cells(outputs, head, index), head, score_threshold) for head in heads]
    return _concatenated(found)


def decode_yolov2(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, index: int = 0
) -> Candidates:
    """Decodes YOLOv2 outputs of one image; see `edgekit.kernels.decode.reference.decode_yolov2` for the formulas.

    A score is at most the objectness, so classes are decoded only in cells whose objectness passes the threshold.

    Args:
        outputs: outputs by name; float32, shape ``(N, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the anchors.
    """
    found = [_decode_softmax_head(_raw_head(outputs, head, index), head, score_threshold) for head in heads]
    return _concatenated(found)


def decode_yolov3(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, index: int = 0
) -> Candidates:
    """Decodes YOLOv3 outputs of one image; see `edgekit.kernels.decode.reference.decode_yolov3` for the formulas.

    Every class whose score is greater than the threshold is a separate candidate, as in Darknet. Other implementations
    keep only the best class of a box; suppression works class by class, so only Darknet's way gives the published
    results.

    A score is at most the objectness and at most the class probability, so only cells whose objectness and classes
    whose probability pass the threshold are decoded.

    Args:
        outputs: outputs by name; float32, shape ``(N, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the anchors.
    """
    found = [_decode_head(_raw_head(outputs, head, index), head, score_threshold) for head in heads]
    return _concatenated(found)


def _concatenated(found: Sequence[Candidates]) -> Candidates:
    """Concatenates the candidates of all heads, in order."""
    return Candidates(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _raw_head(outputs: Mapping[str, np.ndarray], head: YoloHead, index: int) -> np.ndarray:
    """Returns the raw values of a head with shape ``(anchors, 5 + classes, h, w)``."""
    anchors = len(head.anchors)
    raw = _raw(outputs, head, f"(N, {anchors} * (5 + classes), h, w)", lambda c: c % anchors == 0 and c // anchors >= 6)
    values: np.ndarray = raw[index].reshape(anchors, -1, *raw.shape[2:])
    return values.astype(np.float32, copy=False)


def _raw_cells(outputs: Mapping[str, np.ndarray], head: YoloHead, index: int) -> np.ndarray:
    """Returns the raw values of a head with shape ``(classes + 5 * boxes, h, w)``."""
    raw = _raw(outputs, head, f"(N, classes + 5 * {head.boxes}, h, w)", lambda c: c > 5 * head.boxes)
    values: np.ndarray = raw[index].astype(np.float32, copy=False)
    return values


def _raw(outputs: Mapping[str, np.ndarray], head: YoloHead, expected: str, fits: Callable[[int], bool]) -> np.ndarray:
    if head.output not in outputs:
        raise RunError(f"output '{head.output}': expected {expected}, got no such output among {sorted(outputs)}")
    raw = outputs[head.output]
    if raw.ndim != 4 or not fits(raw.shape[1]):
        raise RunError(f"output '{head.output}': expected {expected}, got {raw.shape}")
    return raw


def _decode_cells(raw: np.ndarray, head: YoloHead, score_threshold: float) -> Candidates:
    classes = len(raw) - 5 * head.boxes
    confidences, boxes = raw[classes : classes + head.boxes], raw[classes + head.boxes :]
    with np.errstate(over="ignore", invalid="ignore"):  # outputs of a linear layer are unbounded
        scores = confidences[:, None] * raw[:classes]
        box, kind, row, column = np.nonzero(scores > np.float32(score_threshold))
        order = np.lexsort((kind, column, row, box))
        box, kind, row, column = box[order], kind[order], row[order], column[order]
        x, y, *roots = boxes.reshape(head.boxes, 4, *raw.shape[1:])[box, :, row, column].T
        stride = np.float32(head.stride)
        center = np.stack([x + column.astype(np.float32), y + row.astype(np.float32)], axis=1) * stride
        sides = np.clip(np.stack(roots, axis=1), -MAX_ROOT, MAX_ROOT) ** 2
        half = sides * np.array([raw.shape[2], raw.shape[1]], np.float32) * stride / 2
        corners = np.concatenate([center - half, center + half], axis=1)
    return Candidates(corners, scores[box, kind, row, column], kind.astype(np.int64, copy=False))


def _decode_softmax_head(raw: np.ndarray, head: YoloHead, score_threshold: float) -> Candidates:
    min_logit = _logit(score_threshold) - _LOGIT_SLACK
    anchor, row, column = np.nonzero(raw[:, 4] > min_logit)
    cells = raw[anchor, :, row, column]
    scores = _sigmoid(cells[:, 4:5]) * _softmax(cells[:, 5:])
    cell, kind = np.nonzero(scores > np.float32(score_threshold))
    boxes = _boxes(cells[cell], anchor[cell], np.stack([column, row], axis=1)[cell], head)
    return Candidates(boxes, scores[cell, kind], kind.astype(np.int64, copy=False))


def _decode_head(raw: np.ndarray, head: YoloHead, score_threshold: float) -> Candidates:
    min_logit = _logit(score_threshold) - _LOGIT_SLACK
    anchor, row, column = np.nonzero(raw[:, 4] > min_logit)
    cells = raw[anchor, :, row, column]
    cell, kind = np.nonzero(cells[:, 5:] > min_logit)
    scores = _sigmoid(cells[cell, 4]) * _sigmoid(cells[cell, 5 + kind])
    passed = scores > np.float32(score_threshold)
    cell = cell[passed]
    boxes = _boxes(cells[cell], anchor[cell], np.stack([column, row], axis=1)[cell], head)
    return Candidates(boxes, scores[passed], kind[passed].astype(np.int64, copy=False))


def _boxes(cells: np.ndarray, anchor: np.ndarray, position: np.ndarray, head: YoloHead) -> np.ndarray:
    """Decodes the first four values of each cell to corners; ``position`` is the cell's column and row."""
    center = (_sigmoid(cells[:, 0:2]) + position.astype(np.float32)) * np.float32(head.stride)
    sizes = np.asarray(head.anchors, np.float32)[anchor]
    half = sizes * np.exp(np.minimum(cells[:, 2:4], np.float32(MAX_EXPONENT))) / 2
    return np.concatenate([center - half, center + half], axis=1)


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability / (1 - probability)) if probability < 1 else math.inf


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # exp of a positive number can overflow, but not of a negative number.
    small = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, np.float32(1), small) / (1 + small)
    return result


def _softmax(x: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis; NaN if a value is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        result: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return result


_DECODERS: dict[str, Callable[..., Candidates]] = {
    "yolov1": decode_yolov1,
    "yolov2": decode_yolov2,
    "yolov3": decode_yolov3,
}
