"""The decoders of all families in numpy against the references, and the detections that they give."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import RunError
from edgekit.kernels.decode.families import decode, detect, is_fast, overlap_of
from edgekit.recipe.heads import BatchedRows, Detr, End2End, Head, YoloHead, YoloV3, YoloV5, YoloV8, YoloX
from tests.kernels.detectors import Case, cases, decoded, detected

CASES = cases()
PLACED = {"scale": (0.5, 0.5), "offset": (6.0, -3.0), "size": (150, 120)}


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_in_values_and_order(name: str, threshold: float) -> None:
    case = CASES[name]
    expected = decoded(case, threshold)
    found = decode(case.outputs, case.head, input_size=case.size, score_threshold=threshold)
    assert (
        found.boxes.dtype == found.scores.dtype == np.float32 and found.classes.dtype == found.cells.dtype == np.int64
    )
    assert found.classes.tolist() == [kind for _, _, kind, _ in expected]
    assert found.cells.tolist() == [cell for *_, cell in expected]
    width = 5 if getattr(case.head, "angle", False) else 4
    assert found.boxes.shape == (len(expected), width)
    np.testing.assert_allclose(found.scores, [score for _, score, *_ in expected], rtol=4e-6)
    boxes = np.array([box for box, *_ in expected]).reshape(-1, width)
    np.testing.assert_allclose(found.boxes, boxes, rtol=1e-5, atol=1e-3)
    assert threshold > 0.25 or len(expected) > 5


@pytest.mark.parametrize("name", CASES)
def test_detections_are_those_of_the_references(name: str) -> None:
    case = CASES[name]
    options = {"score_threshold": 0.3, "iou_threshold": 0.4, "max_detections": 60}
    found = detect(case.outputs, case.head, input_size=case.size, **PLACED, **options)  # type: ignore[arg-type]
    expected = detected(decoded(case, 0.3), overlap=overlap_of(case.head), fast=is_fast(case.head), **PLACED, **options)  # type: ignore[arg-type]
    assert len(expected) > 3
    assert list(zip(found["class"].tolist(), found["index"].tolist(), strict=True)) == [row[2:] for row in expected]
    np.testing.assert_allclose(found["score"], [score for _, score, *_ in expected], rtol=4e-6)
    boxes = np.array([box for box, *_ in expected])
    np.testing.assert_allclose(found["box"], boxes[:, :4], rtol=1e-5, atol=2e-3)
    if boxes.shape[1] == 5:
        np.testing.assert_allclose(found["angle"], boxes[:, 4], atol=1e-6)


@pytest.mark.parametrize("name", ["yolov8 rotated", "end2end rotated"])
def test_a_rotated_box_follows_an_image_whose_sides_are_scaled_apart(name: str) -> None:
    case = CASES[name]
    options = {"score_threshold": 0.3, "iou_threshold": 0.4, "max_detections": 60}
    placed = {"scale": (0.5, 0.25), "offset": (6.0, -3.0), "size": (150, 220)}
    found = detect(case.outputs, case.head, input_size=case.size, **placed, **options)  # type: ignore[arg-type]
    expected = detected(decoded(case, 0.3), overlap=overlap_of(case.head), fast=is_fast(case.head), **placed, **options)  # type: ignore[arg-type]
    boxes = np.array([box for box, *_ in expected])
    np.testing.assert_allclose(np.column_stack([found["box"], found["angle"]]), boxes, rtol=1e-5, atol=1e-3)


# A row of a batch says of which image it is, so that a batch cannot be sliced.
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not isinstance(case.head, BatchedRows)])
def test_images_of_a_batch_are_decoded_alone_and_halves_are_widened_first(name: str) -> None:
    case = cases(3, images=2)[name]
    half = {key: array.astype(np.float16) for key, array in case.outputs.items()}
    wide = {key: array[1:].astype(np.float32) for key, array in half.items()}
    batch = decode(half, case.head, input_size=case.size, score_threshold=0.3, index=1)
    alone = decode(wide, case.head, input_size=case.size, score_threshold=0.3)
    assert len(alone.scores) > 0
    for got, expected in zip(batch, alone, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_read_from_what_it_is_written_as(name: str) -> None:
    head = CASES[name].head
    assert msgspec.json.decode(msgspec.json.encode(head), type=Head) == head
    assert msgspec.to_builtins(head)["family"] == name.split()[0]


def test_yolox_cells_written_by_hand_are_decoded_as_in_its_code() -> None:
    rows = np.full((1, 8 * 12 + 4 * 6 + 2 * 3, 6), -50, np.float32)
    rows[0, 13] = [0.5, 0.25, np.log(2), 0, 50, 50]  # stride 8, column 1, row 1
    rows[0, -1] = [0, 0, 0, np.log(3), 50, 50]  # stride 32, column 2, row 1
    head = YoloX(output="o", activation="sigmoid")
    found = decode({"o": rows}, head, input_size=(96, 64), score_threshold=0.5)
    np.testing.assert_allclose(found.boxes, [[12 - 8, 10 - 4, 12 + 8, 10 + 4], [64 - 16, 32 - 48, 64 + 16, 32 + 48]])
    assert found.cells.tolist() == [13, 125]


extreme = st.one_of(st.floats(width=32), st.sampled_from([np.inf, -np.inf, np.nan, 3e38, -3e38, 88.8, -88.8]))
SMALL: list[tuple[Head, dict[str, tuple[int, ...]]]] = [
    (YoloV8(output="o", activation="sigmoid"), {"o": (1, 7, 6)}),
    (YoloV8(output="o", extras=1, angle=True, overlap="probiou"), {"o": (1, 7, 6)}),
    (YoloV5(output="o", multi_label=True), {"o": (1, 6, 7)}),
    (YoloX(output="o", strides=(8,)), {"o": (1, 6, 7)}),
    (End2End(output="o"), {"o": (1, 6, 6)}),
    (Detr(boxes="b", logits="o", activation="softmax", background="last"), {"b": (1, 6, 4), "o": (1, 6, 3)}),
]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(0, len(SMALL) - 1), st.sampled_from([0.0, 0.25, 1.0]))
def test_extreme_numbers_give_finite_boxes_in_silence(data: st.DataObject, which: int, threshold: float) -> None:
    head, shapes = SMALL[which]
    outputs = {name: data.draw(hnp.arrays(np.float32, shape, elements=extreme)) for name, shape in shapes.items()}
    found = detect(
        outputs, head, input_size=(24, 16), scale=(1.0, 1.0), offset=(0.0, 0.0), size=(24, 16),
        score_threshold=threshold, iou_threshold=0.5, max_detections=9,
    )  # fmt: skip
    assert np.isfinite(found["box"]).all() and (found["score"] > threshold).all()
    assert (np.diff(found["score"][np.isfinite(found["score"])]) <= 0).all()


@pytest.mark.parametrize(
    ("head", "shapes", "message"),
    [
        (YoloV8(output="o", extras=2), {"o": (1, 6, 50)}, r"output 'o': expected \(N, 4 \+ classes \+ 2, cells\), got"),
        (YoloV8(output="o", layout="channels-last"), {"o": (1, 50, 4)}, r"expected \(N, cells, 4 \+ classes\)"),
        (YoloV5(output="o"), {"o": (1, 5, 5)}, r"expected \(N, cells, 5 \+ classes\), got \(1, 5, 5\)"),
        (YoloX(output="o"), {"p": (1, 126, 9)}, r"expected .*, got no such output among \['p'\]"),
        (YoloX(output="o"), {"o": (1, 125, 9)}, "expected 126 cells for strides 8, 16, 32 at 96 x 64, got 125"),
        (End2End(output="o"), {"o": (1, 9, 7)}, r"expected \(N, cells, 6\), got \(1, 9, 7\)"),
        (End2End(output="o"), {"o": (9, 6)}, r"expected \(N, cells, 6\), got \(9, 6\)"),
        (Detr(boxes="b", logits="o"), {"b": (1, 9, 4), "o": (1, 8, 3)}, r"output 'o': expected \(N, 9, slots\)"),
        (Detr(boxes="b", logits="o"), {"b": (1, 9, 5), "o": (1, 9, 3)}, r"output 'b': expected \(N, queries, 4\)"),
        (Detr(boxes="b", background="last"), {"b": (1, 9, 5)}, "output 'b': expected at least one class"),
    ],
)
def test_error_on_an_output_that_does_not_fit_the_head(
    head: Head, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    outputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(RunError, match=message):
        decode(outputs, head, input_size=(96, 64), score_threshold=0.5)


def test_error_on_an_angle_without_a_place() -> None:
    with pytest.raises(msgspec.ValidationError, match="extras: expected 1 or more, since the last one is the angle"):
        msgspec.json.decode(b'{"family": "yolov8", "output": "o", "angle": true}', type=Head)


def test_error_on_boxes_with_angles_that_are_not_in_px() -> None:
    text = b'{"family": "end2end", "output": "o", "extras": 1, "angle": true, "coordinates": "centers"}'
    with pytest.raises(msgspec.ValidationError, match="coordinates: expected corners, since the boxes have angles"):
        msgspec.json.decode(text, type=Head)


def test_the_cases_have_every_family() -> None:
    assert {type(case.head) for case in CASES.values()} == set(Head.__args__)
    assert all(isinstance(case, Case) for case in CASES.values())


def test_the_exponent_of_diou_belongs_to_the_head() -> None:
    # Two cells side by side with the same box size: they overlap by 0.6.
    raw = np.zeros((1, 6, 1, 2), np.float32)
    raw[0, 4:] = 3
    head = YoloV3(heads=(YoloHead(output="o", stride=1, anchors=((4.0, 4.0),)),))
    options: dict[str, Any] = {"score_threshold": 0.3, "iou_threshold": 0.55, "max_detections": 9, **PLACED}
    options |= {"scale": (1.0, 1.0), "offset": (0.0, 0.0), "size": (9, 9), "input_size": (2, 1)}
    assert len(detect({"o": raw}, head, **options)) == 1
    assert len(detect({"o": raw}, msgspec.structs.replace(head, diou_beta=0.6), **options)) == 2
