"""One rule for each family of heads: whether a model's outputs look like it, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    YoloV5,
    YoloV8,
    YoloX,
)
from edgekit.recognition.facts import SLACK, Facts, Output, is_unit, shown
from edgekit.recognition.queries import MAX_ROWS, detr_pair
from edgekit.recognition.verdict import Verdict

__all__ = ["verdicts"]

ANGLES = (-2 * math.pi, 2 * math.pi)
"""Range of angles in radians; those of YOLOv8 are ``(sigmoid - 0.25) * pi``, and YOLO26 has no activation."""
UNDECODED = 20.0
"""Offsets and logarithms of sides are smaller; corners in px are not, as inputs have hundreds of px."""

LETTERBOX = {"resize": "letterbox", "pad": 114, "rounding": "nearest", "antialias": False}
STRETCHED = {"resize": "stretch", "antialias": False}
CORNER = {"resize": "letterbox", "place": "corner", "pad": 114, "antialias": False, "divisor": 1.0, "color": "bgr"}


def verdicts(facts: Facts) -> list[Verdict]:
    """Returns all families that a model's outputs look like, the likeliest first."""
    for rule in NAMED_RULES:
        if found := rule(facts):
            return found
    return [found for rule in RULES for found in rule(facts)]


def _efficient_nms(facts: Facts) -> list[Verdict]:
    count = _named(facts, "num_dets", "num_detections")
    boxes = _named(facts, "det_boxes", "detection_boxes", "nmsed_boxes")
    scores = _named(facts, "det_scores", "detection_scores", "nmsed_scores")
    classes = _named(facts, "det_classes", "detection_classes", "nmsed_classes")
    if count is None or boxes is None or scores is None or classes is None or boxes.value.ndim != 3:
        return []
    normalized = is_unit(boxes.value) and boxes.value.size > 0
    head = EfficientNms(
        count=count.name,
        boxes=boxes.name,
        scores=scores.name,
        classes=classes.name,
        coordinates="normalized" if normalized else "px",
    )
    return [Verdict(head=head, evidence=("the names of its outputs",), preprocess=LETTERBOX, preprocess_of="YOLO's")]


def _boxes_scores_labels(facts: Facts) -> list[Verdict]:
    if len(facts.outputs) < 3:
        return []
    for boxes in facts.outputs:
        rows = boxes.shape[:-1]
        if boxes.value.ndim not in (2, 3) or boxes.shape[-1] != 4:
            continue
        alike = [each for each in facts.outputs if each.shape == rows]
        labels = [each for each in alike if each.value.dtype.kind in "iu"] or [
            each for each in alike if _has(each.name, "label", "class") and not _has(each.name, "score")
        ]
        scores = [each for each in alike if each not in labels and each.value.dtype.kind == "f" and is_unit(each.value)]
        if len(labels) != 1 or len(scores) != 1:
            continue
        normalized = boxes.value.size > 0 and is_unit(boxes.value)
        head = BoxesScoresLabels(
            boxes=boxes.name,
            scores=scores[0].name,
            labels=labels[0].name,
            coordinates="normalized" if normalized else "px",
        )
        evidence = [f"{each.name} {shown(each)}" for each in (boxes, scores[0], labels[0])]
        sized = "orig_target_sizes" in facts.inputs
        return [
            Verdict(
                head=head,
                evidence=(*evidence, *(("an input orig_target_sizes",) if sized else ())),
                preprocess={"resize": "stretch"} if sized else {},
                preprocess_of="RT-DETR's" if sized else "",
            )
        ]
    return []


