"""Detector heads: one struct per family, with the parameters in which models of that family differ.

The family is the tag of a struct, ``{"family": "yolov8", ...}``. Numbers of classes are not stored: they follow from
the shapes of the outputs, see `edgekit.kernels.decode.layout`. `edgekit.kernels.decode.reference` has the formulas.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from edgekit.recipe.messages import expect
from edgekit.recipe.schema import Postprocess, YoloHead

__all__ = [
    "Activation",
    "Detr",
    "End2End",
    "Head",
    "Overlap",
    "YoloV1",
    "YoloV2",
    "YoloV3",
    "YoloV5",
    "YoloV8",
    "YoloX",
    "head_from_postprocess",
]

Text = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**16)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**16)]

Overlap = Literal["rotated", "probiou"]
"""Overlap of rotated boxes: the exact intersection over union, or that of Gaussians (arXiv:2106.06072)."""

Activation = Literal["none", "sigmoid"]
"""What the decoder still applies to scores: ``none`` if the model's outputs are probabilities already."""


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="family"):
    pass


class _Cells(_Head, frozen=True, kw_only=True):
    heads: Annotated[tuple[YoloHead, ...], msgspec.Meta(min_length=1)]
    multi_label: bool = True


class YoloV1(_Cells, frozen=True, kw_only=True, tag="yolov1"):
    """YOLOv1: cells with class probabilities, confidences and boxes, from a linear layer.

    Attributes:
        heads: the outputs.
        multi_label: every class whose score passes is a candidate, as in Darknet; otherwise only the best one of a box.
    """


class YoloV2(_Cells, frozen=True, kw_only=True, tag="yolov2"):
    """YOLOv2: anchors, objectness times a softmax over the classes.

    Attributes:
        heads: the outputs.
        multi_label: every class whose score passes is a candidate, as in Darknet; otherwise only the best one of a box.
    """


class YoloV3(_Cells, frozen=True, kw_only=True, tag="yolov3"):
    """YOLOv3: anchors, objectness times the sigmoid of each class.

    Attributes:
        heads: the outputs.
        multi_label: every class whose score passes is a candidate, as in Darknet; otherwise only the best one of a box.
    """


class YoloV5(_Head, frozen=True, kw_only=True, tag="yolov5"):
    """YOLOv5 and v7, decoded by the model: ``(N, cells, 5 + classes + extras)``.

    Attributes:
        output: name of the output.
        extras: values of a cell after its classes, such as mask coefficients.
        activation: what is still to be applied to objectness and classes.
        multi_label: every class whose score passes is a candidate; otherwise only the best one of a box.
    """

    output: Text
    extras: Count = 0
    activation: Activation = "none"
    multi_label: bool = False


class YoloV8(_Head, frozen=True, kw_only=True, tag="yolov8"):
    """YOLOv8, v9, 11, 12: ``(N, 4 + classes + extras, cells)``, boxes in px, no objectness.

    Attributes:
        output: name of the output.
        layout: ``channels-first`` is ``(N, 4 + classes + extras, cells)``; ``channels-last`` has the cells before.
        extras: values of a cell after its classes: mask coefficients, key points, the angle.
        angle: the last extra is the box's angle in radians, so boxes are rotated.
        overlap: how much two rotated boxes overlap.
        activation: what is still to be applied to the classes.
        multi_label: every class whose score passes is a candidate; otherwise only the best one of a box.
    """

    output: Text
    layout: Literal["channels-first", "channels-last"] = "channels-first"
    extras: Count = 0
    angle: bool = False
    overlap: Overlap = "rotated"
    activation: Activation = "none"
    multi_label: bool = False

    def __post_init__(self) -> None:
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


class End2End(_Head, frozen=True, kw_only=True, tag="end2end"):
    """YOLOv10 and YOLO26: ``(N, boxes, 6 + extras)``: x1 y1 x2 y2 score class; without suppression.

    Attributes:
        output: name of the output.
        extras: values of a row after the class: mask coefficients, key points, the angle.
        angle: the last extra is the box's angle in radians; a box is then center x, center y, width, height.
    """

    output: Text
    extras: Count = 0
    angle: bool = False

    def __post_init__(self) -> None:
        _check_angle(self.angle, self.extras)


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
    multi_label: bool = True


Head: TypeAlias = YoloV1 | YoloV2 | YoloV3 | YoloV5 | YoloV8 | YoloX | End2End | Detr


def head_from_postprocess(how: Postprocess) -> YoloV1 | YoloV2 | YoloV3:
    """Returns the head of a recipe or manifest, without its thresholds."""
    families: dict[str, type[YoloV1 | YoloV2 | YoloV3]] = {"yolov1": YoloV1, "yolov2": YoloV2, "yolov3": YoloV3}
    return families[how.kind](heads=how.heads)


def _check_angle(angle: bool, extras: int) -> None:
    if angle:
        expect(extras > 0, "extras", "1 or more, since the last one is the angle", extras)
