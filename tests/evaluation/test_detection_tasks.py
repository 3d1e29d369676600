"""Mean average precision of masks, key points and rotated boxes, against pycocotools on files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.examples import Boxes, Example, data_set
from edgekit.data.shapes import ObjectShape
from edgekit.errors import DataError
from edgekit.evaluation.evaluate import evaluate_session
from edgekit.recipe.heads import YoloV8
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.specs import TensorSpec

SIDE = 64
IMAGES = 6
NAMES = ("cat", "dog")
KEYPOINTS = 17
HEADS = {
    "segment": YoloV8(output="cells", extras=4, masks="prototypes"),
    "pose": YoloV8(output="cells", extras=3 * KEYPOINTS, keypoints=(KEYPOINTS, 3)),
    "obb": YoloV8(output="cells", extras=1, angle=True, overlap="probiou"),
}


def truth(index: int) -> list[dict]:
    """Two to four objects of an image: octagons, with points in their boxes."""
    random = np.random.default_rng(index)
    objects = []
    for i in range(2 + index % 3):
        x, y = random.uniform(2, 30, 2)
        w, h = random.uniform(14, 30, 2)
        cut = 0.2
        corners = [(cut, 0), (1 - cut, 0), (1, cut), (1, 1 - cut), (1 - cut, 1), (cut, 1), (0, 1 - cut), (0, cut)]
        polygon = [float(n) for u, v in corners for n in (x + u * w, y + v * h)]
        points = np.column_stack([random.uniform(x, x + w, KEYPOINTS), random.uniform(y, y + h, KEYPOINTS)])
        visible = random.integers(0, 3, KEYPOINTS)
        objects.append(
            {
                "image_id": index, "category_id": 1 + i % 2, "bbox": [x, y, w, h], "area": w * h * (1 - 2 * cut**2),
                "iscrowd": int(index == 4 and i == 1), "segmentation": [polygon],
                "keypoints": np.column_stack([points, visible]).reshape(-1).tolist(),
                "num_keypoints": int((visible > 0).sum()),
            }
        )  # fmt: skip
    return objects


def outputs_of(index: int, task: str) -> dict[str, np.ndarray]:
    """What the engine answers: the objects, moved a little, and false ones; some objects are missed."""
    random = np.random.default_rng(100 + index)
    head = HEADS[task]
    cells = np.zeros((6 + head.extras, 24), np.float32)
    for i, each in enumerate(truth(index)):
        x, y, w, h = each["bbox"]
        jitter = random.normal(scale=1.5, size=4)
        cells[:4, i] = np.array([x + w / 2, y + h / 2, w, h]) + jitter
        cells[4:6, i] = random.uniform(0.01, 0.3, 2)
        cells[3 + each["category_id"], i] = random.uniform(0.3, 0.95) if random.random() < 0.85 else 0
        if task == "pose":
            points = np.array(each["keypoints"]).reshape(-1, 3) + random.normal(scale=0.8, size=(KEYPOINTS, 3))
            cells[6:, i] = points.reshape(-1)
    cells[:2, 10:] = random.uniform(10, 54, (2, 14))
    cells[2:4, 10:] = random.uniform(8, 30, (2, 14))
    cells[4:6, 10:] = random.uniform(0, 0.4, (2, 14))
    if task == "segment":
        cells[6, :] = 1
        cells[7:, :] = random.normal(size=(3, 24))
        prototypes = random.normal(size=(4, 16, 16))
        prototypes[0] = 1.5
        return {"cells": cells[None], "prototypes": prototypes[None].astype(np.float32)}
    return {"cells": cells[None]}


@pytest.fixture
def session_for(make_session):
    def made(task: str):
        head = HEADS[task]
        specs = [TensorSpec("cells", "float32", (1, 6 + head.extras, 24))]
        if task == "segment":
            specs.append(TensorSpec("prototypes", "float32", (1, 4, 16, 16)))
        session, _ = make_session(
            lambda feeds: outputs_of(round(float(feeds["images"].max()) * 255) // 20, task),
            task=task,
            labels=NAMES,
            inputs=(TensorSpec("images", "float32", (1, 3, SIDE, SIDE)),),
            outputs=tuple(specs),
            preprocess=Preprocess(resize="letterbox", rounding="nearest"),
            postprocess=Postprocess(head=head, iou_threshold=0.7),
        )
        return session

    return made


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A COCO file of six images; the color of an image is its number."""
    objects = [each for i in range(IMAGES) for each in truth(i)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(IMAGES)],
        "annotations": [{"id": i + 1, **each} for i, each in enumerate(objects)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
    }
    for i in range(IMAGES):
        Image.new("RGB", (SIDE, SIDE), (20 * i,) * 3).save(tmp_path / f"{i}.png")
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    return file


