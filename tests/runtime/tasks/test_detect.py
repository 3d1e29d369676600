import json
import time

import msgspec
import numpy as np
import pytest

from edgekit.data.coco import COCO_CATEGORY_IDS, COCO_NAMES
from edgekit.data.images import Placement
from edgekit.errors import RunError
from edgekit.kernels.decode.candidates import Candidates, best_candidates
from edgekit.runtime.tasks.detect import MAX_CANDIDATES, Detections, coco_results, detections_from_outputs

WHOLE = Placement((1.0, 1.0), (0.0, 0.0), (416, 416), (416, 416))


def detections(names, *classes):
    count = len(classes)
    boxes = np.array([[10, 20, 40, 60.5]] * count, np.float32).reshape(count, 4)
    return Detections(boxes, np.full(count, 0.75, np.float32), np.array(classes, np.int64), tuple(names))


def test_detections_iterate_best_first(dog_and_car, detector):
    found = detections_from_outputs(dog_and_car, detector, WHOLE)
    assert len(found) == 2
    assert [(each.label, round(each.score, 2)) for each in found] == [("dog", 0.95), ("car", 0.73)]
    assert next(iter(found)).box == tuple(found.boxes[0].tolist())
    assert found.boxes.dtype == found.scores.dtype == np.float32 and found.classes.dtype == np.int64


def test_boxes_outside_the_image_are_left_out(dog_and_car, detector):
    lower = Placement((1.0, 1.0), (0.0, 300.0), (416, 116), (416, 416))  # the image begins below both objects
    assert len(detections_from_outputs(dog_and_car, detector, lower)) == 0
    empty = detections_from_outputs(dog_and_car, detector, WHOLE, score_threshold=0.99)
    assert len(empty) == 0 and empty.boxes.shape == (0, 4) and empty.labels == [] and coco_results(empty, 1) == []


def test_classes_without_names_are_numbers():
    assert detections([], 3).labels == ["3"]
    assert detections(["a"], 0, 1).labels == ["a", "1"]


def test_error_when_the_engine_is_no_detector(tensors):
    with pytest.raises(RunError, match="'adder': expected a detector, got an engine for task 'tensor'"):
        detections_from_outputs({}, tensors, WHOLE)


@pytest.mark.parametrize("darknet", [False, True])
def test_category_ids_of_coco_s_classes_are_coco_s_own(detector, darknet):
    names = detector.labels if darknet else COCO_NAMES
    results = coco_results(detections(names, 0, 11, 12, 79), 42)
    assert [entry["category_id"] for entry in results] == [1, 13, 14, 90]
    assert results[0] == {"image_id": 42, "category_id": 1, "bbox": [10.0, 20.0, 30.0, 40.5], "score": 0.75}
    assert json.loads(json.dumps(results)) == results


def test_category_ids_of_other_classes_count_from_one():
    assert [entry["category_id"] for entry in coco_results(detections(["cat", "dog"], 0, 1), 1)] == [1, 2]
    assert [entry["category_id"] for entry in coco_results(detections(COCO_NAMES[::-1], 79), 1)] == [80]
    assert [entry["category_id"] for entry in coco_results(detections([], 7), 1)] == [8]


def test_results_are_what_coco_s_own_tools_take(detector):
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 42}],
        "categories": [{"id": i, "name": name} for i, name in zip(COCO_CATEGORY_IDS, COCO_NAMES, strict=True)],
    }
    coco.createIndex()
    loaded = coco.loadRes(coco_results(detections(detector.labels, 16), 42))
    assert coco.loadCats(loaded.anns[1]["category_id"])[0]["name"] == "dog"


def test_thresholds_of_the_manifest_hold_where_none_is_given(dog_and_car, detector):
    strict = msgspec.structs.replace(detector.postprocess, score_threshold=0.8)
    manifest = msgspec.structs.replace(detector, postprocess=strict)
    assert detections_from_outputs(dog_and_car, manifest, WHOLE).labels == ["dog"]
    assert detections_from_outputs(dog_and_car, manifest, WHOLE, score_threshold=0.0).labels[:2] == ["dog", "car"]


def test_thresholds_that_let_everything_pass_end_in_time(detector):
    # 80 classes in each of 10647 boxes: 851 760 candidates, all of which a threshold of 0 lets pass.
    random = np.random.default_rng(0)
    how = msgspec.structs.replace(
        detector.postprocess, score_threshold=0.0, iou_threshold=1.0, max_detections=1_000_000_000
    )
    outputs = {
        head.output: random.normal(size=(1, 3 * 85, 416 // head.stride, 416 // head.stride)).astype(np.float32)
        for head in how.head.heads
    }
    start = time.perf_counter()
    found = detections_from_outputs(outputs, msgspec.structs.replace(detector, postprocess=how), WHOLE)
    assert time.perf_counter() - start < 10
    assert 0 < len(found) <= MAX_CANDIDATES
    assert (np.diff(found.scores) <= 0).all()


def test_the_best_candidates_are_those_that_suppression_takes_first():
    scores = np.array([0.5, 0.9, 0.5, np.float32(0.7), 0.9], np.float32)
    boxes = np.zeros((5, 4), np.float32)
    boxes[1] = np.inf
    candidates = Candidates(boxes, scores, np.arange(5), np.arange(5))
    assert best_candidates(candidates, 3).cells.tolist() == [0, 3, 4]
    assert best_candidates(candidates, 5) is candidates
