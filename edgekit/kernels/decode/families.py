"""Raw outputs of any head to detections, in numpy: the same results as `edgekit.kernels.decode.device`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.kernels.decode.candidates import Candidates, best_candidates
from edgekit.kernels.decode.detr import decode_detr
from edgekit.kernels.decode.end2end import decode_end2end
from edgekit.kernels.decode.layout import layout
from edgekit.kernels.decode.rows import decode_rows
from edgekit.kernels.decode.yolo import decode_yolov1, decode_yolov2, decode_yolov3
from edgekit.kernels.decode.yolov5 import decode_yolov5
from edgekit.kernels.decode.yolov8 import decode_yolov8
from edgekit.kernels.decode.yolox import decode_yolox
from edgekit.kernels.suppression.suppress import Overlap, check_thresholds, nms
from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    Head,
    YoloV1,
    YoloV2,
    YoloV3,
    YoloV5,
    YoloV8,
    YoloX,
    box_outputs,
)

__all__ = ["DETECTION", "decode", "detect", "is_fast", "is_rotated", "keeps_angle", "overlap_of"]

DETECTION = np.dtype(
    [
        ("box", np.float32, 4),
        ("score", np.float32),
        ("class", np.int32),
        ("index", np.int32),
        ("angle", np.float32),
    ]
)
"""One detection.

``box`` has the corners ``(x1, y1, x2, y2)`` in px of the image, clipped to it; or, for rotated boxes, center x, center
y, width and height, with ``angle`` in radians. ``index`` says which of the boxes that the model predicts it is, for
mask coefficients and key points.
"""

# The scales of a letterbox differ by less, if only the rounding of its sizes makes them differ.
_ROUNDING = 0.01


def is_rotated(head: Head) -> bool:
    """Whether boxes have an angle."""
    return isinstance(head, YoloV8 | End2End) and head.angle


def is_fast(head: Head) -> bool:
    """Whether rotated boxes are dropped for any better one that they overlap, kept or not."""
    return isinstance(head, YoloV8) and head.angle and head.suppression == "fast"


def keeps_angle(head: Head, scale: tuple[float, float]) -> bool:
    """Whether rotated boxes are mapped to an image without turning them.

    Ultralytics does so. It is wrong for an image that is stretched, but the sides of a letterbox are only rounded.

    Args:
        head: the head; Ultralytics' are those with fast suppression, and those without suppression.
        scale: input px per image px, ``(x, y)``.
    """
    own = is_fast(head) or (isinstance(head, End2End) and head.angle)
    return own and abs(scale[0] / scale[1] - 1) < _ROUNDING


def overlap_of(head: Head) -> Overlap | None:
    """Returns how overlaps of a head's boxes are measured; None if its boxes are not suppressed."""
    if isinstance(head, End2End | Detr | BoxesScoresLabels | EfficientNms | BatchedRows):
        return None
    return head.overlap if isinstance(head, YoloV8) and head.angle else "corners"


def decode(
    outputs: Mapping[str, np.ndarray],
    head: Head,
    *,
    input_size: tuple[int, int],
    score_threshold: float,
    index: int = 0,
) -> Candidates:
    """Decodes the outputs of one image.

    Args:
        outputs: outputs by name; float32, or float16, which is widened first.
        head: the family and its parameters.
        input_size: width and height of the model's input in px.
        score_threshold: only candidates with a greater score are returned; 0 to 1.
        index: index of the image in the batch.

    Returns:
        Candidates in the order of the model's boxes, then of the classes.

    Raises:
        RunError: an output is missing or does not fit the head.
    """
    layout(head, {name: array.shape for name, array in outputs.items()})
    if isinstance(head, BoxesScoresLabels | EfficientNms | BatchedRows):
        return decode_rows(outputs, head, input_size=input_size, score_threshold=score_threshold, index=index)
    own = {name: outputs[name][index].astype(np.float32, copy=False) for name in box_outputs(head)}
    if isinstance(head, YoloV1 | YoloV2 | YoloV3):
        decoder = {YoloV1: decode_yolov1, YoloV2: decode_yolov2, YoloV3: decode_yolov3}[type(head)]
        batch = {name: array[None] for name, array in own.items()}
        return decoder(batch, head.heads, score_threshold=score_threshold, multi_label=head.multi_label)
    if isinstance(head, Detr):
        boxes = own[head.boxes]
        logits = own[head.logits] if head.logits else boxes[:, 4:]
        return decode_detr(boxes[:, :4], logits, head, input_size=input_size, score_threshold=score_threshold)
    output = own[head.output]
    if isinstance(head, YoloX):
        return decode_yolox(output, head, input_size=input_size, score_threshold=score_threshold)
    if isinstance(head, YoloV5):
        return decode_yolov5(output, head, score_threshold=score_threshold)
    if isinstance(head, YoloV8):
        return decode_yolov8(output, head, score_threshold=score_threshold)
    return decode_end2end(output, head, input_size=input_size, score_threshold=score_threshold)