def _batched_rows(facts: Facts) -> list[Verdict]:
    for output in facts.outputs:
        if len(facts.outputs) > 2 or output.value.ndim != 2 or output.shape[1] not in (6, 7):
            continue
        if not output.selected:
            continue
        columns = "yolov7" if output.shape[1] == 7 else "paddle"
        kinds = output.value[:, 5] if columns == "yolov7" else output.value[:, 0]
        if not np.array_equal(kinds, np.rint(kinds)):
            continue
        head = BatchedRows(output=output.name, columns=columns)  # type: ignore[arg-type]
        evidence = (f"{output.name} (detections, {output.shape[1]})", "its rows are selected by value")
        how: dict[str, Any] = {"preprocess": LETTERBOX, "preprocess_of": "YOLO's"} if columns == "yolov7" else {}
        return [Verdict(head=head, evidence=evidence, **how)]
    return []


def _end2end(facts: Facts) -> list[Verdict]:
    output, masks = _alone(facts)
    if output is None or output.value.ndim != 3 or output.shape[1] > MAX_ROWS or output.shape[2] < 6:
        return []
    rows = output.value[0]
    kinds = rows[:, 5]
    if not (is_unit(rows[:, 4]) and np.array_equal(kinds, np.rint(kinds)) and (kinds >= -1).all()):
        return []
    centers = is_unit(rows[:, :4]) and bool((rows[:, :4] != 0).any())  # boxes in px would be larger
    extras = _extras_of(facts, output.shape[2] - 6, masks, rows[:, 6:].T)
    if extras is None:
        return []
    evidence = [f"{output.name} {shown(output)}", "scores in 0..1, then whole numbers", *extras["evidence"]]
    evidence += [f"metadata task={facts.metadata.task}"] if facts.metadata.task else []
    evidence += ["metadata end2end=True"] if facts.metadata.end2end else []
    if centers:
        head = End2End(output=output.name, coordinates="centers", **extras["fields"])
        evidence.append("boxes in 0..1")
        return [Verdict(head=head, evidence=tuple(evidence), preprocess=STRETCHED, preprocess_of="RT-DETR's")]
    head = End2End(output=output.name, **extras["fields"])
    return [Verdict(head=head, evidence=tuple(evidence), preprocess=LETTERBOX, preprocess_of="Ultralytics'")]


def _detr_joined(facts: Facts) -> list[Verdict]:
    output, masks = _alone(facts)
    if output is None or masks is not None or output.value.ndim != 3 or output.shape[2] < 5:
        return []
    if output.shape[1] > MAX_ROWS or facts.strides(output.shape[1]) or not is_unit(output.value):
        return []
    rows = output.value[0]
    # The rows of a text recognizer are probabilities too, that add up to 1.
    if np.abs(rows.sum(axis=1) - 1).max() < SLACK:
        return []
    head = Detr(boxes=output.name, activation="none", multi_label=False)
    evidence = (f"{output.name} {shown(output)}", "boxes and scores in 0..1")
    sure = output.parts[:1] == ((0, 4),) or _names_fit(facts, rows.shape[1] - 4)
    return [Verdict(head=head, evidence=evidence, preprocess=STRETCHED, preprocess_of="RT-DETR's", sure=sure)]


def _yolov8(facts: Facts) -> list[Verdict]:
    output, masks = _alone(facts)
    if output is None or output.value.ndim != 3:
        return []
    found = []
    for layout, cells, channels in (("channels-first", 2, 1), ("channels-last", 1, 2)):
        strides = facts.strides(output.shape[cells])
        if not strides or output.shape[channels] < 5:
            continue
        rows = output.value[0] if layout == "channels-first" else output.value[0].T
        if not _are_pixels(rows[:4], facts):
            continue
        if layout == "channels-last" and _has_objectness(facts, output):
            continue
        extras = _extras_behind_scores(facts, output, rows, masks, channels)
        if extras is None:
            continue
        scores = rows[4 : len(rows) - extras["fields"].get("extras", 0)]
        activation = "none" if is_unit(scores) else "sigmoid"
        evidence = [
            f"{output.name} {shown(output)} = {_grids(facts, strides)} cells",
            "boxes in px",
            "scores in 0..1" if activation == "none" else "scores before a sigmoid",
            *extras["evidence"],
        ]
        evidence += [f"metadata task={facts.metadata.task}"] if facts.metadata.task else []
        # Without a Concat of boxes and scores in sight, a row might begin with five numbers.
        sure = layout == "channels-first" or bool(output.parts) or _names_fit(facts, len(scores))
        found.append(
            Verdict(
                head=YoloV8(
                    output=output.name,
                    layout=layout,  # type: ignore[arg-type]
                    activation=activation,  # type: ignore[arg-type]
                    overlap="probiou",
                    suppression="fast" if extras["fields"].get("angle") else "greedy",
                    **extras["fields"],
                ),
                evidence=tuple(evidence),
                preprocess=LETTERBOX,
                preprocess_of="Ultralytics'",
                sure=sure,
            )
        )
    return found[:1]