def by_files(file: Path, results: list[dict], kind: str) -> tuple[float, float]:
    """COCO's own way: annotations and results from files, and the first two numbers of its summary."""
    coco, cocoeval = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    with contextlib.redirect_stdout(io.StringIO()):
        expected = coco.COCO(str(file))
        evaluation = cocoeval.COCOeval(expected, expected.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


@pytest.mark.parametrize(("task", "kind", "prefix"), [("segment", "segm", "mask_"), ("pose", "keypoints", "keypoint_")])
def test_precision_of_masks_and_key_points_is_that_of_pycocotools(
    session_for, annotations: Path, task: str, kind: str, prefix: str
) -> None:
    session, examples = session_for(task), data_set(str(annotations), task=task)
    assert examples.task == task
    found = evaluate_session(session, examples, multi_label=True)
    results = []
    for i in range(IMAGES):
        predicted = session.predict(
            annotations.parent / f"{i}.png", score_threshold=0.001, multi_label=True, max_detections=100
        )
        results += predicted.to_coco(i)
    expected = by_files(annotations, results, kind)
    assert 0.05 < expected[1] < expected[0] < 1
    assert (found.figures[f"{prefix}map50"], found.figures[f"{prefix}map50_95"]) == pytest.approx(expected, abs=1e-3)
    boxes = by_files(annotations, results, "bbox")
    assert (found.figures["map50"], found.figures["map50_95"]) == pytest.approx(boxes, abs=1e-3)
    assert [row.label for row in found.per_class] == ["cat", "dog"]
    assert list(found.figures)[0] == f"{prefix}map50" and 0.3 < found.figures["median_score"] < 0.95


def test_one_label_a_box_finds_less(session_for, annotations: Path) -> None:
    session, examples = session_for("segment"), data_set(str(annotations), task="segment")
    every, one = (evaluate_session(session, examples, multi_label=value) for value in (True, False))
    assert every.figures["map50"] >= one.figures["map50"] > 0
    assert every.figures != one.figures


def test_key_points_of_another_number_are_refused(session_for, annotations: Path, listed) -> None:
    boxes = Boxes(np.float32([[0, 0, 9, 9]]), np.zeros(1, np.int64), None, (ObjectShape(None, (1, 2, 2) * 5, 9.0),))
    example = Example("five.png", np.zeros((SIDE, SIDE, 3), np.uint8), boxes)
    with pytest.raises(DataError, match="five.png: expected 17 key points, as the engine finds, got 5"):
        evaluate_session(session_for("pose"), listed([example], NAMES, task="pose"))


def rotated_set(listed, *quadrilaterals: list[float]):
    shapes = tuple(ObjectShape([each]) for each in quadrilaterals)
    corners = np.float32([[min(q[::2]), min(q[1::2]), max(q[::2]), max(q[1::2])] for q in quadrilaterals])
    boxes = Boxes(corners, np.zeros(len(shapes), np.int64), None, shapes)
    return listed([Example("a.png", np.zeros((SIDE, SIDE, 3), np.uint8), boxes)], NAMES, task="obb")


def corners(x: float, y: float, width: float, height: float, angle: float) -> list[float]:
    cos, sin = np.cos(angle), np.sin(angle)
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    pairs = [(a * width / 2, b * height / 2) for a, b in signs]
    return [float(n) for u, v in pairs for n in (x + u * cos - v * sin, y + u * sin + v * cos)]


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        (0.0, (1, 1)),  # the object itself
        (0.22, (1, 0.3)),  # an overlap of 0.78 / 1.22: thresholds 0.50 to 0.60
        (0.4, (0, 0)),  # an overlap of 0.43
    ],
)
def test_rotated_boxes_are_compared_by_their_exact_overlap(make_session, listed, moved, expected) -> None:
    angle = 0.6
    cells = np.zeros((1, 7, 24), np.float32)
    x, y = 30 + moved * 24 * np.cos(angle), 30 + moved * 24 * np.sin(angle)
    cells[0, :, 5] = [x, y, 24, 10, 0.8, 0, angle]
    session, _ = make_session(
        lambda feeds: {"cells": cells},
        task="obb",
        labels=NAMES,
        inputs=(TensorSpec("images", "float32", (1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec("cells", "float32", (1, 7, 24)),),
        preprocess=Preprocess(),
        postprocess=Postprocess(head=HEADS["obb"]),
    )
    found = evaluate_session(session, rotated_set(listed, corners(30, 30, 24, 10, angle)))
    assert (found.figures["map50"], found.figures["map50_95"]) == pytest.approx(expected)
    if expected[0]:
        assert found.figures["median_score"] == pytest.approx(0.8)
        assert found.details.confusion == ((0, 0, 1),)
    else:
        assert np.isnan(found.figures["median_score"]) and set(found.details.confusion) == {(-1, 0, 1), (0, -1, 1)}


def test_an_engine_with_masks_is_measured_by_its_boxes_on_a_set_of_boxes(session_for, listed) -> None:
    x, y, w, h = truth(0)[0]["bbox"]
    boxes = Boxes(np.float32([[x, y, x + w, y + h]]), np.zeros(1, np.int64))
    examples = listed([Example("a.png", np.zeros((SIDE, SIDE, 3), np.uint8), boxes)], NAMES, task="detect")
    found = evaluate_session(session_for("segment"), examples)
    assert list(found.figures) == ["map50", "map50_95", "median_score"]
    assert found.notes == ("the data set has boxes alone, so only those of the engine for 'segment' are measured",)
