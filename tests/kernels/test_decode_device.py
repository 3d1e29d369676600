"""`DeviceDetector` through the recording driver, whose kernels are decode.cu on the CPU: outputs in, detections out."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgekit
from edgekit.device.cuda.resources import Context, DeviceMemory, Graph, HostMemory, Stream
from edgekit.errors import UsageError
from edgekit.kernels.decode.device import DETECTION, HEAD, PARAMETERS, DeviceDetector
from edgekit.kernels.decode.families import detect, is_fast, overlap_of
from edgekit.kernels.preprocess.geometry import placement
from edgekit.kernels.suppression import reference as nms_reference
from edgekit.kernels.suppression.device import CAPACITY
from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    Detr,
    EfficientNms,
    End2End,
    Head,
    YoloHead,
    YoloV2,
    YoloV3,
    YoloV5,
    YoloV8,
    YoloX,
)
from edgekit.runtime.detections import corners_of_rotated
from tests.fakes.fake_cuda import FakeDriver
from tests.kernels.detectors import Case, cases, decoded, detected
from tests.kernels.failing_calls import calls_that_fail_and_leak_nothing
from tests.runtime.test_against_ultralytics import LETTERBOX, RESULTS, head_of
from tools import record_ultralytics as recorded
from tools.gpu_check import decode as gpu_check

SOURCE = Path(edgekit.__file__).parent / "kernels" / "decode" / "decode.cu"
LIMIT = 60
OPTIONS: dict[str, Any] = {"score_threshold": 0.3, "iou_threshold": 0.4, "max_detections": LIMIT}
PLACED: dict[str, Any] = {"scale": (0.5, 0.5), "offset": (6.0, -3.0), "size": (150, 120)}
# The kernels do not have the other heads; see `test_a_head_without_a_kernel_has_a_reason`.
NAMES = [
    name for name, case in cases().items() if not isinstance(case.head, BatchedRows | BoxesScoresLabels | EfficientNms)
]
# Each family, and each branch of the kernels.
SANITIZED = [
    "yolov1 several",
    "yolov2 one",
    "yolov3 several",
    "yolov5 several",
    "yolov8 one",
    "yolov8 rotated",
    "yolov8 probiou fast",
    "yolox one",
    "detr softmax background first one",
    "end2end",
    "end2end centers",
]


def library(on_cpu: Callable[..., Path]) -> ctypes.CDLL:
    found = ctypes.CDLL(str(on_cpu("decode")))
    found.decode_widened.restype = ctypes.c_float
    return found


@pytest.fixture
def driver(on_cpu: Callable[..., Path]) -> Iterator[FakeDriver]:
    kernels = library(on_cpu)
    kernels.decode_seed(0)
    driver = FakeDriver(kernels=kernels)
    yield driver
    assert not driver.leaks()


class OnDevice:
    """Arrays of a batch in pinned and device memory, and the detector that reads them."""

    def __init__(self, driver: FakeDriver, case: Case, stack: ExitStack, *, limit: int = LIMIT) -> None:
        self.outputs = {name: np.ascontiguousarray(array) for name, array in case.outputs.items()}
        self.images = len(next(iter(self.outputs.values())))
        self.limit = limit
        self.context = stack.enter_context(Context(driver))
        self.stream = stack.enter_context(Stream(self.context))
        self.detector = stack.enter_context(
            DeviceDetector(
                self.context,
                case.head,
                outputs={name: (array.dtype, array.shape) for name, array in self.outputs.items()},
                input_size=case.size,
                images=self.images,
                max_detections=limit,
            )
        )
        sizes = {name: array.nbytes for name, array in self.outputs.items()} | {
            "parameters": self.images * PARAMETERS.itemsize,
            "detections": self.images * limit * DETECTION.itemsize,
            "number": self.images * 4,
        }
        self.host = {name: stack.enter_context(HostMemory(self.context, size)) for name, size in sizes.items()}
        self.device = {name: stack.enter_context(DeviceMemory(self.context, size)) for name, size in sizes.items()}

    def fill(self, *records: dict[str, Any]) -> None:
        parameters = np.array([self.detector.record(**record) for record in records], PARAMETERS)
        for name, array in {**self.outputs, "parameters": parameters}.items():
            self.host[name].array[:] = np.frombuffer(array.tobytes(), np.uint8)

    def submit(self) -> None:
        for name in (*self.outputs, "parameters"):
            self.stream.copy_to_device(self.device[name].address, self.host[name].array)
        addresses = {name: memory.address for name, memory in self.device.items()}
        self.detector.launch(
            self.stream,
            outputs={name: addresses[name] for name in self.outputs},
            parameters=addresses["parameters"],
            detections=addresses["detections"],
            number=addresses["number"],
            images=self.images,
        )
        for name in ("detections", "number"):
            self.stream.copy_to_host(self.host[name].array, self.device[name].address)

    def results(self) -> list[np.ndarray]:
        self.stream.synchronize()
        number = self.host["number"].array[:].view(np.int32)
        rows = np.array(self.host["detections"].array[:]).view(DETECTION).reshape(self.images, self.limit)
        return [row[:count] for row, count in zip(rows, number, strict=True)]


def on_device(driver: FakeDriver, case: Case, *records: dict[str, Any], limit: int = LIMIT) -> list[np.ndarray]:
    with ExitStack() as stack:
        batch = OnDevice(driver, case, stack, limit=limit)
        with batch.context.current():
            batch.fill(*records)
            batch.submit()
            return batch.results()


def expect_equal(found: np.ndarray, expected: np.ndarray) -> None:
    """The same boxes in the same order; numbers up to what exponentials round differently."""
    assert found["class"].tolist() == expected["class"].tolist()
    assert found["index"].tolist() == expected["index"].tolist()
    np.testing.assert_allclose(found["score"], expected["score"], rtol=2e-6)
    np.testing.assert_allclose(found["box"], expected["box"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["angle"], expected["angle"], atol=1e-6)


@pytest.mark.parametrize("half", [False, True], ids=["FP32", "FP16"])
@pytest.mark.parametrize("name", NAMES)
def test_detections_are_those_of_numpy(driver: FakeDriver, name: str, half: bool) -> None:
    case = cases(7, images=2)[name]
    if half:
        case = case._replace(outputs={key: array.astype(np.float16) for key, array in case.outputs.items()})
    records = [{**OPTIONS, **PLACED}, {**OPTIONS, **PLACED, "score_threshold": 0.1, "max_detections": 9}]
    for index, found in enumerate(on_device(driver, case, *records)):
        expect_equal(found, detect(case.outputs, case.head, input_size=case.size, index=index, **records[index]))
        assert len(found) > 3


# Ultralytics' boxes keep their angles where the sides of a letterbox are rounded apart, all others are turned.
@pytest.mark.parametrize("scale", [(0.5, 0.4955), (0.5, 0.25), (0.25, 0.5)])
@pytest.mark.parametrize("name", ["yolov8 rotated", "yolov8 rotated fast", "yolov8 probiou fast", "end2end rotated"])
def test_rotated_boxes_follow_an_image_whose_sides_are_scaled_apart(
    driver: FakeDriver, name: str, scale: tuple[float, float]
) -> None:
    case, options = cases(3)[name], {**OPTIONS, **PLACED, "scale": scale, "size": (300, 220)}
    (found,) = on_device(driver, case, options)
    expect_equal(found, detect(case.outputs, case.head, input_size=case.size, **options))
    assert len(found) > 3
    cells = found["index"]
    output = case.outputs["o"][0]
    angles = output[-1, cells] if name.startswith("yolov8") else output[cells, -1]
    assert (found["angle"] == angles).all() == (scale[1] == 0.4955 and name != "yolov8 rotated")


REAL = ["yolov3 several", "yolov8 one", "yolov8 probiou fast", "yolox one", "detr sigmoid background none several"]


@pytest.mark.parametrize("name", REAL)
def test_detections_are_those_of_the_references_at_real_sizes(driver: FakeDriver, name: str) -> None:
    case = {
        "yolov3 several": _yolov3_416(), "yolov8 one": _yolov8_640(), "yolox one": _yolox_416(),
        "detr sigmoid background none several": _detr_300(), "yolov8 probiou fast": _yolov8_obb_640(),
    }[name]  # fmt: skip
    placed = {**PLACED, "size": (1280, 1280)}
    (found,) = on_device(driver, case, {**OPTIONS, **placed})
    expected = detected(decoded(case, 0.3), overlap=overlap_of(case.head), fast=is_fast(case.head), **OPTIONS, **placed)
    assert len(expected) > 30
    assert list(zip(found["class"].tolist(), found["index"].tolist(), strict=True)) == [row[2:] for row in expected]
    np.testing.assert_allclose(found["box"], [box[:4] for box, *_ in expected], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [name for name, each in recorded.CASES.items() if each.task == "obb"])
def test_rotated_boxes_are_those_that_ultralytics_finds(driver: FakeDriver, name: str) -> None:
    each, outputs = recorded.CASES[name], recorded.raw_outputs(name)
    place = placement(LETTERBOX, each.size, recorded.INPUT).placement
    options = {**recorded.THRESHOLDS, "scale": place.scale, "offset": place.offset, "size": place.size}
    case = Case(head_of(name), recorded.INPUT, outputs)
    (found,) = on_device(driver, case, options, limit=recorded.THRESHOLDS["max_detections"])
    expected = {key: RESULTS[f"{name}/{key}"] for key in ("boxes", "scores", "classes", "angles")}
    assert found["class"].tolist() == expected["classes"].tolist() and len(found) > 50
    np.testing.assert_allclose(found["score"], expected["scores"], rtol=1e-6)
    np.testing.assert_allclose(found["box"], expected["boxes"], atol=1e-3)
    np.testing.assert_allclose(found["angle"], expected["angles"], atol=1e-6)


def _sparse(random: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Logits of which about ``count`` are high."""
    logits = random.normal(-9, 1, shape).astype(np.float32)
    logits.flat[random.permutation(logits.size)[:count]] = random.normal(1, 1.5, count)
    return logits


