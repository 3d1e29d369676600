"""Measures how well a quantized detector agrees with its float version: COCO's mAP with FP32 as ground truth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.runtime.detections import Detections

__all__ = ["agreement", "views"]

TRUTH_SCORE = 0.25
FOUND_SCORE = 0.01
CROPS = tuple((x, y, x + 0.7, y + 0.7) for x in (0.0, 0.3) for y in (0.0, 0.3))
WHOLE = (0.0, 0.0, 1.0, 1.0)
MIDDLE = (0.15, 0.15, 0.85, 0.85)


def views(photo: Path) -> Iterator[np.ndarray]:
    """Yields twelve views of a photo: the whole, crops of 70 % of each side at the corners and the centre, mirrored."""
    with Image.open(photo) as opened:
        whole = np.asarray(opened.convert("RGB"))
    height, width = whole.shape[:2]
    for left, top, right, bottom in (WHOLE, *CROPS, MIDDLE):
        part = whole[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
        yield np.ascontiguousarray(part)
        yield np.ascontiguousarray(part[:, ::-1])


def agreement(truth: Sequence[Detections], found: Sequence[Detections]) -> float:
    """Returns the mean average precision over IoU 0.50:0.95 (pycocotools) of ``found`` against ``truth``.

    Args:
        truth: detections of the float engine, one entry per image; those with a score over 0.25 are the ground truth.
        found: detections of the quantized engine, down to a score of 0.01.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {**entry, "id": index + 1, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for index, entry in enumerate(entry for entry in _entries(truth) if entry["score"] > TRUTH_SCORE)
    ]
    classes = sorted({int(entry["category_id"]) for entry in annotations})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": index} for index in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": kind} for kind in classes],
        }
        reference.createIndex()
        results = [entry for entry in _entries(found) if entry["category_id"] in classes]
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _entries(images: Sequence[Detections]) -> Iterator[dict[str, Any]]:
    for index, detections in enumerate(images):
        corners = detections.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        for box, score, kind in zip(
            boxes.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
        ):
            yield {"image_id": index, "category_id": kind + 1, "bbox": box, "score": score}