def _yolov5(facts: Facts) -> list[Verdict]:
    output, masks = _alone(facts)
    if output is None or output.value.ndim != 3 or output.shape[2] < 6:
        return []
    for anchors in (3, 4):
        strides = facts.strides(output.shape[1], anchors)
        if strides and not facts.strides(output.shape[1]):
            break
    else:
        return []
    rows = output.value[0].T
    if not _are_pixels(rows[:4], facts) or not is_unit(rows[4]):
        return []
    extras = _extras_behind_scores(facts, output, rows, masks, 2, first=5)
    if extras is None:
        return []
    scores = rows[5 : len(rows) - extras["fields"].get("extras", 0)]
    if not is_unit(scores):
        return []
    evidence = (
        f"{output.name} {shown(output)} = {anchors} x ({_grids(facts, strides)}) boxes",
        "boxes in px",
        "objectness and scores in 0..1",
        *extras["evidence"],
    )
    head = YoloV5(output=output.name, **extras["fields"])
    return [Verdict(head=head, evidence=evidence, preprocess=LETTERBOX, preprocess_of="Ultralytics'")]


def _yolox(facts: Facts) -> list[Verdict]:
    output, masks = _alone(facts)
    if output is None or masks is not None or output.value.ndim != 3 or output.shape[2] < 6:
        return []
    strides = facts.strides(output.shape[1])
    rows = output.value[0].T
    if not strides or not np.isfinite(rows).all():
        return []
    if not _has_objectness(facts, output) and output.parts:
        return []
    decoded = _are_pixels(rows[:4], facts)
    if not decoded and np.percentile(np.abs(rows[:4]), 99) > UNDECODED:
        return []
    activation = "none" if is_unit(rows[4:]) else "sigmoid"
    head = YoloX(output=output.name, strides=strides, decoded=decoded, activation=activation)  # type: ignore[arg-type]
    evidence = [
        f"{output.name} {shown(output)} = {_grids(facts, strides)} cells",
        "boxes in px" if decoded else "boxes relative to their cells",
        "objectness and scores " + ("in 0..1" if activation == "none" else "before a sigmoid"),
    ]
    sure = not decoded or _has_objectness(facts, output) or _names_fit(facts, len(rows) - 5)
    return [Verdict(head=head, evidence=tuple(evidence), preprocess=CORNER, preprocess_of="YOLOX's", sure=sure)]


NAMED_RULES: tuple[Callable[[Facts], list[Verdict]], ...] = (_efficient_nms, _boxes_scores_labels, _batched_rows)
"""Rules for detections that are decoded already, whose outputs say by name or type what they are."""

RULES: tuple[Callable[[Facts], list[Verdict]], ...] = (
    detr_pair,
    _end2end,
    _detr_joined,
    _yolov8,
    _yolov5,
    _yolox,
)


def _alone(facts: Facts) -> tuple[Output | None, Output | None]:
    """Returns the output with the boxes, if no other has any, and that of the prototypes of masks, if there is one."""
    boxes = [each for each in facts.outputs if each.value.ndim == 3]
    masks = [each for each in facts.outputs if each.value.ndim == 4 and each.shape[1] < min(each.shape[2:])]
    if len(boxes) != 1 or len(masks) > 1 or len(boxes) + len(masks) != len(facts.outputs):
        return None, None
    return boxes[0], masks[0] if masks else None


