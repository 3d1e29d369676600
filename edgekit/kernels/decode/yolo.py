"""Decodes raw outputs of detector heads to candidate boxes, only for cells whose score can pass the threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.errors import RunError
from edgekit.kernels.decode.candidates import (
    LOGIT_SLACK,
    Candidates,
    best_classes,
    concatenated,
    corners,
    logit,
    passing,
    sigmoid,
    softmax,
)
from edgekit.kernels.decode.limits import MAX_EXPONENT, MAX_ROOT
from edgekit.recipe.heads import YoloHead

__all__ = ["decode_yolov1", "decode_yolov2", "decode_yolov3"]


def decode_yolov1(
    outputs: Mapping[str, np.ndarray],
    heads: Sequence[YoloHead],
    *,
    score_threshold: float,
    index: int = 0,
    multi_label: bool = True,
) -> Candidates:
    """Decodes YOLOv1 outputs of one image; see `edgekit.kernels.decode.reference.decode_yolov1` for the formulas.

    Args:
        outputs: outputs by name; float32, shape ``(N, classes + 5 * boxes, h, w)``.
        heads: the outputs' names, strides and numbers of boxes.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.
        multi_label: otherwise only the class of a box with the largest raw value may be a candidate.

    Returns:
        Candidates in the order heads, boxes, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the boxes.
    """
    raw = [_raw_cells(outputs, head, index) for head in heads]
    return _numbered(_decode_cells, raw, heads, score_threshold, multi_label)


def decode_yolov2(
    outputs: Mapping[str, np.ndarray],
    heads: Sequence[YoloHead],
    *,
    score_threshold: float,
    index: int = 0,
    multi_label: bool = True,
) -> Candidates:
    """Decodes YOLOv2 outputs of one image; see `edgekit.kernels.decode.reference.decode_yolov2` for the formulas.

    A score is at most the objectness, so classes are decoded only in cells whose objectness passes the threshold.

    Args:
        outputs: outputs by name; float32, shape ``(N, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.
        multi_label: otherwise only the class of a box with the largest raw value may be a candidate.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the anchors.
    """
    raw = [_raw_head(outputs, head, index) for head in heads]
    return _numbered(_decode_softmax_head, raw, heads, score_threshold, multi_label)


def decode_yolov3(
    outputs: Mapping[str, np.ndarray],
    heads: Sequence[YoloHead],
    *,
    score_threshold: float,
    index: int = 0,
    multi_label: bool = True,
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
        multi_label: otherwise only the class of a box with the largest raw value may be a candidate.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes; those with a NaN score are left out.

    Raises:
        RunError: an output is missing or its channels do not fit the anchors.
    """
    raw = [_raw_head(outputs, head, index) for head in heads]
    return _numbered(_decode_head, raw, heads, score_threshold, multi_label)


def _numbered(
    decoder: Callable[[np.ndarray, YoloHead, float, bool], Candidates],
    raw: Sequence[np.ndarray],
    heads: Sequence[YoloHead],
    score_threshold: float,
    multi_label: bool,
) -> Candidates:
    """Concatenates the candidates of all heads, in order, and numbers their cells."""
    found, before = [], 0
    for values, head in zip(raw, heads, strict=True):
        candidates = decoder(values, head, score_threshold, multi_label)
        found.append(candidates._replace(cells=before + candidates.cells))
        before += (head.boxes or len(head.anchors)) * values.shape[-2] * values.shape[-1]
    return concatenated(found)


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


def _decode_cells(raw: np.ndarray, head: YoloHead, score_threshold: float, multi_label: bool) -> Candidates:
    classes = len(raw) - 5 * head.boxes
    confidences, boxes = raw[classes : classes + head.boxes], raw[classes + head.boxes :]
    with np.errstate(over="ignore", invalid="ignore"):  # outputs of a linear layer are unbounded
        scores = confidences[:, None] * raw[:classes]
        passed = scores > np.float32(score_threshold)
        if not multi_label:
            best = best_classes(raw[:classes].reshape(classes, -1).T).reshape(raw.shape[1:])
            passed &= np.arange(classes)[:, None, None] == best
        box, kind, row, column = np.nonzero(passed)
        order = np.lexsort((kind, column, row, box))
        box, kind, row, column = box[order], kind[order], row[order], column[order]
        x, y, *roots = boxes.reshape(head.boxes, 4, *raw.shape[1:])[box, :, row, column].T
        stride = np.float32(head.stride)
        center = np.stack([x + column.astype(np.float32), y + row.astype(np.float32)], axis=1) * stride
        sides = np.clip(np.stack(roots, axis=1), -MAX_ROOT, MAX_ROOT) ** 2
        sides = sides * np.array([raw.shape[2], raw.shape[1]], np.float32) * stride
    cells = np.ravel_multi_index((box, row, column), (head.boxes, *raw.shape[1:]))
    return Candidates(
        corners(center, sides),
        scores[box, kind, row, column],
        kind.astype(np.int64, copy=False),
        cells.astype(np.int64),
    )


def _decode_softmax_head(raw: np.ndarray, head: YoloHead, score_threshold: float, multi_label: bool) -> Candidates:
    anchor, row, column = np.nonzero(raw[:, 4] > np.float32(logit(score_threshold) - LOGIT_SLACK))
    values = raw[anchor, :, row, column]
    probabilities = softmax(values[:, 5:])
    if multi_label:
        cell, kind = np.nonzero(probabilities > np.float32(score_threshold))
    else:
        cell, kind = np.arange(len(values)), best_classes(values[:, 5:])
    scores = sigmoid(values[cell, 4]) * probabilities[cell, kind]
    passed = scores > np.float32(score_threshold)
    return _anchored(raw, head, (anchor, row, column), values, cell[passed], kind[passed], scores[passed])


def _decode_head(raw: np.ndarray, head: YoloHead, score_threshold: float, multi_label: bool) -> Candidates:
    least = score_threshold if head.new_coords else logit(score_threshold) - LOGIT_SLACK
    anchor, row, column = np.nonzero(raw[:, 4] > np.float32(least))
    values = raw[anchor, :, row, column]
    objectness, activation = (values[:, 4], "none") if head.new_coords else (sigmoid(values[:, 4]), "sigmoid")
    found = passing(values[:, 5:], objectness, activation, score_threshold, multi_label=multi_label)
    return _anchored(raw, head, (anchor, row, column), values, *found)


def _anchored(
    raw: np.ndarray,
    head: YoloHead,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    values: np.ndarray,
    cell: np.ndarray,
    kind: np.ndarray,
    scores: np.ndarray,
) -> Candidates:
    """Decodes boxes; ``cell`` is the position in ``values`` and in ``places`` (anchor, row, column)."""
    values = values[cell]
    anchor, row, column = (place[cell] for place in places)
    places_xy = np.stack([column, row], axis=1).astype(np.float32)
    center = (_offsets(values[:, 0:2], head) + places_xy) * np.float32(head.stride)
    sides = np.asarray(head.anchors, np.float32)[anchor] * _sides(values[:, 2:4], head)
    cells = np.ravel_multi_index((anchor, row, column), (len(raw), *raw.shape[2:]))
    return Candidates(corners(center, sides), scores, kind.astype(np.int64, copy=False), cells.astype(np.int64))


def _offsets(raw: np.ndarray, head: YoloHead) -> np.ndarray:
    """Computes the centers in their cells."""
    offsets = raw if head.new_coords else sigmoid(raw)
    if head.scale_xy == 1:
        return offsets
    with np.errstate(over="ignore", invalid="ignore"):  # as for corners
        return np.float32(head.scale_xy) * offsets - np.float32((head.scale_xy - 1) / 2)


def _sides(raw: np.ndarray, head: YoloHead) -> np.ndarray:
    """Computes the sides in anchors."""
    if head.new_coords:
        sides: np.ndarray = np.square(2 * np.clip(raw, -MAX_ROOT, MAX_ROOT))
    else:
        sides = np.exp(np.minimum(raw, np.float32(MAX_EXPONENT)))
    return sides