def _yolov3_416() -> Case:
    random = np.random.default_rng(1)
    heads = tuple(
        YoloHead(output=f"o{stride}", stride=stride, anchors=((2.0 * stride, stride), (stride, stride), (stride, 40.0)))
        for stride in (32, 16, 8)
    )
    outputs = {}
    for head in heads:
        side = 416 // head.stride
        raw = random.normal(0, 1, (1, 3, 85, side, side)).astype(np.float32)
        raw[:, :, 4] = _sparse(random, (1, 3, side, side), 150)
        raw[:, :, 5:] = _sparse(random, (1, 3, 80, side, side), 20 * side * side)
        outputs[head.output] = raw.reshape(1, 255, side, side)
    return Case(YoloV3(heads=heads), (416, 416), outputs)


def _yolov8_640() -> Case:
    random = np.random.default_rng(2)
    scores = _sparse(random, (1, 80, 8400), 1500)
    boxes = np.concatenate([random.uniform(0, 640, (1, 2, 8400)), random.uniform(9, 200, (1, 2, 8400))], axis=1)
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return Case(
        YoloV8(output="o"), (640, 640), {"o": np.concatenate([boxes, probabilities], axis=1).astype(np.float32)}
    )


def _yolov8_obb_640() -> Case:
    random = np.random.default_rng(5)
    plain = _yolov8_640().outputs["o"][:, :24]
    angles = random.uniform(-np.pi / 4, 3 * np.pi / 4, (1, 1, 8400)).astype(np.float32)
    head = YoloV8(output="o", extras=1, angle=True, overlap="probiou", suppression="fast")
    return Case(head, (640, 640), {"o": np.concatenate([plain, angles], axis=1)})