def _extras_behind_scores(
    facts: Facts, output: Output, rows: np.ndarray, masks: Output | None, axis: int, first: int = 4
) -> dict[str, Any] | None:
    """Finds what follows the scores; None if it is no known kind. ``first`` is the number of values before them."""
    known = len(facts.metadata.names)
    if known and len(rows) - first >= known:
        count = len(rows) - first - known
    elif masks is not None:
        count = masks.shape[1]
    elif output.parts and output.axis == axis and output.parts[-1][0] > first:
        count = output.parts[-1][1] - output.parts[-1][0]
    else:
        unit = [is_unit(row) for row in rows[first:]]
        count = 0 if all(unit) or not any(unit) else len(unit) - unit.index(False)
    if len(rows) - first - count < 1:
        return None
    return _extras_of(facts, count, masks, rows[len(rows) - count :])


def _extras_of(facts: Facts, count: int, masks: Output | None, values: np.ndarray) -> dict[str, Any] | None:
    """Says what ``count`` values behind the scores are; None if it is no known kind."""
    if masks is not None:
        if count != masks.shape[1]:
            return None
        evidence = (f"{count} coefficients for the masks of {masks.name} {shown(masks)}",)
        return {"fields": {"extras": count, "masks": masks.name}, "evidence": evidence}
    if count == 0:
        return {"fields": {}, "evidence": ()}
    points = facts.metadata.keypoints
    if points == (0, 0) and facts.metadata.task in ("", "pose") and count > 3 and not is_unit(values):
        threes = count % 3 == 0 and is_unit(values[2::3])
        points = (count // 3, 3) if threes else (count // 2, 2) if count % 2 == 0 else (0, 0)
    if math.prod(points) == count:
        evidence = (f"{points[0]} key points of {points[1]} values",)
        return {"fields": {"extras": count, "keypoints": points}, "evidence": evidence}
    in_range = values.size > 0 and ANGLES[0] <= values.min() and values.max() <= ANGLES[1]
    if count == 1 and (facts.metadata.task == "obb" or (not facts.metadata.task and in_range)):
        return {"fields": {"extras": 1, "angle": True}, "evidence": ("an angle behind the scores",)}
    return None


def _has_objectness(facts: Facts, output: Output) -> bool:
    """Whether the graph joins four numbers, then one, then the classes; or the class names leave one number over."""
    if len(output.parts) >= 2 and output.parts[0] == (0, 4):
        return output.parts[1] == (4, 5)
    return bool(facts.metadata.names) and len(facts.metadata.names) == output.shape[-1] - 5


def _names_fit(facts: Facts, classes: int) -> bool:
    return len(facts.metadata.names) == classes


def _are_pixels(boxes: np.ndarray, facts: Facts) -> bool:
    """Whether centers, and sides that are mostly positive, lie in an image of the input's size."""
    width, height = facts.size
    if not boxes.size or not np.isfinite(boxes).all():
        return False
    x, y, *sides = boxes
    inside = [(-0.5 * side <= axis) & (axis <= 1.5 * side) for axis, side in ((x, width), (y, height))]
    spread = x.max() - x.min() > width / 4 and y.max() - y.min() > height / 4
    return bool(np.mean(inside) > 0.95 and spread and np.mean(np.array(sides) >= 0) > 0.95)


def _named(facts: Facts, *names: str) -> Output | None:
    found = [each for each in facts.outputs if each.name.lower().split(":")[0] in names]
    return found[0] if len(found) == 1 else None


def _has(name: str, *parts: str) -> bool:
    return any(part in name.lower() for part in parts)


def _grids(facts: Facts, strides: Sequence[int]) -> str:
    """Formats feature maps: ``80²+40²+20²``, or ``80x48+40x24`` if they are not square."""
    sides = [(facts.size[0] // stride, facts.size[1] // stride) for stride in strides]
    return "+".join(f"{width}²" if width == height else f"{width}x{height}" for width, height in sides)
