import time
from typing import get_args

import msgspec
import numpy as np
import pytest

from edgekit.data.images import Placement
from edgekit.errors import RunError, UsageError
from edgekit.kernels.decode.candidates import Candidates, best_candidates
from edgekit.recipe.heads import Head, YoloHead, YoloV2, YoloV3, YoloV8
from edgekit.runtime.detections import Detections
from edgekit.runtime.tasks.detector import MAX_CANDIDATES, detections_from_outputs

WHOLE = Placement((1.0, 1.0), (0.0, 0.0), (416, 416), (416, 416))


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
    assert len(empty) == 0 and empty.boxes.shape == (0, 4) and empty.labels == [] and empty.to_coco(1) == []


def test_error_when_the_engine_is_no_detector(tensors):
    with pytest.raises(RunError, match="'adder': expected a detector, got an engine for task 'tensor'"):
        detections_from_outputs({}, tensors, WHOLE)


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
    found = detections_from_outputs(
        outputs, msgspec.structs.replace(detector, postprocess=how), WHOLE, multi_label=True
    )
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


def test_every_family_has_one_class_a_box_unless_the_head_says_otherwise():
    defaults = {
        each.__struct_config__.tag: field.default
        for each in get_args(Head)
        for field in msgspec.structs.fields(each)
        if field.name == "multi_label"
    }
    assert defaults == dict.fromkeys(("yolov1", "yolov2", "yolov3", "yolov5", "yolov8", "yolox", "detr"), False)


@pytest.mark.parametrize("family", [YoloV2, YoloV3])
def test_a_recipe_chooses_several_classes_a_box(detector, family):
    # One cell, one anchor: objectness, two classes of which both pass.
    head = YoloHead(output="cell", stride=32, anchors=((20.0, 20.0),))
    raw = np.array([0, 0, 0, 0, 5, 2, 1.5], np.float32).reshape(1, 7, 1, 1)

    def found(**fields):
        how = msgspec.structs.replace(detector.postprocess, head=family(heads=(head,), **fields), score_threshold=0.3)
        manifest = msgspec.structs.replace(detector, postprocess=how)
        return detections_from_outputs({"cell": raw}, manifest, WHOLE).classes.tolist()

    assert found() == [0]
    assert found(multi_label=True) == [0, 1]


def test_one_class_a_box_or_every_class_that_passes(letterboxed, raw_cells):
    manifest = letterboxed("detect", YoloV8(output="output0"))
    cells = raw_cells(0)
    cells[0, 4:6, 3] = [0.6, 0.5]
    image = Placement((1.0, 1.0), (0.0, 0.0), (64, 48), (64, 48))
    assert detections_from_outputs({"output0": cells}, manifest, image).labels == ["cat"]
    assert detections_from_outputs({"output0": cells}, manifest, image, multi_label=True).labels == ["cat", "dog"]
    every = letterboxed("detect", YoloV8(output="output0", multi_label=True))
    assert detections_from_outputs({"output0": cells}, every, image).labels == ["cat", "dog"]
    assert detections_from_outputs({"output0": cells}, every, image, multi_label=False).labels == ["cat"]


def test_predict_takes_the_options_of_the_task(session):
    found = session.predict(np.zeros((416, 416, 3), np.uint8), score_threshold=0.8)
    assert type(found) is Detections and found.labels == ["dog"] and found.size == (416, 416)
    with pytest.raises(UsageError, match="predict: expected options of task 'detect', got score_treshold=") as error:
        session.predict(np.zeros((416, 416, 3), np.uint8), score_treshold=0.8)
    assert "score_threshold" in error.value.hint


def test_error_when_predict_is_given_an_image_and_the_engine_takes_arrays(adder):
    with pytest.raises(RunError, match="'adder': expected an engine that takes images") as error:
        adder.predict(np.zeros((4, 4, 3), np.uint8))
    assert error.value.hint == "pass arrays to run()"