def _yolox_416() -> Case:
    random = np.random.default_rng(3)
    cells = 52**2 + 26**2 + 13**2
    rows = random.normal(0, 1, (1, cells, 85)).astype(np.float32)
    rows[..., 4] = _sparse(random, (1, cells), 400)
    return Case(YoloX(output="o", activation="sigmoid"), (416, 416), {"o": rows})


def _detr_300() -> Case:
    random = np.random.default_rng(4)
    boxes = random.uniform(0.1, 0.6, (1, 300, 4)).astype(np.float32)
    return Case(Detr(boxes="b", logits="l"), (640, 640), {"b": boxes, "l": _sparse(random, (1, 300, 80), 200)})


def test_the_order_of_threads_changes_nothing(driver: FakeDriver) -> None:
    found = set()
    for seed in range(5):
        driver.kernels.decode_seed(seed)  # type: ignore[union-attr]
        for name in ("yolov3 several", "yolov5 one", "detr softmax background first several"):
            (rows,) = on_device(driver, cases()[name], {**OPTIONS, **PLACED, "score_threshold": 0.1})
            found.add((name, rows.tobytes()))
    assert len(found) == 3


@pytest.mark.parametrize("count", [2047, 2048, 2049, 6000])
def test_the_best_candidates_are_chosen_over_all(driver: FakeDriver, count: int) -> None:
    random = np.random.default_rng(count)
    # Far apart, so that none is suppressed; scores have few values, so that many are equal.
    boxes = np.stack([np.arange(count) * 10.0, np.zeros(count), np.full(count, 4), np.full(count, 4)])
    outputs = np.concatenate([boxes, random.integers(1, 50, (1, count)) / 50])[None].astype(np.float32)
    case = Case(YoloV8(output="o"), (10 * count, 64), {"o": outputs})
    options = {**OPTIONS, "score_threshold": 0.0, "max_detections": count}
    placed = {"scale": (1.0, 1.0), "offset": (-5.0, -5.0), "size": (10 * count, 64)}
    options["max_detections"] = min(count, CAPACITY)
    (found,) = on_device(driver, case, {**options, **placed}, limit=CAPACITY)
    best = np.argsort(-outputs[0, 4], kind="stable")[:CAPACITY]
    assert found["index"].tolist() == best.tolist()
    in_numpy = detect(case.outputs, case.head, input_size=case.size, capacity=CAPACITY, **options, **placed)
    assert in_numpy["index"].tolist() == best.tolist()


