"""Records what Ultralytics' own postprocessing makes of raw outputs, for tests that run without it.

Run where the package ultralytics is installed: ``python -m tools.record_ultralytics``. Raw outputs are made from a
seed, so that only results are kept: boxes, scores, classes, key points, angles, and masks as bits.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CASES", "RECORDED", "Case", "raw_outputs"]

RECORDED = Path(__file__).parents[1] / "tests" / "runtime" / "recorded" / "ultralytics.npz"
INPUT = (320, 256)
"""Width and height of the models' input in px."""
CLASSES = 4
COEFFICIENTS = 32
KEYPOINTS = (17, 3)
CELLS = 1680  # of the strides 8, 16 and 32
THRESHOLDS = {"score_threshold": 0.25, "iou_threshold": 0.7, "max_detections": 300}


class Case(NamedTuple):
    """One picture for one kind of model.

    Attributes:
        task: the task.
        end2end: the model suppresses boxes itself.
        size: width and height of the picture in px.
        multi_label: every class of a box whose score passes is a detection.
    """

    task: str
    end2end: bool
    size: tuple[int, int]
    multi_label: bool = False


_SIZES = ((640, 512), (501, 377), (200, 427))
CASES = {
    f"{task}{' end2end' if end2end else ''} {size[0]}x{size[1]}": Case(task, end2end, size)
    for task in ("detect", "segment", "pose", "obb")
    for end2end in (False, True)
    for size in (_SIZES[1:] if task == "segment" else _SIZES[:2])
} | {"detect several labels": Case("detect", False, _SIZES[0], True)}


def raw_outputs(name: str) -> dict[str, np.ndarray]:
    """Makes the raw outputs of a case from its name, with more than 50 objects.

    Only `Generator.random` is used, whose numbers do not depend on the version of numpy.

    Returns:
        ``output0`` of shape ``(1, 4 + classes + extras, cells)``, or ``(1, 300, 6 + extras)`` without suppression; for
        masks also ``output1``, the prototypes.
    """
    case = CASES[name]
    random = np.random.default_rng(zlib.crc32(name.encode()))
    extras = {"detect": 0, "segment": COEFFICIENTS, "pose": KEYPOINTS[0] * KEYPOINTS[1], "obb": 1}[case.task]
    rows = _end2end_rows(random, case, extras) if case.end2end else _cells(random, case, extras)
    outputs = {"output0": rows[None].astype(np.float32)}
    if case.task == "segment":
        # Smooth prototypes, so that masks have areas: noise of a coarse grid, repeated.
        coarse = random.random((COEFFICIENTS, INPUT[1] // 32, INPUT[0] // 32)) * 2 - 1
        fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
        outputs["output1"] = (fine + 0.3 * random.random(fine.shape))[None].astype(np.float32)
    return outputs


def _objects(random: np.random.Generator, count: int) -> np.ndarray:
    """Returns centers and sides in px, spread over the input; shape ``(count, 4)``."""
    places = random.random((count, 2)) * INPUT
    return np.concatenate([places, 8 + random.random((count, 2)) * 60], axis=1)


def _extras(random: np.random.Generator, case: Case, boxes: np.ndarray, extras: int) -> np.ndarray:
    values = random.random((len(boxes), extras))
    if case.task == "segment":
        return values * 2 - 1
    if case.task == "obb":
        return (values - 0.25) * np.pi
    if case.task == "pose":
        points = values.reshape(len(boxes), *KEYPOINTS)
        points[..., :2] = boxes[:, None, :2] + (points[..., :2] - 0.5) * 1.5 * boxes[:, None, 2:4]
        return points.reshape(len(boxes), extras)
    return values


def _cells(random: np.random.Generator, case: Case, extras: int) -> np.ndarray:
    """Returns about 90 objects, each found by several cells that differ a little, among cells with low scores."""
    objects = _objects(random, 90)
    chosen = (random.random(CELLS) * len(objects)).astype(int)
    boxes = objects[chosen] + (random.random((CELLS, 4)) - 0.5) * 6
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 4)
    scores = random.random((CELLS, CLASSES)) * 0.2
    sure = random.random(CELLS) < 0.25
    scores[sure, chosen[sure] % CLASSES] = 0.2 + 0.75 * random.random(int(sure.sum()))
    scores[sure, (chosen[sure] + 1) % CLASSES] = 0.5 * random.random(int(sure.sum()))
    return np.concatenate([boxes, scores, _extras(random, case, boxes, extras)], axis=1).T


def _end2end_rows(random: np.random.Generator, case: Case, extras: int) -> np.ndarray:
    boxes = _objects(random, 300)
    scores = np.sort(random.random(300))[::-1] ** 2
    kinds = (random.random(300) * CLASSES).astype(int)
    sides = boxes[:, 2:] / 2
    corners = boxes if case.task == "obb" else np.concatenate([boxes[:, :2] - sides, boxes[:, :2] + sides], axis=1)
    return np.concatenate([corners, scores[:, None], kinds[:, None], _extras(random, case, boxes, extras)], axis=1)


def _recorded(name: str) -> dict[str, np.ndarray]:
    """Runs what Ultralytics' predictors run after the model; see ``ultralytics/models/yolo/*/predict.py``."""
    import torch
    from ultralytics.utils import nms, ops

    case = CASES[name]
    raw = {key: torch.from_numpy(array) for key, array in raw_outputs(name).items()}
    size, shape = case.size[::-1], INPUT[::-1]
    (found,) = nms.non_max_suppression(
        raw["output0"],
        THRESHOLDS["score_threshold"],
        THRESHOLDS["iou_threshold"],
        multi_label=case.multi_label,
        max_det=THRESHOLDS["max_detections"],
        nc=0 if case.task == "detect" else CLASSES,
        end2end=case.end2end,
        rotated=case.task == "obb",
    )
    found = found.clone()
    extras = found[:, 6:].clone()
    found[:, :4] = ops.scale_boxes(shape, found[:, :4], size, xywh=case.task == "obb")
    result: dict[str, Any] = {"boxes": found[:, :4], "scores": found[:, 4], "classes": found[:, 5]}
    if case.task == "segment":
        masks = ops.process_mask_native(raw["output1"][0], extras, found[:, :4], size)
        kept = masks.amax((-2, -1)) > 0
        result = {key: value[kept] for key, value in result.items()}
        result["masks"] = torch.from_numpy(np.packbits(masks[kept].numpy().astype(bool), axis=-1))
    if case.task == "pose":
        result["keypoints"] = ops.scale_coords(shape, extras.reshape(-1, *KEYPOINTS), size)
    if case.task == "obb":
        result["angles"] = extras[:, 0]
    return {key: value.numpy() for key, value in result.items()}


def main() -> None:
    """Writes the results of all cases."""
    RECORDED.parent.mkdir(exist_ok=True)
    arrays = {f"{name}/{key}": array for name in CASES for key, array in _recorded(name).items()}
    np.savez_compressed(RECORDED, **arrays)
    for name in CASES:
        print(f"{name}: {len(arrays[f'{name}/scores'])} objects")
    print(f"{RECORDED}: {RECORDED.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
