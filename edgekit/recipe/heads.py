"""Detector heads: one struct per family, with the parameters in which models of that family differ.

The family is the tag of a struct, ``{"family": "yolov8", ...}``. Numbers of classes are not stored: they follow from
the shapes of the outputs, see `edgekit.kernels.decode.layout`. `edgekit.kernels.decode.reference` has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec

from edgekit.recipe.messages import expect

__all__ = [
    "Activation",
    "BatchedRows",
    "BoxesScoresLabels",
    "CellHeads",
    "Detr",
    "EfficientNms",
    "FAMILIES",
    "End2End",
    "Head",
    "Overlap",
    "Suppression",
    "YoloV1",
    "YoloV2",
    "YoloV3",
    "YoloV5",
    "YoloV8",
    "YoloX",
    "box_outputs",
    "outputs_of",
    "DETECTOR_TASKS",
    "task_of_head",
    "with_multi_label",
    "YoloHead",
]

Text = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**16)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**16)]

Overlap = Literal["rotated", "probiou"]
"""Overlap of rotated boxes: the exact intersection over union, or that of Gaussians (arXiv:2106.06072)."""

Suppression = Literal["greedy", "fast"]
"""Which better boxes a rotated box is dropped for: those that are kept; or any, as in Fast NMS (arXiv:1904.02689)."""

Activation = Literal["none", "sigmoid"]
"""What the decoder still applies to scores: ``none`` if the model's outputs are probabilities already."""


class YoloHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One output of a YOLO model.

    The raw output has shape ``(N, anchors * (5 + classes), H / stride, W / stride)``. YOLOv1 has no anchors: its output
    has shape ``(N, classes + 5 * boxes, H / stride, W / stride)``.

    Attributes:
        output: name of the graph output.
        stride: side of a cell in input px.
        anchors: width and height of each anchor in input px; none for ``yolov1``.
        boxes: boxes per cell of ``yolov1``; 0 for the others, which predict one box per anchor.
        scale_xy: factor of offsets around the middle of the cell, Darknet's ``scale_x_y``; for ``yolov3``.
        new_coords: the values are probabilities and need no sigmoid, and sides are ``anchor * (2 t) ** 2`` instead of
            ``anchor * exp(t)``, as in Scaled-YOLOv4 and in Darknet's YOLOv7; for ``yolov3``.
    """

    output: Text
    stride: Positive
    anchors: tuple[tuple[float, float], ...] = ()
    boxes: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 0
    scale_xy: Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] = 1.0
    new_coords: bool = False

    def __post_init__(self) -> None:
        for i, anchor in enumerate(self.anchors):
            expect(
                all(0 < side < math.inf for side in anchor), f"anchors[{i}]", "a width and a height > 0", list(anchor)
            )


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="family"):
    pass


class _Cells(_Head, frozen=True, kw_only=True):
    heads: Annotated[tuple[YoloHead, ...], msgspec.Meta(min_length=1)]
    multi_label: bool = False


class YoloV1(_Cells, frozen=True, kw_only=True, tag="yolov1"):
    """YOLOv1: cells with class probabilities, confidences and boxes, from a linear layer.

    Offsets, square roots of sides, confidence and the class probabilities of the cell have no activation (Redmon et al.
    2016, section 2).

    Attributes:
        heads: the outputs.
        multi_label: every class whose score passes is a candidate, as in Darknet; otherwise only the best one of a box.
    """

    def __post_init__(self) -> None:
        for i, head in enumerate(self.heads):
            expect(not head.anchors, f"heads[{i}].anchors", "none, since family is 'yolov1'", list(head.anchors))
            expect(head.boxes > 0, f"heads[{i}].boxes", "a number > 0, since family is 'yolov1'", head.boxes)
        _check_plain(self.heads, "yolov1")


class YoloV2(_Cells, frozen=True, kw_only=True, tag="yolov2"):
    """YOLOv2: anchors, objectness times a softmax over the classes (Redmon and Farhadi 2017, section 2).

    Attributes:
        heads: the outputs.
        multi_label: every class whose score passes is a candidate, as in Darknet; otherwise only the best one of a box.
    """

    def __post_init__(self) -> None:
        _check_anchors(self.heads, "yolov2")
        _check_plain(self.heads, "yolov2")


class YoloV3(_Cells, frozen=True, kw_only=True, tag="yolov3"):
    """YOLOv3, and Darknet's v4 and v7: anchors, objectness times the sigmoid of each class.

    Redmon and Farhadi 2018, section 2; Bochkovskiy et al. 2020, section 3.4, for ``scale_xy``.

    Attributes:
        heads: the outputs, coarse to fine.
        multi_label: every class whose score passes is a candidate, as in Darknet; otherwise only the best one of a box.
        diou_beta: exponent of the distance term of DIoU suppression, Darknet's ``beta_nms`` with ``nms_kind=diounms``;
            0 suppresses by intersection over union alone.
    """

    diou_beta: Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] = 0.0

    def __post_init__(self) -> None:
        _check_anchors(self.heads, "yolov3")


class _Row(_Head, frozen=True, kw_only=True):
    output: Text
    extras: Count = 0
    masks: str = ""
    keypoints: tuple[Count, Literal[0, 2, 3]] = (0, 0)

    def __post_init__(self) -> None:
        wanted = math.prod(self.keypoints) + bool(self.masks)
        expect(self.extras >= wanted, "extras", f"{wanted} or more, for what the other fields name", self.extras)


CellHeads: TypeAlias = YoloV1 | YoloV2 | YoloV3
"""Heads whose values are cells of feature maps, an output each."""


class YoloV5(_Row, frozen=True, kw_only=True, tag="yolov5"):
    """YOLOv5 and v7, decoded by the model: ``(N, cells, 5 + classes + extras)``.

    Attributes:
        output: name of the output.
        extras: number of values of a cell after its classes: key points, then mask coefficients.
        masks: name of the output with the prototypes of masks, ``(N, coefficients, h, w)``; empty if there is none.
        keypoints: number of key points, and of values of each one: x and y in px, and a visibility; 0 if there is none.
        activation: what is still to be applied to objectness and classes.
        multi_label: every class whose score passes is a candidate; otherwise only the best one of a box.
    """

    activation: Activation = "none"
    multi_label: bool = False


class YoloV8(_Row, frozen=True, kw_only=True, tag="yolov8"):
    """YOLOv8, v9, 11, 12: ``(N, 4 + classes + extras, cells)``, boxes in px, no objectness.

    Attributes:
        output: name of the output.
        layout: ``channels-first`` is ``(N, 4 + classes + extras, cells)``; ``channels-last`` has the cells before.
        extras: number of values of a cell after its classes: mask coefficients, key points or the angle.
        masks: name of the output with the prototypes of masks, ``(N, coefficients, h, w)``; empty if there is none.
        keypoints: number of key points, and of values of each one: x and y in px, and a visibility; 0 if there is none.
        angle: the last extra is the box's angle in radians, so boxes are rotated.
        overlap: how much two rotated boxes overlap.
        suppression: which boxes a rotated one is dropped for; ``fast`` in Ultralytics.
        activation: what is still to be applied to the classes.
        multi_label: every class whose score passes is a candidate; otherwise only the best one of a box.
    """

    layout: Literal["channels-first", "channels-last"] = "channels-first"
    angle: bool = False
    overlap: Overlap = "rotated"
    suppression: Suppression = "greedy"
    activation: Activation = "none"
    multi_label: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_angle(self.angle, self.extras)


class YoloX(_Head, frozen=True, kw_only=True, tag="yolox"):
    """YOLOX: ``(N, cells, 5 + classes)``, the cells of each stride row by row.

    Attributes:
        output: name of the output.
        strides: sides of a cell in px, in the order of the cells.
        decoded: boxes are in px; otherwise they are relative to their cells.
        activation: what is still to be applied to objectness and classes.
        multi_label: every class whose score passes is a candidate; otherwise only the best one of a box.
    """

    output: Text
    strides: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (8, 16, 32)
    decoded: bool = False
    activation: Activation = "none"
    multi_label: bool = False


class End2End(_Row, frozen=True, kw_only=True, tag="end2end"):
    """YOLOv10, YOLO26, RT-DETR: ``(N, boxes, 6 + extras)``: x1 y1 x2 y2 score class; without suppression.

    Attributes:
        output: name of the output.
        extras: number of values of a row after the class: mask coefficients, key points or the angle.
        masks: name of the output with the prototypes of masks, ``(N, coefficients, h, w)``; empty if there is none.
        keypoints: number of key points, and of values of each one: x and y in px, and a visibility; 0 if there is none.
        angle: the last extra is the box's angle in radians; a box is then center x, center y, width, height.
        coordinates: ``corners`` in px of the input; ``centers``, center x, center y, width and height, in 0..1 of its
            sides, as in Ultralytics' RT-DETR.
    """

    angle: bool = False
    coordinates: Literal["corners", "centers"] = "corners"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_angle(self.angle, self.extras)
        corners = self.coordinates == "corners"
        expect(corners or not self.angle, "coordinates", "corners, since the boxes have angles", self.coordinates)


class Detr(_Head, frozen=True, kw_only=True, tag="detr"):
    """DETR, RT-DETR, D-FINE, RF-DETR: queries with center x, center y, width, height in 0..1; without suppression.

    Attributes:
        boxes: name of the output ``(N, queries, 4)``, or of ``(N, queries, 4 + slots)`` if there is no other.
        logits: name of the output ``(N, queries, slots)``; empty if its values follow the boxes in the same output.
        activation: what is still to be applied to the slots; a softmax includes the background.
        background: the slot that is no class.
        multi_label: the best pairs of query and class are detected; otherwise only the best class of a query.
    """

    boxes: Text
    logits: str = ""
    activation: Literal["none", "sigmoid", "softmax"] = "sigmoid"
    background: Literal["none", "first", "last"] = "none"
    multi_label: bool = False


class BoxesScoresLabels(_Head, frozen=True, kw_only=True, tag="boxes-scores-labels"):
    """Detections in an output each, as torchvision's and RT-DETR's exports have them; without suppression.

    Attributes:
        boxes: name of the output ``(N, boxes, 4)`` or ``(boxes, 4)``: x1 y1 x2 y2.
        scores: name of the output ``(N, boxes)`` or ``(boxes,)``.
        labels: name of the output ``(N, boxes)`` or ``(boxes,)``: the classes.
        coordinates: ``px`` of the input; ``normalized`` to 0..1 of its sides.
        background: class 0 is the background, so that the classes begin at 1.
    """

    boxes: Text
    scores: Text
    labels: Text
    coordinates: Literal["px", "normalized"] = "px"
    background: bool = False


class EfficientNms(_Head, frozen=True, kw_only=True, tag="efficient-nms"):
    """The outputs of TensorRT's ``EfficientNMS_TRT``, and of exporters that follow it.

    Attributes:
        count: name of the output ``(N, 1)`` or ``(N,)``: number of detections.
        boxes: name of the output ``(N, boxes, 4)``: x1 y1 x2 y2 in px of the input.
        scores: name of the output ``(N, boxes)``.
        classes: name of the output ``(N, boxes)``.
        coordinates: ``px`` of the input; ``normalized`` to 0..1 of its sides.
    """

    count: Text
    boxes: Text
    scores: Text
    classes: Text
    coordinates: Literal["px", "normalized"] = "px"


class BatchedRows(_Head, frozen=True, kw_only=True, tag="batched-rows"):
    """A row for each detection of all images, as exports of YOLOv7 and Paddle have them; without suppression.

    Attributes:
        output: name of the output.
        columns: ``yolov7``: batch, x1 y1 x2 y2 in px of the input, class, score. ``paddle``: class, score, x1 y1 x2 y2.
    """

    output: Text
    columns: Literal["yolov7", "paddle"] = "yolov7"


Head: TypeAlias = (
    YoloV1 | YoloV2 | YoloV3 | YoloV5 | YoloV8 | YoloX | End2End | Detr | BoxesScoresLabels | EfficientNms | BatchedRows
)


FAMILIES: tuple[str, ...] = tuple(str(each.__struct_config__.tag) for each in get_args(Head))
"""Names of all families."""


def box_outputs(head: Head) -> tuple[str, ...]:
    """Returns the names of the outputs that boxes, scores and classes are decoded from."""
    if isinstance(head, _Cells):
        return tuple(each.output for each in head.heads)
    if isinstance(head, Detr):
        return (head.boxes, head.logits) if head.logits else (head.boxes,)
    if isinstance(head, BoxesScoresLabels):
        return head.boxes, head.scores, head.labels
    if isinstance(head, EfficientNms):
        return head.count, head.boxes, head.scores, head.classes
    return (head.output,)


def outputs_of(head: Head) -> tuple[str, ...]:
    """Returns the names of all outputs that a head reads."""
    own = box_outputs(head)
    return (*own, head.masks) if isinstance(head, _Row) and head.masks else own


DETECTOR_TASKS = ("detect", "segment", "pose", "obb")
"""Tasks whose models have a head."""


def task_of_head(head: Head) -> Literal["detect", "segment", "pose", "obb"]:
    """Returns the task of a detector with this head."""
    if isinstance(head, _Row) and head.masks:
        return "segment"
    if isinstance(head, _Row) and head.keypoints[0]:
        return "pose"
    return "obb" if isinstance(head, YoloV8 | End2End) and head.angle else "detect"


def with_multi_label(head: Head, multi_label: bool | None) -> Head:
    """Returns the head with every class of a box as a candidate, or only the best one; as it was if None.

    Families whose rows have one class stay as they are.
    """
    if multi_label is None or not hasattr(head, "multi_label"):
        return head
    return msgspec.structs.replace(head, multi_label=multi_label)


def _check_anchors(heads: Sequence[YoloHead], family: str) -> None:
    count, because = len(heads[0].anchors), f"since family is '{family}'"
    for i, head in enumerate(heads):
        expect(bool(head.anchors), f"heads[{i}].anchors", f"at least one anchor, {because}", list(head.anchors))
        expect(head.boxes == 0, f"heads[{i}].boxes", f"none, {because}", head.boxes)
        expect(
            len(head.anchors) == count,
            f"heads[{i}].anchors",
            f"{count} anchors, the same number as heads[0]",
            len(head.anchors),
        )


def _check_plain(heads: Sequence[YoloHead], family: str) -> None:
    for i, head in enumerate(heads):
        expect(head.scale_xy == 1, f"heads[{i}].scale_xy", f"1, since family is '{family}'", head.scale_xy)
        expect(not head.new_coords, f"heads[{i}].new_coords", f"false, since family is '{family}'", head.new_coords)


def _check_angle(angle: bool, extras: int) -> None:
    if angle:
        expect(extras > 0, "extras", "1 or more, since the last one is the angle", extras)
