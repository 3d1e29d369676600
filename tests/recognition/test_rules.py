"""Each family is told from the others by what its outputs are, with and without metadata."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    YoloV5,
    YoloV8,
    YoloX,
    task_of_head,
)
from edgekit.recognition.facts import Facts, Metadata, Output, grid_cells, metadata_from_properties
from edgekit.recognition.recognize import recognized
from tests.recognition.made import CELLS, SIZE, boxes_px, facts, output, rng, scores

NAMES = ("cat", "dog", "cow")


def yolov8(*extras: np.ndarray, classes: int = 3, last: bool = False, parts: tuple[int, ...] = ()) -> Output:
    rows = np.concatenate([boxes_px(CELLS), scores(CELLS, classes), *extras], axis=1)
    limits = tuple(zip((0, *np.cumsum(parts)[:-1]), np.cumsum(parts), strict=True)) if parts else ()
    value = rows if last else np.ascontiguousarray(rows.T)
    return output("output0", value, parts=limits, axis=2 if last else 1)


def masks(count: int = 32) -> Output:
    return output("output1", rng(5).normal(size=(count, 40, 40)).astype(np.float32))


def key_points(count: int, values: int) -> np.ndarray:
    points = np.concatenate([np.tile(boxes_px(CELLS)[:, None, :2], (1, count, 1)), rng(3).random((CELLS, count, 1))], 2)
    return points[:, :, :values].reshape(CELLS, -1).astype(np.float32)


def angles() -> np.ndarray:
    return rng(4).uniform(-math.pi / 4, 3 * math.pi / 4, (CELLS, 1)).astype(np.float32)


def yolox(*, decoded: bool, classes: int = 3, parts: tuple[tuple[int, int], ...] = ()) -> Output:
    boxes = boxes_px(CELLS) if decoded else rng(6).normal(0, 1.5, (CELLS, 4)).astype(np.float32)
    rows = np.concatenate([boxes, scores(CELLS, 1 + classes)], axis=1)
    return output("output", rows, parts=parts, axis=2)


def end2end(*extras: np.ndarray, count: int = 300) -> Output:
    corners = boxes_px(count)
    corners[:, 2:] += corners[:, :2]
    kinds = rng(7).integers(0, 3, (count, 1)).astype(np.float32)
    sure = np.sort(scores(count, 1), axis=0)[::-1]
    return output("output0", np.concatenate([corners, sure, kinds, *(each[:count] for each in extras)], axis=1))


def test_yolov8_is_told_with_and_without_metadata() -> None:
    for metadata in (Metadata(), Metadata(task="detect", names=NAMES)):
        found = recognized(facts(yolov8(), metadata=metadata))
        assert found.verdict is not None and found.verdict.head == YoloV8(output="output0", overlap="probiou")
    assert "output0 (1, 7, 252) = 16x12+8x6+4x3 cells" in found.verdict.evidence


def test_a_head_before_its_sigmoid_is_told_by_its_class_names() -> None:
    raw = yolov8()
    raw.value[:, 4:] = rng(0).normal(-3, 2, raw.value[:, 4:].shape)
    found = recognized(facts(raw, metadata=Metadata(names=NAMES)))
    assert found.verdict is not None and found.verdict.head.activation == "sigmoid"  # type: ignore[union-attr]


@pytest.mark.parametrize("metadata", [Metadata(), Metadata(task="segment", names=NAMES)])
def test_segmentation_is_told_by_its_prototypes(metadata: Metadata) -> None:
    coefficients = rng(2).normal(size=(CELLS, 32)).astype(np.float32)
    found = recognized(facts(yolov8(coefficients), masks(), metadata=metadata))
    assert found.verdict is not None
    assert found.verdict.head == YoloV8(output="output0", extras=32, masks="output1", overlap="probiou")
    assert task_of_head(found.verdict.head) == "segment"


@pytest.mark.parametrize(
    ("count", "values", "metadata"),
    [
        (17, 3, Metadata()),
        (17, 3, Metadata(task="pose", names=NAMES, keypoints=(17, 3))),
        (5, 2, Metadata(task="pose", names=NAMES, keypoints=(5, 2))),
        (4, 3, Metadata(task="pose", names=NAMES)),
    ],
)
def test_poses_are_told_by_their_key_points(count: int, values: int, metadata: Metadata) -> None:
    found = recognized(facts(yolov8(key_points(count, values)), metadata=metadata))
    assert found.verdict is not None
    assert found.verdict.head == YoloV8(
        output="output0", extras=count * values, keypoints=(count, values), overlap="probiou"
    )


@pytest.mark.parametrize("metadata", [Metadata(), Metadata(task="obb", names=NAMES)])
def test_rotated_boxes_are_told_by_their_angle(metadata: Metadata) -> None:
    found = recognized(facts(yolov8(angles(), parts=(7, 1)), metadata=metadata))
    assert found.verdict is not None
    assert found.verdict.head == YoloV8(output="output0", extras=1, angle=True, overlap="probiou", suppression="fast")


def test_yolov5_has_three_boxes_a_cell_and_an_objectness() -> None:
    rows = np.concatenate([boxes_px(3 * CELLS), scores(3 * CELLS, 4)], axis=1)
    found = recognized(facts(output("output0", rows)))
    assert found.verdict is not None and found.verdict.head == YoloV5(output="output0")
    coefficients = rng(2).normal(size=(3 * CELLS, 32)).astype(np.float32)
    found = recognized(facts(output("output0", np.concatenate([rows, coefficients], axis=1)), masks()))
    assert found.verdict is not None and found.verdict.head == YoloV5(output="output0", extras=32, masks="output1")


def test_yolox_is_told_decoded_or_not() -> None:
    found = recognized(facts(yolox(decoded=False)))
    assert found.verdict is not None and found.verdict.head == YoloX(output="output")
    joined = ((0, 4), (4, 5), (5, 8))
    found = recognized(facts(yolox(decoded=True, parts=joined)))
    assert found.verdict is not None and found.verdict.head == YoloX(output="output", decoded=True)
    found = recognized(facts(yolox(decoded=True), metadata=Metadata(names=NAMES)))
    assert found.verdict is not None and found.verdict.head == YoloX(output="output", decoded=True)


def test_rows_that_may_begin_with_an_objectness_are_not_guessed() -> None:
    found = recognized(facts(yolox(decoded=True)))
    assert found.verdict is None
    assert {verdict.family for verdict in found.candidates} == {"yolov8", "yolox"}


def test_yolov8_with_rows_last_is_told_by_its_parts_or_names() -> None:
    for known in (facts(yolov8(last=True, parts=(4, 3))), facts(yolov8(last=True), metadata=Metadata(names=NAMES))):
        found = recognized(known)
        assert found.verdict is not None
        assert found.verdict.head == YoloV8(output="output0", layout="channels-last", overlap="probiou")


def test_end_to_end_rows_are_told_by_whole_numbers() -> None:
    found = recognized(facts(end2end()))
    assert found.verdict is not None and found.verdict.head == End2End(output="output0")
    found = recognized(facts(end2end(np.tile(angles(), (2, 1))), metadata=Metadata(task="obb", names=NAMES)))
    assert found.verdict is not None and found.verdict.head == End2End(output="output0", extras=1, angle=True)
    points = np.tile(key_points(17, 3), (2, 1))
    found = recognized(facts(end2end(points), metadata=Metadata(task="pose", keypoints=(17, 3))))
    assert found.verdict is not None
    assert found.verdict.head == End2End(output="output0", extras=51, keypoints=(17, 3))
    coefficients = rng(2).normal(size=(300, 32)).astype(np.float32)
    found = recognized(facts(end2end(coefficients), masks()))
    assert found.verdict is not None and found.verdict.head == End2End(output="output0", extras=32, masks="output1")


def test_end_to_end_rows_of_rt_detr_have_boxes_in_fractions() -> None:
    rows = end2end().value[0]
    rows[:, :4] = rng(0).uniform(0.1, 0.9, (300, 4))
    found = recognized(facts(output("output0", rows)))
    assert found.verdict is not None and found.verdict.head == End2End(output="output0", coordinates="centers")
    assert found.verdict.preprocess["resize"] == "stretch"


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_queries_in_one_output_are_told_from_end_to_end_rows(classes: int) -> None:
    rows = np.concatenate([rng(0).uniform(0.1, 0.9, (300, 4)), scores(300, classes)], axis=1).astype(np.float32)
    found = recognized(facts(output("output0", rows, parts=((0, 4), (4, 4 + classes)), axis=2)))
    assert found.verdict is not None
    assert found.verdict.head == Detr(boxes="output0", activation="none", multi_label=False)
    assert found.verdict.preprocess["resize"] == "stretch"


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (rng(1).normal(-4, 1, (300, 80)), {"activation": "sigmoid", "background": "none"}),
        (np.column_stack([rng(1).normal(0, 1, (100, 91)), np.full(100, 6.0)]), {"activation": "softmax"}),
        (scores(300, 80), {"activation": "none", "background": "none"}),
    ],
    ids=["sigmoid", "softmax", "probabilities"],
)
def test_queries_in_two_outputs(logits: np.ndarray, expected: dict[str, str]) -> None:
    boxes = rng(0).uniform(0.1, 0.9, (len(logits), 4)).astype(np.float32)
    found = recognized(facts(output("pred_boxes", boxes), output("logits", logits.astype(np.float32))))
    assert found.verdict is not None and isinstance(found.verdict.head, Detr)
    assert (found.verdict.head.boxes, found.verdict.head.logits) == ("pred_boxes", "logits")
    assert {name: getattr(found.verdict.head, name) for name in expected} == expected


def test_logits_around_zero_are_not_guessed() -> None:
    boxes = rng(0).uniform(0.1, 0.9, (300, 4)).astype(np.float32)
    found = recognized(facts(output("b", boxes), output("l", rng(1).normal(0, 1, (300, 80)).astype(np.float32))))
    assert found.verdict is None and [each.family for each in found.candidates] == ["detr", "detr"]
    heads = [each.head for each in found.candidates]
    assert [(each.activation, each.background) for each in heads] == [("sigmoid", "none"), ("softmax", "last")]


def test_negative_logits_of_a_softmax_are_not_taken_for_sigmoids() -> None:
    boxes = output("pred_boxes", rng(0).uniform(0.1, 0.9, (50, 4)).astype(np.float32))
    logits = rng(1).normal(-6, 4, (50, 21)).astype(np.float32)
    logits[:, 9] = 8  # as of YOLOS with its first weights
    found = recognized(facts(boxes, output("logits", logits)))
    assert found.verdict is None and len(found.candidates) == 2


def test_rows_that_a_loop_writes_are_no_queries() -> None:
    probabilities = scores(100, 20) / scores(100, 20).sum(axis=1, keepdims=True)
    boxes = rng(0).uniform(0.1, 0.9, (100, 4)).astype(np.float32)
    for stepwise in (False, True):
        known = facts(output("b", boxes, stepwise=stepwise), output("l", probabilities, stepwise=stepwise))
        assert (recognized(known).verdict is None) == stepwise


@pytest.mark.parametrize("last", [False, True])
def test_queries_that_topk_selects_have_sigmoids_unless_their_last_slot_is_the_likeliest(last: bool) -> None:
    boxes = rng(0).uniform(0.1, 0.9, (100, 4)).astype(np.float32)
    logits = rng(1).normal(2, 4, (100, 20)).astype(np.float32)
    if last:
        logits[:, -1] = 20
    found = recognized(facts(output("b", boxes, selected=True), output("l", logits, selected=True)))
    if last:
        assert found.verdict is None and len(found.candidates) == 2
    else:
        assert isinstance(found.verdict.head, Detr) and found.verdict.head.activation == "sigmoid"


@pytest.mark.parametrize(
    ("names", "selected", "mean"),
    [
        (("pred_boxes", "logits"), True, (0.0, 0.0, 0.0)),  # RT-DETR and D-FINE of transformers: do_normalize=False
        (("pred_boxes", "logits"), False, (0.485, 0.456, 0.406)),  # DETR and YOLOS
        (("dets", "labels"), True, (0.485, 0.456, 0.406)),  # RF-DETR
    ],
)
def test_images_of_queries_are_normalized_as_in_training(
    names: tuple[str, str], selected: bool, mean: tuple[float, ...]
) -> None:
    boxes = output(names[0], rng(0).uniform(0.1, 0.9, (100, 4)).astype(np.float32), selected=selected)
    logits = output(names[1], rng(1).normal(-5, 1, (100, 20)).astype(np.float32), selected=selected)
    found = recognized(facts(boxes, logits))
    assert found.verdict is not None and found.verdict.preprocess["resize"] == "stretch"
    assert found.verdict.preprocess.get("mean", (0.0, 0.0, 0.0)) == mean


@pytest.mark.parametrize(("names", "activation"), [(20, "softmax"), (21, "sigmoid")])
def test_class_names_tell_whether_there_is_a_background(names: int, activation: str) -> None:
    boxes = output("b", rng(0).uniform(0.1, 0.9, (50, 4)).astype(np.float32))
    logits = output("l", rng(1).normal(0, 1, (50, 21)).astype(np.float32))
    metadata = Metadata(names=tuple(f"class {i}" for i in range(names)))
    found = recognized(facts(boxes, logits, metadata=metadata))
    assert isinstance(found.verdict.head, Detr) and found.verdict.head.activation == activation


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_boxes_scores_and_labels_are_told_in_any_order(order: tuple[int, ...]) -> None:
    corners = boxes_px(300)
    outputs = (
        output("boxes", corners),
        output("scores", scores(300, 1)[:, 0]),
        output("labels", rng(0).integers(0, 80, 300)),
    )
    known = facts(*(outputs[i] for i in order), inputs=("images", "orig_target_sizes"))
    found = recognized(known)
    assert found.verdict is not None
    assert found.verdict.head == BoxesScoresLabels(boxes="boxes", scores="scores", labels="labels")


def test_outputs_of_efficient_nms_are_told_by_name() -> None:
    known = facts(
        output("num_dets", np.array([7])),
        output("det_boxes", boxes_px(100)),
        output("det_scores", scores(100, 1)[:, 0]),
        output("det_classes", rng(0).integers(0, 80, 100)),
    )
    found = recognized(known)
    assert found.verdict is not None
    assert found.verdict.head == EfficientNms(
        count="num_dets", boxes="det_boxes", scores="det_scores", classes="det_classes"
    )


@pytest.mark.parametrize(("columns", "width"), [("yolov7", 7), ("paddle", 6)])
def test_rows_of_all_images(columns: str, width: int) -> None:
    for count in (0, 12):
        value = np.zeros((count, width), np.float32)
        known = Facts(size=SIZE, outputs=(Output(name="output", value=value, selected=True),))
        found = recognized(known)
        assert found.verdict is not None
        assert found.verdict.head == BatchedRows(output="output", columns=columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "outputs",
    [
        [output("y", rng(0).normal(size=(1000,)).astype(np.float32))],
        [output("y", rng(0).normal(size=(40, 6625)).astype(np.float32))],
        [output("y", scores(40, 97) / scores(40, 97).sum(axis=1, keepdims=True))],
        [output("y", rng(0).normal(size=(19, 64, 64)).astype(np.float32))],
        [output("y", rng(0).normal(size=(197, 384)).astype(np.float32))],
        [output(name, rng(0).normal(size=(255, 8, 8)).astype(np.float32)) for name in "abc"],
        [output("y", scores(96, 128)[None])],
        [output("a", rng(0).normal(size=(50, 384)).astype(np.float32)), output("b", rng(0).normal(size=(384,)))],
    ],
    ids=["logits", "text", "text probabilities", "segments", "tokens", "raw maps", "heat map", "embeddings"],
)
def test_what_is_no_detector_is_not_taken_for_one(outputs: list[Output]) -> None:
    found = recognized(facts(*outputs))
    assert found.verdict is None and not found.candidates and not found.classifies


def test_a_classifier_is_told_by_its_metadata() -> None:
    logits = output("output0", rng(0).normal(size=3).astype(np.float32))
    assert recognized(facts(logits, metadata=Metadata(task="classify"))).classifies
    assert recognized(facts(logits, metadata=Metadata(names=NAMES))).classifies


@pytest.mark.parametrize(
    ("size", "cells", "boxes", "strides"),
    [
        ((640, 640), 8400, 1, (8, 16, 32)),
        ((640, 640), 25200, 3, (8, 16, 32)),
        ((1280, 1280), 34000, 1, (8, 16, 32, 64)),
        ((416, 416), 3549, 1, (8, 16, 32)),
        ((320, 320), 2100, 1, (8, 16, 32)),
        ((640, 640), 300, 1, ()),
        ((100, 100), 8400, 1, ()),
    ],
)
def test_strides_follow_from_the_number_of_cells(
    size: tuple[int, int], cells: int, boxes: int, strides: tuple[int, ...]
) -> None:
    assert grid_cells(size, cells, boxes) == strides


def test_metadata_of_ultralytics_is_read() -> None:
    found = metadata_from_properties(
        {
            "names": "{0: 'a', 1: 'b c'}",
            "task": "pose",
            "kpt_shape": "[17, 3]",
            "imgsz": "[320, 640]",
            "end2end": "True",
        }
    )
    assert found == Metadata(task="pose", names=("a", "b c"), keypoints=(17, 3), size=(320, 640), end2end=True)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["names", "task", "kpt_shape", "imgsz", "end2end"]), st.text(max_size=60)))
def test_any_metadata_is_read_or_left_out(properties: dict[str, str]) -> None:
    assert isinstance(metadata_from_properties(properties), Metadata)


@pytest.mark.parametrize(
    "text", ["{1: 'a'}", "{0: 'a', 2: 'b'}", "['a', '']", "[" * 500, "__import__('os')", "{0: {}}", "9" * 9000, "{}"]
)
def test_damaged_names_are_left_out(text: str) -> None:
    assert metadata_from_properties({"names": text}).names in ((), ("{}",))
