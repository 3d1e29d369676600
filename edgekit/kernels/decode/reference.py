"""Reference decoding of detector heads, one cell at a time in float64: simple but slow, to test `yolo` against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.kernels.decode.limits import MAX_EXPONENT, MAX_ROOT
from edgekit.recipe.schema import YoloHead

__all__ = ["decode_yolov1", "decode_yolov2", "decode_yolov3", "sigmoid"]

Found = tuple[tuple[float, float, float, float], float, int]
"""Corners in px of the input, score, class."""


def sigmoid(x: float) -> float:
    """Computes ``1 / (1 + exp(-x))`` for any ``x`` without overflow."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softmax(x: Sequence[float]) -> list[float]:
    """Computes ``exp(x[i]) / sum_j exp(x[j])`` for any ``x`` without overflow."""
    largest = max(x)
    powers = [math.exp(each - largest) for each in x]
    return [power / sum(powers) for power in powers]


def decode_yolov1(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float
) -> list[Found]:
    """Decodes the raw outputs of YOLOv1 (Redmon et al. 2016, section 2), in float64.

    A cell in column ``cx`` and row ``cy`` has a probability for each class, then a confidence for each box, then
    ``x, y, w, h`` for each box. As in Darknet with ``sqrt=1``, ``w`` and ``h`` are square roots of fractions of the
    image::

        bx = (x + cx) * stride        bw = w**2 * width of the input
        by = (y + cy) * stride        bh = h**2 * height of the input
        score of class c = confidence of the box * probability of class c

    The values are used without an activation, as they come from a linear layer, so they need not be probabilities.
    Roots are clipped to 1000, so that areas stay finite in float32.

    Args:
        outputs: outputs by name, shape ``(1, classes + 5 * boxes, h, w)``.
        heads: the outputs' names, strides and numbers of boxes.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order heads, boxes, rows, columns, classes.
    """
    found = []
    for head in heads:
        raw = outputs[head.output][0].astype(np.float64)
        channels, rows, columns = raw.shape
        classes = channels - 5 * head.boxes
        for b in range(head.boxes):
            for row in range(rows):
                for column in range(columns):
                    cell = raw[:, row, column].tolist()
                    t = cell[classes + head.boxes + 4 * b :][:4]
                    x, y = (t[0] + column) * head.stride, (t[1] + row) * head.stride
                    root_w, root_h = (min(max(root, -MAX_ROOT), MAX_ROOT) for root in t[2:])
                    width, height = root_w**2 * columns * head.stride, root_h**2 * rows * head.stride
                    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    for c in range(classes):
                        score = cell[classes + b] * cell[c]
                        if score > score_threshold:
                            found.append((box, score, c))
    return found


def decode_yolov2(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float
) -> list[Found]:
    """Decodes the raw outputs of YOLOv2 (Redmon and Farhadi 2017, section 2), in float64.

    Boxes and objectness are the same as in `decode_yolov3`, but the classes of a box share one softmax::

        score of class c = sigmoid(objectness) * exp(class c) / sum over all classes k of exp(class k)

    Args:
        outputs: outputs by name, shape ``(1, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes.
    """
    return _decode_anchors(outputs, heads, score_threshold, softmax)


def decode_yolov3(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float
) -> list[Found]:
    """Decodes the raw outputs of YOLOv3 (Redmon and Farhadi 2018, section 2.1), in float64.

    With the raw values ``t`` of a cell in column ``cx`` and row ``cy``, and an anchor of ``pw`` by ``ph`` px::

        bx = (sigmoid(tx) + cx) * stride        bw = pw * exp(tw)
        by = (sigmoid(ty) + cy) * stride        bh = ph * exp(th)
        score of class c = sigmoid(objectness) * sigmoid(class c)

    Every class whose score is greater than the threshold is a candidate, as in Darknet's ``get_yolo_detections``.
    Exponents are clipped to 16, nine million anchors, so that areas stay finite in float32.

    Args:
        outputs: outputs by name, shape ``(1, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes.
    """
    return _decode_anchors(outputs, heads, score_threshold, lambda classes: [sigmoid(t) for t in classes])


def _decode_anchors(
    outputs: Mapping[str, np.ndarray],
    heads: Sequence[YoloHead],
    score_threshold: float,
    probabilities: Callable[[Sequence[float]], Sequence[float]],
) -> list[Found]:
    found = []
    for head in heads:
        raw = outputs[head.output][0].astype(np.float64)
        rows, columns = raw.shape[1:]
        per_anchor = raw.shape[0] // len(head.anchors)
        for a, (anchor_width, anchor_height) in enumerate(head.anchors):
            for row in range(rows):
                for column in range(columns):
                    t = raw[a * per_anchor : (a + 1) * per_anchor, row, column].tolist()
                    x = (sigmoid(t[0]) + column) * head.stride
                    y = (sigmoid(t[1]) + row) * head.stride
                    width = anchor_width * math.exp(min(t[2], MAX_EXPONENT))
                    height = anchor_height * math.exp(min(t[3], MAX_EXPONENT))
                    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    for c, probability in enumerate(probabilities(t[5:])):
                        score = sigmoid(t[4]) * probability
                        if score > score_threshold:
                            found.append((box, score, c))
    return found