def small(outputs: np.ndarray, **changed: Any) -> Case:
    return Case(YoloV8(output="o", **changed), (64, 64), {"o": outputs})


WHOLE = {"scale": (1.0, 1.0), "offset": (0.0, 0.0), "size": (64, 64)}


def test_no_candidate_gives_no_detection(driver: FakeDriver) -> None:
    case = small(np.zeros((1, 6, 100), np.float32))
    (found,) = on_device(driver, case, {**OPTIONS, **WHOLE})
    assert len(found) == 0


def test_equal_boxes_leave_one_of_each_class_and_the_first_of_equal_scores(driver: FakeDriver) -> None:
    outputs = np.tile(np.float32([32, 32, 16, 16, 0.5, 0.25])[None, :, None], (1, 1, 70))
    (found,) = on_device(driver, small(outputs, multi_label=True), {**OPTIONS, **WHOLE, "score_threshold": 0.2})
    assert found["class"].tolist() == [0, 1] and found["index"].tolist() == [0, 0]
    assert found["box"].tolist() == [[24, 24, 40, 40]] * 2


def test_thresholds_are_exclusive(driver: FakeDriver) -> None:
    # The intersection of the two boxes is half of their union.
    outputs = np.float32([[2, 2, 4, 4, 0.5], [2, 1, 4, 2, 0.25]]).T[None]
    for threshold, kept in ((0.5, [0, 1]), (np.nextafter(0.5, 0), [0])):
        options = {**OPTIONS, **WHOLE, "score_threshold": 0.0, "iou_threshold": float(threshold)}
        assert on_device(driver, small(outputs), options)[0]["index"].tolist() == kept
    assert on_device(driver, small(outputs), {**OPTIONS, **WHOLE, "score_threshold": 0.25})[0]["index"].tolist() == [0]


@pytest.mark.parametrize("limit", [0, 1, 64, 65])
def test_no_more_than_the_limit_are_kept_and_what_is_behind_is_not_written(driver: FakeDriver, limit: int) -> None:
    outputs = np.random.default_rng(0).random((1, 6, 90)).astype(np.float32)
    outputs[0, 0] = np.arange(90)
    outputs[0, 2:4] = 0.5
    with ExitStack() as stack:
        batch = OnDevice(driver, small(outputs), stack, limit=80)
        with batch.context.current():
            batch.fill({**OPTIONS, **WHOLE, "size": (99, 64), "max_detections": limit})
            batch.submit()
            (found,) = batch.results()
            assert len(found) == limit
            assert (batch.host["detections"].array[limit * DETECTION.itemsize :] == 0xAB).all()  # as it was allocated


def test_what_is_no_box_is_ignored_before_the_best_are_chosen(driver: FakeDriver) -> None:
    outputs = np.zeros((1, 5, 2100), np.float32)
    outputs[0, 0], outputs[0, 2:4], outputs[0, 4] = np.arange(2100) * 9, 3, 0.5
    outputs[0, :4, :2060] = [[np.nan], [np.inf], [-np.inf], [3e38]]
    outputs[0, 4, :2060] = 0.9
    outputs[0, 4, 2070] = np.nan
    case = Case(YoloV8(output="o"), (64, 64), {"o": outputs})
    (found,) = on_device(driver, case, {**OPTIONS, **WHOLE, "offset": (-5.0, -5.0), "size": (20000, 64)})
    assert found["index"].tolist() == [i for i in range(2060, 2100) if i != 2070]


@pytest.mark.parametrize("size", [(1, 1), (7680, 4320)])
def test_images_of_all_sizes_are_clipped_to(driver: FakeDriver, size: tuple[int, int]) -> None:
    case = cases()["yolov8 one"]
    scale = min(case.size[0] / size[0], case.size[1] / size[1])
    placed = {"scale": (scale, scale), "offset": (0.0, 3.0), "size": size}
    (found,) = on_device(driver, case, {**OPTIONS, **placed})
    expect_equal(found, detect(case.outputs, case.head, input_size=case.size, **OPTIONS, **placed))  # type: ignore[arg-type]
    assert len(found) > 3 and (found["box"] >= 0).all() and (found["box"] <= np.array(size * 2)).all()