def detect(
    outputs: Mapping[str, np.ndarray],
    head: Head,
    *,
    input_size: tuple[int, int],
    scale: tuple[float, float],
    offset: tuple[float, float],
    size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    index: int = 0,
    capacity: int | None = None,
) -> np.ndarray:
    """Decodes the outputs of one image, suppresses overlapping boxes, and maps the others to the image.

    Args:
        outputs: outputs by name; float32 or float16.
        head: the family and its parameters.
        input_size: width and height of the model's input in px.
        scale: input px per image px, ``(x, y)``.
        offset: position of the image's upper left corner in input px, ``(x, y)``.
        size: width and height of the image in px.
        score_threshold: only detections with a greater score are returned; 0 to 1.
        iou_threshold: a box that overlaps a better one of its class by more is dropped; 0 to 1.
        max_detections: maximum number of detections.
        index: index of the image in the batch.
        capacity: only so many of the best candidates are used, as on a GPU; all by default.

    Returns:
        `DETECTION` records, best first, without those outside of the image.

    Raises:
        RunError: an output is missing or does not fit the head.
        UsageError: a threshold is not between 0 and 1, or ``max_detections`` is negative.
    """
    candidates = decode(outputs, head, input_size=input_size, score_threshold=score_threshold, index=index)
    if capacity is not None:
        candidates = best_candidates(candidates, capacity)
    overlap = overlap_of(head)
    if overlap is None:
        check_thresholds(score_threshold, iou_threshold, max_detections)
        finite = np.flatnonzero(np.isfinite(candidates.boxes).all(axis=1))
        kept = finite[np.argsort(-candidates.scores[finite], kind="stable")[:max_detections]]
    else:
        kept = nms(
            candidates.boxes,
            candidates.scores,
            candidates.classes,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            overlap=overlap,
            fast=is_fast(head),
            diou_beta=head.diou_beta if isinstance(head, YoloV3) else 0.0,
        )
    found = np.zeros(len(kept), DETECTION)
    found["score"], found["class"], found["index"] = (each[kept] for each in candidates[1:])
    if is_rotated(head):
        wide = candidates.boxes[kept].astype(np.float64)
        boxes = _rotated_to_image(wide, scale, offset, turned=not keeps_angle(head, scale))
        found["box"], found["angle"] = boxes[:, :4], boxes[:, 4]
        shown = _touches(boxes, size)
    else:
        corners = (candidates.boxes[kept].astype(np.float64).reshape(-1, 2, 2) - offset) / scale
        found["box"] = box = np.clip(corners, 0, size).reshape(-1, 4).astype(np.float32)
        shown = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    visible: np.ndarray = found[shown]
    return visible


def _rotated_to_image(
    boxes: np.ndarray, scale: tuple[float, float], offset: tuple[float, float], *, turned: bool
) -> np.ndarray:
    """Maps centers, and the lengths of the sides; the angle is that of the mapped width.

    Unless it is ``turned``, the width of a box is mapped like x, the height like y, and the angle is kept.
    """
    center = (boxes[:, :2] - offset) / scale
    if not turned:
        return np.column_stack([center, boxes[:, 2:4] / scale, boxes[:, 4]])
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    width = boxes[:, 2] * np.hypot(cos / scale[0], sin / scale[1])
    height = boxes[:, 3] * np.hypot(sin / scale[0], cos / scale[1])
    angle = boxes[:, 4] if scale[0] == scale[1] else np.arctan2(sin / scale[1], cos / scale[0])
    return np.column_stack([center, width, height, angle])


def _touches(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns whether the upright rectangle around a rotated box and the image have an area in common."""
    cos, sin = np.abs(np.cos(boxes[:, 4])), np.abs(np.sin(boxes[:, 4]))
    half = np.column_stack([boxes[:, 2] * cos + boxes[:, 3] * sin, boxes[:, 2] * sin + boxes[:, 3] * cos]) / 2
    inside = (boxes[:, :2] + half > 0) & (boxes[:, :2] - half < size)
    return np.asarray(np.column_stack([inside, boxes[:, 2:4] > 0]).all(axis=1))
