"""Reference decoding of detector heads, one cell at a time in float64: simple but slow, to test `yolo` against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.kernels.decode.limits import MAX_EXPONENT, MAX_ROOT
from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    YoloHead,
    YoloV5,
    YoloV8,
    YoloX,
)

__all__ = [
    "decode_batched_rows",
    "decode_boxes_scores_labels",
    "decode_detr",
    "decode_efficient_nms",
    "decode_end2end",
    "decode_yolov1",
    "decode_yolov2",
    "decode_yolov3",
    "decode_yolov5",
    "decode_yolov8",
    "decode_yolox",
    "sigmoid",
]

Found = tuple[tuple[float, ...], float, int, int]
"""Corners in px of the input, or center, sides and angle of a rotated box; score; class; index of the cell."""


def sigmoid(x: float) -> float:
    """Computes ``1 / (1 + exp(-x))`` for any ``x`` without overflow."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softmax(x: Sequence[float]) -> list[float]:
    """Computes ``exp(x[i]) / sum_j exp(x[j])`` for any ``x`` without overflow."""
    largest = max(x)
    powers = [math.exp(each - largest) for each in x]
    return [power / sum(powers) for power in powers]


def decode_yolov1(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, multi_label: bool = True
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
        multi_label: otherwise only the class of a box with the largest raw value may be a candidate.

    Returns:
        Candidates in the order heads, boxes, rows, columns, classes.
    """
    found: list[Found] = []
    index = -1
    for head in heads:
        raw = outputs[head.output][0].astype(np.float64)
        channels, rows, columns = raw.shape
        classes = channels - 5 * head.boxes
        for b in range(head.boxes):
            for row in range(rows):
                for column in range(columns):
                    index += 1
                    cell = raw[:, row, column].tolist()
                    t = cell[classes + head.boxes + 4 * b :][:4]
                    x, y = (t[0] + column) * head.stride, (t[1] + row) * head.stride
                    root_w, root_h = (min(max(root, -MAX_ROOT), MAX_ROOT) for root in t[2:])
                    width, height = root_w**2 * columns * head.stride, root_h**2 * rows * head.stride
                    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    for c in _chosen(cell[:classes], multi_label):
                        score = cell[classes + b] * cell[c]
                        if score > score_threshold:
                            found.append((box, score, c, index))
    return found


def decode_yolov2(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, multi_label: bool = True
) -> list[Found]:
    """Decodes the raw outputs of YOLOv2 (Redmon and Farhadi 2017, section 2), in float64.

    Boxes and objectness are the same as in `decode_yolov3`, but the classes of a box share one softmax::

        score of class c = sigmoid(objectness) * exp(class c) / sum over all classes k of exp(class k)

    Args:
        outputs: outputs by name, shape ``(1, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned.
        multi_label: otherwise only the class of a box with the largest raw value may be a candidate.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes.
    """
    return _decode_anchors(outputs, heads, score_threshold, multi_label, softmax)


def decode_yolov3(
    outputs: Mapping[str, np.ndarray], heads: Sequence[YoloHead], *, score_threshold: float, multi_label: bool = True
) -> list[Found]:
    """Decodes the raw outputs of YOLOv3 (Redmon and Farhadi 2018, section 2.1), in float64.

    With the raw values ``t`` of a cell in column ``cx`` and row ``cy``, and an anchor of ``pw`` by ``ph`` px::

        bx = (sigmoid(tx) + cx) * stride        bw = pw * exp(tw)
        by = (sigmoid(ty) + cy) * stride        bh = ph * exp(th)
        score of class c = sigmoid(objectness) * sigmoid(class c)

    With ``scale_xy`` k, an offset is ``k * sigmoid(t) - (k - 1) / 2``. With ``new_coords``, the model has computed the
    sigmoids already, and with the values ``p``::

        bx = (k * px - (k - 1) / 2 + cx) * stride        bw = pw * (2 * p_w) ** 2
        by = (k * py - (k - 1) / 2 + cy) * stride        bh = ph * (2 * p_h) ** 2
        score of class c = p_objectness * p_c

    Both are those of ``get_yolo_box`` in ``yolo_layer.c`` of AlexeyAB's Darknet. Every class whose score is greater
    than the threshold is a candidate, as in Darknet's ``get_yolo_detections``.
    Exponents are clipped to 16, nine million anchors, and roots to 1000, so that areas stay finite in float32.

    Args:
        outputs: outputs by name, shape ``(1, anchors * (5 + classes), h, w)``.
        heads: the outputs' names, strides and anchors.
        score_threshold: only candidates with a greater score are returned.
        multi_label: otherwise only the class of a box with the largest raw value may be a candidate.

    Returns:
        Candidates in the order heads, anchors, rows, columns, classes.
    """
    return _decode_anchors(outputs, heads, score_threshold, multi_label, lambda classes: [sigmoid(t) for t in classes])


def _decode_anchors(
    outputs: Mapping[str, np.ndarray],
    heads: Sequence[YoloHead],
    score_threshold: float,
    multi_label: bool,
    probabilities: Callable[[Sequence[float]], Sequence[float]],
) -> list[Found]:
    found: list[Found] = []
    index = -1
    for head in heads:
        raw = outputs[head.output][0].astype(np.float64)
        rows, columns = raw.shape[1:]
        per_anchor = raw.shape[0] // len(head.anchors)
        for a, (anchor_width, anchor_height) in enumerate(head.anchors):
            for row in range(rows):
                for column in range(columns):
                    index += 1
                    t = raw[a * per_anchor : (a + 1) * per_anchor, row, column].tolist()
                    px, py, objectness = t[0], t[1], t[4]
                    if not head.new_coords:
                        px, py, objectness = sigmoid(px), sigmoid(py), sigmoid(objectness)
                    x = (head.scale_xy * px - (head.scale_xy - 1) / 2 + column) * head.stride
                    y = (head.scale_xy * py - (head.scale_xy - 1) / 2 + row) * head.stride
                    width = anchor_width * _side(t[2], head)
                    height = anchor_height * _side(t[3], head)
                    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    chances = t[5:] if head.new_coords else probabilities(t[5:])
                    for c in _chosen(t[5:], multi_label):
                        score = objectness * chances[c]
                        if score > score_threshold:
                            found.append((box, score, c, index))
    return found


def _side(t: float, head: YoloHead) -> float:
    """Computes a side of a box, in anchors."""
    if head.new_coords:
        return (2 * min(max(t, -MAX_ROOT), MAX_ROOT)) ** 2
    return math.exp(min(t, MAX_EXPONENT))


def decode_yolov8(output: np.ndarray, head: YoloV8, *, score_threshold: float) -> list[Found]:
    """Decodes the output of YOLOv8 and later (Ultralytics ``Detect``, ``Segment``, ``Pose``, ``OBB``), in float64.

    A cell has ``cx, cy, w, h`` in px, a score for each class, and extras. The model has decoded the boxes already.
    With ``angle``, a box is rotated, and its angle is the last extra.

    Args:
        output: shape ``(1, 4 + classes + extras, cells)``, or ``(1, cells, 4 + classes + extras)`` if the layout is
            ``channels-last``.
        head: the parameters.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order cells, classes.
    """
    rows = output[0].T if head.layout == "channels-first" else output[0]
    found: list[Found] = []
    for cell, row in enumerate(rows.astype(np.float64).tolist()):
        box = (*row[:4], row[-1]) if head.angle else _corners(*row[:4])
        raw = row[4 : len(row) - head.extras]
        scores = [_activated(value, head.activation) for value in raw]
        found += [(box, scores[c], c, cell) for c in _chosen(raw, head.multi_label) if scores[c] > score_threshold]
    return found


def decode_yolov5(output: np.ndarray, head: YoloV5, *, score_threshold: float) -> list[Found]:
    """Decodes the output of YOLOv5 and v7 (Ultralytics YOLOv5, ``non_max_suppression``), in float64.

    A cell has ``cx, cy, w, h`` in px, objectness, a probability for each class, and extras. The score of a class is
    objectness times probability. A cell counts only if its objectness passes the threshold too.

    Args:
        output: shape ``(1, cells, 5 + classes + extras)``.
        head: the parameters.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order cells, classes.
    """
    found: list[Found] = []
    for cell, row in enumerate(output[0].astype(np.float64).tolist()):
        raw = row[5 : len(row) - head.extras]
        found += _with_objectness(_corners(*row[:4]), row[4], raw, cell, head, score_threshold)
    return found


def decode_yolox(
    output: np.ndarray, head: YoloX, input_size: tuple[int, int], *, score_threshold: float
) -> list[Found]:
    """Decodes the output of YOLOX (Ge et al. 2021, arXiv:2107.08430; ``demo_postprocess`` of its code), in float64.

    A cell has ``x, y, w, h``, objectness and a probability for each class. For each stride there is a grid of cells,
    row by row. If the model has not decoded the boxes, a cell in column ``gx`` and row ``gy`` has::

        cx = (x + gx) * stride        width = exp(w) * stride
        cy = (y + gy) * stride        height = exp(h) * stride

    Args:
        output: shape ``(1, cells, 5 + classes)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order cells, classes.
    """
    places = [
        (column, row, stride)
        for stride in head.strides
        for row in range(input_size[1] // stride)
        for column in range(input_size[0] // stride)
    ]
    found: list[Found] = []
    for cell, row in enumerate(output[0].astype(np.float64).tolist()):
        x, y, width, height = row[:4]
        if not head.decoded:
            grid_x, grid_y, stride = places[cell]
            x, y = (x + grid_x) * stride, (y + grid_y) * stride
            width, height = (math.exp(side) * stride if side < 700 else math.inf for side in (width, height))
        found += _with_objectness(_corners(x, y, width, height), row[4], row[5:], cell, head, score_threshold)
    return found


def decode_end2end(
    output: np.ndarray, head: End2End, input_size: tuple[int, int], *, score_threshold: float
) -> list[Found]:
    """Decodes the output of YOLOv10 and of YOLO26 (Ultralytics, ``end2end``), in float64.

    A row has ``x1, y1, x2, y2`` in px, score, class, and extras; with ``angle``, ``cx, cy, w, h`` instead of corners,
    and the angle as the last extra. A row whose class is negative or no number is padding. RT-DETR's rows have
    ``cx, cy, w, h`` as fractions of the input's size.

    Args:
        output: shape ``(1, boxes, 6 + extras)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order of the rows.
    """
    found: list[Found] = []
    for cell, row in enumerate(output[0].astype(np.float64).tolist()):
        if row[4] > score_threshold and 0 <= row[5] < 2**24:
            if head.coordinates == "centers":
                width, height = input_size
                row[:4] = _corners(row[0] * width, row[1] * height, row[2] * width, row[3] * height)
            box = (*row[:4], row[-1]) if head.angle else tuple(row[:4])
            found.append((box, row[4], int(row[5]), cell))
    return found


def decode_detr(
    boxes: np.ndarray,
    logits: np.ndarray,
    head: Detr,
    input_size: tuple[int, int],
    *,
    score_threshold: float,
) -> list[Found]:
    """Decodes the outputs of DETR (Carion et al. 2020, arXiv:2005.12872) and its successors, in float64.

    A query has ``cx, cy, w, h`` as fractions of the input's size, and a value for each slot. A slot is a class, or the
    background. A softmax (DETR) is taken over all slots, a sigmoid (Deformable DETR, RT-DETR) of each.

    Args:
        boxes: shape ``(1, queries, 4)``.
        logits: shape ``(1, queries, slots)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order queries, classes.
    """
    found: list[Found] = []
    width, height = input_size
    rows = zip(boxes[0].astype(np.float64).tolist(), logits[0].astype(np.float64).tolist(), strict=True)
    for query, ((x, y, w, h), raw) in enumerate(rows):
        if head.activation == "softmax":
            probabilities = softmax(raw)
        else:
            probabilities = [_activated(value, head.activation) for value in raw]
        kept = slice(head.background == "first", len(raw) - (head.background == "last"))
        raw, scores = raw[kept], probabilities[kept]
        box = _corners(x * width, y * height, w * width, h * height)
        found += [(box, scores[c], c, query) for c in _chosen(raw, head.multi_label) if scores[c] > score_threshold]
    return found


def decode_boxes_scores_labels(
    outputs: Mapping[str, np.ndarray], head: BoxesScoresLabels, input_size: tuple[int, int], *, score_threshold: float
) -> list[Found]:
    """Reads detections that have an output for boxes, one for scores and one for labels, in float64.

    Boxes are corners in px of the input, or fractions of its sides. With a background, class ``c`` has the label
    ``c + 1``, as in torchvision's detectors.

    Args:
        outputs: outputs by name; shapes ``(1, boxes, 4)`` and ``(1, boxes)``, or without the batch.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order of the boxes.
    """
    boxes = outputs[head.boxes].reshape(-1, 4).astype(np.float64).tolist()
    scores = outputs[head.scores].reshape(-1).astype(np.float64).tolist()
    labels = outputs[head.labels].reshape(-1).astype(np.float64).tolist()
    factors = (*input_size, *input_size) if head.coordinates == "normalized" else (1, 1, 1, 1)
    found: list[Found] = []
    for cell, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
        kind = int(label) - head.background
        if score > score_threshold and kind >= 0:
            found.append((tuple(side * factor for side, factor in zip(box, factors, strict=True)), score, kind, cell))
    return found


def decode_efficient_nms(
    outputs: Mapping[str, np.ndarray], head: EfficientNms, input_size: tuple[int, int], *, score_threshold: float
) -> list[Found]:
    """Reads the outputs of TensorRT's ``EfficientNMS_TRT`` (its README), in float64.

    Only the first ``count`` rows are detections; the others are padding.

    Args:
        outputs: outputs by name; shapes ``(1, 1)``, ``(1, boxes, 4)``, ``(1, boxes)`` and ``(1, boxes)``.
        head: the parameters.
        input_size: width and height of the input in px.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order of the boxes.
    """
    count = int(outputs[head.count].reshape(-1)[0])
    named = BoxesScoresLabels(boxes=head.boxes, scores=head.scores, labels=head.classes, coordinates=head.coordinates)
    first = {name: outputs[name][:, :count] for name in (head.boxes, head.scores, head.classes)}
    return decode_boxes_scores_labels(first, named, input_size, score_threshold=score_threshold)


def decode_batched_rows(output: np.ndarray, head: BatchedRows, *, index: int, score_threshold: float) -> list[Found]:
    """Reads rows of detections of all images, in float64.

    YOLOv7's export with suppression has ``batch, x1, y1, x2, y2, class, score``; PaddleDetection's, for one image,
    ``class, score, x1, y1, x2, y2``, with class -1 for no detection.

    Args:
        output: shape ``(rows, 7)``, or ``(rows, 6)`` of Paddle.
        head: the parameters.
        index: index of the image in the batch.
        score_threshold: only candidates with a greater score are returned.

    Returns:
        Candidates in the order of the rows.
    """
    found: list[Found] = []
    for cell, row in enumerate(output.astype(np.float64).tolist()):
        if head.columns == "yolov7":
            image, *box, kind, score = row
        else:
            image, (kind, score, *box) = index, row
        if image == index and score > score_threshold and 0 <= kind < 2**24:
            found.append((tuple(box), score, int(kind), cell))
    return found


def _with_objectness(
    box: tuple[float, ...], objectness: float, raw: Sequence[float], cell: int, head: YoloV5 | YoloX, threshold: float
) -> list[Found]:
    sure = _activated(objectness, head.activation)
    if not sure > threshold:
        return []
    scores = [sure * _activated(value, head.activation) for value in raw]
    return [(box, scores[c], c, cell) for c in _chosen(raw, head.multi_label) if scores[c] > threshold]


def _corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _activated(value: float, activation: str) -> float:
    return sigmoid(value) if activation == "sigmoid" else value


def _chosen(raw: Sequence[float], multi_label: bool) -> list[int]:
    """Returns the classes that may be candidates: all, or the first one with the largest value; NaN is none."""
    classes = [c for c, value in enumerate(raw) if not math.isnan(value)]
    if multi_label or not classes:
        return classes
    return [max(classes, key=lambda c: (raw[c], -c))]