@pytest.mark.parametrize("name", ["yolov3 several", "yolov8 rotated", "yolov8 probiou fast", "end2end"])
def test_a_captured_graph_is_replayed_with_other_parameters(driver: FakeDriver, name: str) -> None:
    with ExitStack() as stack:
        case = cases(5, images=2)[name]
        batch = OnDevice(driver, case, stack)
        with batch.context.current():
            batch.fill(*[{**OPTIONS, **PLACED}] * 2)
            graph = stack.enter_context(Graph(batch.context, batch.stream, batch.submit))
            assert driver.trace == []  # captured, not run
            for threshold, size in ((0.3, (150, 120)), (0.1, (90, 700)), (0.9, (12, 12))):
                records = [
                    {**OPTIONS, **PLACED, "score_threshold": threshold, "size": size},
                    {**OPTIONS, **PLACED, "iou_threshold": threshold, "offset": (0.0, 0.0), "max_detections": 7},
                ]
                batch.fill(*records)
                graph.launch(batch.stream)
                for index, found in enumerate(batch.results()):
                    expected = detect(case.outputs, case.head, input_size=case.size, index=index, **records[index])
                    expect_equal(found, expected)
    kernels = [each for each in driver.trace if each.startswith("decode")]
    family = "planes" if name != "end2end" else "rows"
    overlaps = {"yolov3 several": ["decode_overlaps"], "end2end": []}.get(name, ["decode_overlaps_rotated"])
    assert kernels == 3 * ["decode_reset", f"decode_filter_{family}", "decode_select", *overlaps, "decode_emit"]


# A side that float32 loses when the box is moved is no area in the image.
corner = st.integers(0, 12).map(float) | st.floats(0.125, 12, width=32)
KINDS: list[Head] = [
    YoloV8(output="o", layout="channels-last", multi_label=True),
    YoloV8(output="o", layout="channels-last", extras=1, angle=True),
    YoloV8(output="o", layout="channels-last", extras=1, angle=True, overlap="probiou"),
    YoloV8(output="o", layout="channels-last", extras=1, angle=True, suppression="fast"),
    YoloV8(output="o", layout="channels-last", extras=1, angle=True, overlap="probiou", suppression="fast"),
]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(*[corner] * 4, *[st.integers(0, 4)] * 2, st.integers(0, 3)), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 1 / 3, 0.5, 1.0]),
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
def test_what_is_kept_and_what_is_dropped_has_its_reason(
    on_cpu: Callable[..., Path],
    rows: list[tuple[float, ...]],
    score_threshold: float,
    iou_threshold: float,
    head: Head,
    limit: int,
    seed: int,
) -> None:
    kernels = library(on_cpu)
    kernels.decode_seed(seed)
    rotated = isinstance(head, YoloV8) and head.angle
    table = np.array(rows, np.float32)
    table[:, 4:6] /= 4
    outputs = table[None, :, : 7 if rotated else 6]
    case = Case(head, (64, 64), {"o": outputs})
    options = {"score_threshold": score_threshold, "iou_threshold": iou_threshold, "max_detections": limit}
    (found,) = on_device(
        FakeDriver(kernels=kernels), case, {**options, **WHOLE, "size": (99, 99), "offset": (-32, -32)}
    )

    candidates = decoded(case, score_threshold)
    overlap = {"corners": nms_reference.iou, "rotated": nms_reference.rotated_iou, "probiou": nms_reference.probiou}[
        str(overlap_of(head))
    ]
    boxes = {(cell, kind): np.float32(box).tolist() for box, _, kind, cell in candidates}
    scores = {(cell, kind): score for _, score, kind, cell in candidates}
    kept = list(zip(found["index"].tolist(), found["class"].tolist(), strict=True))
    # A box without area is kept, but not shown.
    shown = {
        each for each, box in boxes.items() if (min(box[2:4]) > 0 if rotated else box[0] < box[2] and box[1] < box[3])
    }

    def overlaps(a: tuple[int, int], b: tuple[int, int], slack: float) -> bool:
        return a[1] == b[1] and overlap(boxes[a], boxes[b]) > iou_threshold + slack

    slack = 1e-6 if rotated else 0.0  # sines and cosines round differently
    assert set(kept) <= shown and len(set(kept)) == len(kept) <= limit
    better = {each: [k for k in boxes if (-scores[k], k) < (-scores[each], each)] for each in boxes}
    alive = boxes if is_fast(head) else kept
    assert not any(overlaps(a, b, slack) for a in kept for b in better[a] if b in alive)
    if len(kept) < limit and len(shown) == len(boxes):
        for each in shown - set(kept):
            assert any(overlaps(k, each, -slack) for k in better[each] if k in alive)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(24)), st.integers(0, 3))
