"""Detector heads with made outputs, and their detections by the references, for the tests of decoding."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from edgekit.kernels.decode import reference
from edgekit.kernels.suppression import reference as nms_reference
from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    Head,
    YoloHead,
    YoloV1,
    YoloV2,
    YoloV3,
    YoloV5,
    YoloV8,
    YoloX,
)

Outputs = dict[str, np.ndarray]

OVERLAPS = {
    "corners": nms_reference.iou,
    "rotated": nms_reference.rotated_iou,
    "probiou": nms_reference.probiou,
}
CAPACITY = 2048


class Case(NamedTuple):
    """A head, its input's width and height, and outputs of a batch."""

    head: Head
    size: tuple[int, int]
    outputs: Outputs


def cases(seed: int = 0, images: int = 1, *, scale: int = 1) -> dict[str, Case]:
    """A case of each family and way to store it; ``scale`` multiplies the sides of the input."""
    random = np.random.default_rng(seed)
    size = (96 * scale, 64 * scale)
    grids = [(size[1] // stride, size[0] // stride) for stride in (8, 16, 32)]
    cells = sum(rows * columns for rows, columns in grids)
    found: dict[str, Case] = {}

    def normal(mean: float, deviation: float, *shape: int) -> np.ndarray:
        return random.normal(mean, deviation, (images, *shape)).astype(np.float32)

    def probabilities(*shape: int) -> np.ndarray:
        return (random.random((images, *shape)) ** 3).astype(np.float32)

    def boxes(count: int) -> np.ndarray:
        center = random.uniform(-10, np.array(size) + 10.0, (images, count, 2))
        return np.concatenate([center, random.uniform(2, 40, (images, count, 2))], axis=2).astype(np.float32)

    def angles(count: int) -> np.ndarray:
        return random.uniform(-0.8, 2.4, (images, count, 1)).astype(np.float32)

    anchors = ((30.0, 22.0), (11.0, 13.0), (7.0, 30.0))
    coarse = YoloHead(output="coarse", stride=32, anchors=anchors)
    fine = YoloHead(output="fine", stride=16, anchors=tuple((w / 2, h / 3) for w, h in anchors))
    raw = {"coarse": normal(-1, 2, 3 * 9, *grids[2]), "fine": normal(-1, 2, 3 * 9, *grids[1])}
    cell = YoloHead(output="cells", stride=32, boxes=2)
    linear = {"cells": normal(0.4, 0.4, 5 + 10, *grids[2])}
    for multi_label in (True, False):
        name = "several" if multi_label else "one"
        found[f"yolov1 {name}"] = Case(YoloV1(heads=(cell,), multi_label=multi_label), size, linear)
        found[f"yolov2 {name}"] = Case(YoloV2(heads=(coarse, fine), multi_label=multi_label), size, raw)
        found[f"yolov3 {name}"] = Case(YoloV3(heads=(coarse, fine), multi_label=multi_label), size, raw)
        rows = np.concatenate([boxes(cells), probabilities(cells, 8), normal(0, 9, cells, 3)], axis=2)
        found[f"yolov5 {name}"] = Case(YoloV5(output="o", extras=3, multi_label=multi_label), size, {"o": rows})
        rows = np.concatenate([boxes(cells), probabilities(cells, 6), normal(0, 9, cells, 2)], axis=2)
        head = YoloV8(output="o", extras=2, multi_label=multi_label)
        found[f"yolov8 {name}"] = Case(head, size, {"o": np.ascontiguousarray(rows.transpose(0, 2, 1))})
        head = YoloV8(output="o", layout="channels-last", activation="sigmoid", multi_label=multi_label)
        rows = np.concatenate([boxes(cells), normal(-2, 2, cells, 40)], axis=2)
        found[f"yolov8 logits channels last {name}"] = Case(head, size, {"o": rows})
        head = YoloV8(output="o", activation="sigmoid", multi_label=multi_label)
        found[f"yolov8 logits {name}"] = Case(head, size, {"o": np.ascontiguousarray(rows.transpose(0, 2, 1))})
        rows = np.concatenate([normal(0.5, 1, cells, 4), normal(-1, 2, cells, 1), normal(0, 2, cells, 4)], axis=2)
        yolox = YoloX(output="o", activation="sigmoid", multi_label=multi_label)
        found[f"yolox {name}"] = Case(yolox, size, {"o": rows})
        queries = {"boxes": np.float32(random.uniform(0.05, 0.9, (images, 70, 4)) * [1, 1, 0.5, 0.5])}
        queries["logits"] = normal(-2, 1.5, 70, 37)
        for activation in ("sigmoid", "softmax"):
            for background in ("none", "first", "last"):
                detr = Detr(
                    boxes="boxes",
                    logits="logits",
                    activation=activation,  # type: ignore[arg-type]
                    background=background,  # type: ignore[arg-type]
                    multi_label=multi_label,
                )
                found[f"detr {activation} background {background} {name}"] = Case(detr, size, queries)
    joined = np.concatenate([queries["boxes"], probabilities(70, 11)], axis=2)
    found["detr in one output"] = Case(Detr(boxes="o", activation="none"), size, {"o": joined})
    rows = np.concatenate([boxes(cells), probabilities(cells, 5)], axis=2)
    found["yolox decoded"] = Case(YoloX(output="o", decoded=True), size, {"o": rows})
    kinds = random.integers(-1, 80, (images, 50, 1)).astype(np.float32)
    corners = boxes(50)
    corners[..., 2:] += corners[..., :2]
    rows = np.concatenate([corners, probabilities(50, 1), kinds, normal(0, 9, 50, 3)], axis=2)
    found["end2end"] = Case(End2End(output="o", extras=3), size, {"o": rows})
    fractions = np.concatenate([queries["boxes"][:, :50], probabilities(50, 1), kinds], axis=2)
    found["end2end centers"] = Case(End2End(output="o", coordinates="centers"), size, {"o": fractions})
    rows = np.concatenate([boxes(50), probabilities(50, 1), kinds, angles(50)], axis=2)
    found["end2end rotated"] = Case(End2End(output="o", extras=1, angle=True), size, {"o": rows})
    rows = np.concatenate([boxes(cells), probabilities(cells, 2), angles(cells)], axis=2).transpose(0, 2, 1)
    for overlap in ("rotated", "probiou"):
        for suppression, ending in (("greedy", ""), ("fast", " fast")):
            head = YoloV8(output="o", extras=1, angle=True, overlap=overlap, suppression=suppression)  # type: ignore[arg-type]
            found[f"yolov8 {overlap}{ending}"] = Case(head, size, {"o": np.ascontiguousarray(rows)})
    named = {"b": corners, "s": probabilities(50), "l": kinds[..., 0].astype(np.int64), "n": np.array([[40], [7]])}
    normalized = named | {"b": (corners / np.array([*size, *size])).astype(np.float32)}
    found["boxes-scores-labels"] = Case(BoxesScoresLabels(boxes="b", scores="s", labels="l"), size, named)
    background = BoxesScoresLabels(boxes="b", scores="s", labels="l", coordinates="normalized", background=True)
    found["boxes-scores-labels of a background"] = Case(background, size, normalized)
    found["efficient-nms"] = Case(EfficientNms(count="n", boxes="b", scores="s", classes="l"), size, named)
    images_of_rows = random.integers(0, images, (90, 1)).astype(np.float32)
    rows = np.concatenate([images_of_rows, np.tile(corners[0], (2, 1))[:90], np.tile(kinds[0], (2, 1))[:90]], axis=1)
    rows = np.concatenate([rows, random.random((90, 1), np.float32)], axis=1)
    found["batched-rows"] = Case(BatchedRows(output="o"), size, {"o": rows})
    paddle = np.column_stack([rows[:, 5], rows[:, 6], rows[:, 1:5]])
    found["batched-rows of paddle"] = Case(BatchedRows(output="o", columns="paddle"), size, {"o": paddle})
    return found


def decoded(case: Case, score_threshold: float, index: int = 0) -> list[reference.Found]:
    """The candidates of an image by the references."""
    head = case.head
    if isinstance(head, BatchedRows):
        return reference.decode_batched_rows(
            case.outputs[head.output], head, index=index, score_threshold=score_threshold
        )
    outputs = {name: array[index : index + 1] for name, array in case.outputs.items()}
    if isinstance(head, YoloV1 | YoloV2 | YoloV3):
        decode = {YoloV1: reference.decode_yolov1, YoloV2: reference.decode_yolov2, YoloV3: reference.decode_yolov3}
        options: dict[str, Any] = {"score_threshold": score_threshold, "multi_label": head.multi_label}
        return decode[type(head)](outputs, head.heads, **options)
    if isinstance(head, Detr):
        boxes = outputs[head.boxes]
        logits = outputs[head.logits] if head.logits else boxes[..., 4:]
        return reference.decode_detr(boxes[..., :4], logits, head, case.size, score_threshold=score_threshold)
    if isinstance(head, BoxesScoresLabels):
        return reference.decode_boxes_scores_labels(outputs, head, case.size, score_threshold=score_threshold)
    if isinstance(head, EfficientNms):
        return reference.decode_efficient_nms(outputs, head, case.size, score_threshold=score_threshold)
    output = outputs[head.output]
    if isinstance(head, YoloX):
        return reference.decode_yolox(output, head, case.size, score_threshold=score_threshold)
    if isinstance(head, YoloV5):
        return reference.decode_yolov5(output, head, score_threshold=score_threshold)
    if isinstance(head, YoloV8):
        return reference.decode_yolov8(output, head, score_threshold=score_threshold)
    return reference.decode_end2end(output, head, case.size, score_threshold=score_threshold)


def detected(
    candidates: list[reference.Found],
    *,
    overlap: str | None,
    scale: tuple[float, float],
    offset: tuple[float, float],
    size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    fast: bool = False,
) -> list[tuple[tuple[float, ...], float, int, int]]:
    """Suppresses and maps candidates, one at a time: box in the image, score, class, cell."""
    width = 5 if candidates and len(candidates[0][0]) == 5 else 4
    boxes = np.array([box for box, *_ in candidates], np.float32).reshape(-1, width)
    scores = np.array([score for _, score, *_ in candidates], np.float32)
    classes = np.array([kind for *_, kind, _ in candidates], np.int64)
    best = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (scores > np.float32(score_threshold)))
    best = np.sort(best[np.argsort(-scores[best], kind="stable")][:CAPACITY])
    kept = nms_reference.nms(
        boxes[best],
        scores[best],
        classes[best],
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        overlap=OVERLAPS[overlap] if overlap else lambda a, b: 0.0,
        fast=fast,
    )
    found = []
    for i in best[kept].tolist():
        box = _to_image(boxes[i].tolist(), scale, offset)
        if len(box) == 4:
            box = tuple(min(max(value, 0.0), float(side)) for value, side in zip(box, size * 2, strict=True))
            shown = box[2] > box[0] and box[3] > box[1]
        else:
            x, y = (
                [corner[axis] for corner in nms_reference._polygon(box)]  # its corners in the image
                for axis in (0, 1)
            )
            shown = min(box[2:4]) > 0 and max(x) > 0 and min(x) < size[0] and max(y) > 0 and min(y) < size[1]
        if shown:
            found.append((box, float(scores[i]), int(classes[i]), candidates[i][3]))
    return found


def _to_image(box: list[float], scale: tuple[float, float], offset: tuple[float, float]) -> tuple[float, ...]:
    if len(box) == 4:
        return tuple((value - offset[i % 2]) / scale[i % 2] for i, value in enumerate(box))
    x, y, width, height, angle = box
    along = (np.cos(angle) * width / scale[0], np.sin(angle) * width / scale[1])
    across = (-np.sin(angle) * height / scale[0], np.cos(angle) * height / scale[1])
    center = ((x - offset[0]) / scale[0], (y - offset[1]) / scale[1])
    return (*center, float(np.hypot(*along)), float(np.hypot(*across)), float(np.arctan2(along[1], along[0])))