def test_permuting_the_cells_changes_nothing_but_ties(on_cpu: Callable[..., Path], order: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes = np.concatenate([random.uniform(0, 64, (2, 24)), random.uniform(5, 30, (2, 24))])
    outputs = np.concatenate([boxes, random.permutation(48).reshape(2, 24) / 48])[None].astype(np.float32)
    kernels = library(on_cpu)
    (plain,) = on_device(FakeDriver(kernels=kernels), small(outputs, multi_label=True), {**OPTIONS, **WHOLE})
    (other,) = on_device(
        FakeDriver(kernels=kernels), small(outputs[:, :, order], multi_label=True), {**OPTIONS, **WHOLE}
    )
    assert [order[i] for i in other["index"]] == plain["index"].tolist()
    for field in ("box", "score", "class"):
        np.testing.assert_array_equal(other[field], plain[field])


extreme = st.one_of(st.floats(width=32), st.sampled_from([np.inf, -np.inf, np.nan, 3e38, -3e38, 88.8, -88.8]))
SMALL: list[tuple[Head, dict[str, tuple[int, ...]]]] = [
    (YoloV8(output="o", activation="sigmoid"), {"o": (1, 7, 6)}),
    (YoloV8(output="o", multi_label=True), {"o": (1, 7, 6)}),
    (YoloV5(output="o", multi_label=True), {"o": (1, 6, 7)}),
    (YoloX(output="o", strides=(8,)), {"o": (1, 6, 7)}),
    (End2End(output="o"), {"o": (1, 6, 6)}),
    (End2End(output="o", coordinates="centers"), {"o": (1, 6, 6)}),
    (Detr(boxes="b", logits="o", activation="softmax", background="last"), {"b": (1, 6, 4), "o": (1, 6, 3)}),
]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(SMALL), st.sampled_from([0.0, 0.25, 1.0]))
def test_extreme_numbers_give_what_numpy_gives(
    on_cpu: Callable[..., Path], data: st.DataObject, kind: tuple[Head, dict[str, tuple[int, ...]]], threshold: float
) -> None:
    head, shapes = kind
    outputs = {name: data.draw(hnp.arrays(np.float32, shape, elements=extreme)) for name, shape in shapes.items()}
    options = {**WHOLE, **OPTIONS, "score_threshold": threshold, "size": (24, 16)}
    (found,) = on_device(FakeDriver(kernels=library(on_cpu)), Case(head, (24, 16), outputs), options)
    expected = detect(outputs, head, input_size=(24, 16), **options)
    # Scores that are nearly equal may change places, as exponentials round differently.
    for rows in (found, expected):
        rows.sort(order=["index", "class"])
    expect_equal(found, expected)


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: type(kind[0]).__name__)
@pytest.mark.parametrize("number", [3e38, -3e38, np.inf, np.nan])
def test_numbers_without_a_product_give_no_box_and_no_warning(
    kind: tuple[Head, dict[str, tuple[int, ...]]], number: float
) -> None:
    head, shapes = kind
    outputs = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    for array in outputs.values():
        array.reshape(-1)[0] = number
    found = detect(outputs, head, input_size=(24, 16), **{**WHOLE, **OPTIONS, "score_threshold": 0.0, "size": (24, 16)})
    assert np.isfinite(found["box"]).all()


def test_all_halves_are_widened(on_cpu: Callable[..., Path]) -> None:
    kernels = library(on_cpu)
    bits = np.arange(2**16, dtype=np.uint16)
    found = np.array([kernels.decode_widened(int(each)) for each in bits], np.float32)
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float32))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 40), min_size=8, max_size=8),
    st.integers(-60, 60),
    st.integers(-2, 2),
    st.booleans(),
)
def test_overlaps_in_float32_are_decided_as_in_float64(
    on_cpu: Callable[..., Path], corners: list[int], exponent: int, steps: int, scaled: bool
) -> None:
    kernels = library(on_cpu)
    a, b = np.float32(corners).reshape(2, 4) * np.float32(2.0**exponent if scaled else 1 / 3)
    wide_a, wide_b = a.tolist(), b.tolist()
    threshold = nms_reference.iou(wide_a, wide_b)
    for _ in range(abs(steps)):
        threshold = max(0.0, float(np.nextafter(threshold, steps)))
    expected = nms_reference.iou(wide_a, wide_b) > threshold
    pointers = (each.ctypes.data_as(ctypes.c_void_p) for each in (a, b))
    assert bool(kernels.decode_overlap(*pointers, ctypes.c_double(threshold))) == expected


def test_structs_are_as_large_in_python_as_in_cuda(on_cpu: Callable[..., Path]) -> None:
    sizes = (ctypes.c_int * 4)()
    library(on_cpu).decode_sizes(sizes)
    assert list(sizes) == [HEAD.itemsize, PARAMETERS.itemsize, DETECTION.itemsize, CAPACITY]
    assert HEAD.itemsize % 8 == 0  # pycuda places what follows a struct without a gap


def test_all_arguments_of_kernels_can_be_hashed(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    launch = driver.launch
    monkeypatch.setattr(driver, "launch", lambda *rest, **named: (given.append(rest[3]), launch(*rest, **named))[1])
    found = on_device(driver, cases()["yolov8 rotated"], {**OPTIONS, **PLACED})
    assert len(found[0]) > 3 and len(given) == 5
    for arguments in given:
        assert len({*arguments}) > 1


def test_neither_addresses_nor_arithmetic_go_wrong(on_cpu: Callable[..., Path]) -> None:
    sanitized = on_cpu("decode", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    program = (
        "import ctypes\n"
        "from tests.fakes.fake_cuda import FakeDriver\n"
        "from tests.kernels.detectors import cases\n"
        "from tests.kernels.test_decode_device import OPTIONS, PLACED, on_device\n"
        f"driver = FakeDriver(kernels=ctypes.CDLL({str(sanitized)!r}))\n"
        f"for name in {SANITIZED}:\n"
        "    print(len(on_device(driver, cases(2)[name], {**OPTIONS, **PLACED, 'score_threshold': 0.2})[0]))\n"
    )
    environment = os.environ | {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path])),
    }
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.split()) == len(SANITIZED) and "0" not in done.stdout.split()


def test_everything_is_freed_whichever_call_fails() -> None:
    def load(context: Context) -> None:
        sizes = {"outputs": {"o": (np.dtype(np.float32), (1, 6, 100))}, "input_size": (64, 64)}
        DeviceDetector(context, YoloV8(output="o"), **sizes, images=1, max_detections=9).close()  # type: ignore[arg-type]

    assert calls_that_fail_and_leak_nothing(load) > 20


HALF = np.dtype(np.float16)
SINGLE = np.dtype(np.float32)
ANCHORS = ((1.0, 1.0),)


@pytest.mark.parametrize(
    ("head", "outputs", "reason"),
    [
        (YoloV8(output="o"), {"o": (SINGLE, (1, 84, 8400))}, ""),
        (YoloV8(output="o"), {"o": (np.dtype(np.float64), (1, 84, 9))}, "output 'o': expected float32 or float16, got"),
        (YoloV8(output="p"), {"o": (SINGLE, (1, 84, 8400))}, "output 'p': expected .*, got no such output among"),
        (YoloV8(output="o"), {"o": (SINGLE, (1, 84, 0))}, "at least one box"),
        (BatchedRows(output="o"), {"o": (SINGLE, (9, 7))}, "the model decodes its detections itself"),
        (End2End(output="o", coordinates="centers"), {"o": (SINGLE, (1, 9, 6))}, ""),
        (YoloV8(output="o", extras=1, angle=True, suppression="fast"), {"o": (SINGLE, (1, 6, 9))}, ""),
        (End2End(output="o", extras=1, angle=True), {"o": (SINGLE, (1, 9, 7))}, ""),
        (
            YoloV3(heads=(YoloHead(output="a", stride=8, anchors=ANCHORS),), diou_beta=0.6),
            {"a": (SINGLE, (1, 9, 2, 2))},
            "without the distance of DIoU",
        ),
        (YoloX(output="o", strides=(8, 16, 32, 64, 128)), {"o": (SINGLE, (1, 9, 9))}, "at most 4 strides, got 5"),
        (Detr(boxes="b", logits="l"), {"b": (SINGLE, (1, 9, 4)), "l": (HALF, (1, 9, 9))}, ""),
        (
            YoloV3(heads=tuple(YoloHead(output=c, stride=8, anchors=ANCHORS) for c in "ab")),
            {"a": (SINGLE, (1, 9, 2, 2)), "b": (HALF, (1, 9, 2, 2))},
            "outputs a, b: expected one element type, got float32, float16",
        ),
        (
            YoloV3(heads=tuple(YoloHead(output=c, stride=8, anchors=ANCHORS) for c in "abcde")),
            {c: (SINGLE, (1, 9, 2, 2)) for c in "abcde"},
            "expected at most 4 outputs, got 5",
        ),
        (
            YoloV2(heads=(YoloHead(output="a", stride=8, anchors=ANCHORS * 10),)),
            {"a": (SINGLE, (1, 90, 2, 2))},
            "expected at most 9 anchors per output, got 10",
        ),
    ],
)
def test_a_head_without_a_kernel_has_a_reason(head: Any, outputs: Any, reason: str) -> None:
    found = DeviceDetector.supports(head, outputs)
    assert re.search(reason, found) if reason else found == ""
    if not reason:
        return
    with Context(FakeDriver()) as context, pytest.raises(UsageError, match=reason):
        DeviceDetector(context, head, outputs=outputs, input_size=(64, 64), images=1, max_detections=9)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score_threshold": -0.1}, "score_threshold: expected 0 to 1, got -0.1"),
        ({"iou_threshold": float("nan")}, "iou_threshold: expected 0 to 1, got nan"),
        ({"max_detections": 61}, "max_detections: expected 0 to 60, got 61"),
        ({"scale": (0.0, 1.0)}, "scale and size: expected positive numbers"),
        ({"images": 2}, "images: expected 1 to 1, got 2"),
        ({"outputs": {}}, "outputs: expected o, got none for o"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_launched(
    driver: FakeDriver, changed: dict[str, Any], message: str
) -> None:
    case = cases()["yolov8 one"]
    with ExitStack() as stack:
        batch = OnDevice(driver, case, stack)
        launches = driver.calls.count("launch")
        record = {**OPTIONS, **PLACED}
        arguments = {"outputs": {"o": 0}, "parameters": 0, "detections": 0, "number": 0, "images": 1}
        with batch.context.current(), pytest.raises(UsageError, match=message):
            batch.detector.record(**{**record, **{key: changed[key] for key in changed if key in record}})
            batch.detector.launch(batch.stream, **{**arguments, **changed})  # type: ignore[arg-type]
        assert driver.calls.count("launch") == launches


@pytest.mark.parametrize("numbers", [{"images": 0}, {"max_detections": 0}, {"max_detections": 2049}])
def test_a_detector_for_nothing_or_too_much_is_refused(numbers: dict[str, int]) -> None:
    outputs = {"o": (SINGLE, (1, 6, 9))}
    given = {"images": 1, "max_detections": 1, **numbers}
    with Context(FakeDriver()) as context, pytest.raises(UsageError, match=r"expected 1 to \d+, got"):
        DeviceDetector(context, YoloV8(output="o"), outputs=outputs, input_size=(64, 64), **given)


def test_the_check_for_gpus_finds_kernels_that_are_not_exact(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "driver", lambda: driver)
    cases = (("yolov8", 1, 1000), ("yolov8-obb", 1, 1000), ("yolov3", 2, 100))
    few: dict[str, Any] = {"cases": cases, "warmup": 1, "repeats": 2}
    assert gpu_check.check_decode(**few) == {
        "cases": [  # a tick of 1 ms for each kernel and event
            {"family": family, "images": images, "candidates": count, "median_us": 6000}
            for family, images, count in cases
        ],
        "problems": [],
        "goals": {"goal_us": 50, "goal_times_torchvision": 5, "yolov8_us": 6000, "yolov8-obb_us": 6000},
    }
    found = detect

    def worse(*arguments: Any, **options: Any) -> np.ndarray:
        return found(*arguments, **{**options, "max_detections": 5})

    monkeypatch.setattr(gpu_check, "detect", worse)
    assert [problem.split(": ")[0] for problem in gpu_check.check_decode(**few)["problems"]] == [
        f"{family}, {images} images, {count} candidates" for family, images, count in cases
    ]  # fmt: skip


@pytest.mark.parametrize("family", gpu_check.FAMILIES)
def test_what_the_check_measures_in_torch_gives_the_same_boxes(family: str) -> None:
    head, size, outputs = gpu_check.made(family, 1, 1000)
    tensors = {name: torch.from_numpy(array[0]) for name, array in outputs.items()}
    boxes, scores, classes = gpu_check.detected_by_torch(head, tensors, gpu_check.greedy)
    expected = detect(outputs, head, input_size=size, **gpu_check.OPTIONS, **gpu_check.PLACED)
    found = expected["box"]
    if family == "yolov8-obb":
        found = np.column_stack([found, expected["angle"]])
        outlines = corners_of_rotated(boxes.numpy())
        width, height = gpu_check.PLACED["size"]
        shown = torch.from_numpy(((outlines.max(axis=1) > 0) & (outlines.min(axis=1) < (width, height))).all(axis=1))
    else:
        shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert classes[shown].tolist() == expected["class"].tolist() and len(expected) > 100
    np.testing.assert_allclose(scores[shown], expected["score"], rtol=1e-5)
    np.testing.assert_allclose(boxes[shown], found, rtol=1e-4, atol=1e-3)


def test_no_kernel_spills_and_each_takes_what_is_recorded(
    architecture: int, check_resources: Callable[[Path, int], None]
) -> None:
    check_resources(SOURCE, architecture)
