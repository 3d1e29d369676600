"""Masks and key points of COCO and YOLO annotations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as pycocotools_mask

from edgekit.data.examples import data_set
from edgekit.data.shapes import ObjectShape, _decompressed, decoded_shape
from edgekit.errors import DataError

SIZE = (40, 30)
POLYGON = [1.0, 2.0, 5.0, 2.0, 5.0, 6.0]
RUNS = {"size": [30, 40], "counts": [5, 10, 1185]}
COMPRESSED = "5:QU1"
"""The same, as pycocotools writes it."""
POINTS = [1.0, 2.0, 2.0, 3.0, 4.0, 0.0]


@pytest.fixture
def coco(tmp_path: Path):
    def made(*annotations: dict, name: str = "val.json") -> Path:
        Image.new("RGB", SIZE).save(tmp_path / "0.png")
        content = {
            "images": [{"id": 7, "file_name": "0.png", "width": SIZE[0], "height": SIZE[1]}],
            "annotations": [
                {"id": i, "image_id": 7, "category_id": 1, "bbox": [1, 2, 9, 9], **each}
                for i, each in enumerate(annotations)
            ],
            "categories": [{"id": 1, "name": "person"}],
        }
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        return file

    return made


@pytest.fixture
def yolo(tmp_path: Path):
    def made(*lines: str, settings: str = "") -> Path:
        for folder in ("images", "labels"):
            (tmp_path / folder / "val").mkdir(parents=True)
        Image.new("RGB", SIZE).save(tmp_path / "images" / "val" / "0.png")
        (tmp_path / "labels" / "val" / "0.txt").write_text("\n".join(lines))
        (tmp_path / "data.yaml").write_text(f"names: [person]\nval: images/val\n{settings}")
        return tmp_path / "data.yaml"

    return made


def test_masks_of_coco_are_polygons_and_run_lengths_and_crowds_have_theirs(coco) -> None:
    file = coco(
        {"segmentation": [POLYGON], "area": 8},
        {"segmentation": RUNS, "iscrowd": 1},
        {"segmentation": {"size": [30, 40], "counts": COMPRESSED}, "area": 1.5},
    )
    examples = data_set(str(file), task="segment")
    boxes = examples[0].target
    assert examples.task == "segment"
    assert [shape.mask for shape in boxes.shapes] == [[POLYGON], {"size": [30, 40], "counts": COMPRESSED}]
    assert [shape.area for shape in boxes.shapes] == [8, 1.5]
    assert [shape.mask for shape in boxes.ignored.shapes] == [RUNS]


def test_a_set_that_is_opened_for_boxes_has_no_shapes(coco) -> None:
    file = coco({"segmentation": [POLYGON], "area": 8})
    examples = data_set(str(file), task="detect")
    assert examples.task == "detect" and examples[0].target.shapes == ()


def test_key_points_of_coco_and_the_file_that_has_them(coco, tmp_path: Path) -> None:
    coco({"keypoints": POINTS, "num_keypoints": 1, "area": 8}, name="annotations/person_keypoints_val2017.json")
    coco({"segmentation": [POLYGON]}, name="annotations/instances_val2017.json")
    (shape,) = data_set(str(tmp_path), split="val", task="pose")[0].target.shapes
    assert list(shape.keypoints) == POINTS and shape.area == 8
    assert data_set(str(tmp_path), split="val", task="segment")[0].target.shapes[0].mask == [POLYGON]


@pytest.mark.parametrize(
    ("task", "missing", "words"), [("segment", {}, "a mask"), ("obb", {"segmentation": []}, "a mask"),
     ("pose", {"keypoints": [1, 2]}, "key points")]
)  # fmt: skip
def test_annotations_without_a_shape_are_skipped_and_counted(coco, task: str, missing: dict, words: str) -> None:
    whole = {"segmentation": [POLYGON], "keypoints": POINTS}
    examples = data_set(str(coco(whole, missing)), task=task)
    assert len(examples[0].target) == 1
    assert any(f"annotations without {words}: 1 skipped" in note for note in examples.notes)


def test_a_set_whose_key_points_are_all_invalid_is_refused(coco) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\]: expected key points, got none"):
        data_set(str(coco({"keypoints": [1, 2]})), task="pose")


@pytest.mark.parametrize(
    "mask",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [1, 2],
        "polygon",
        {"size": [30, 40]},
        {"size": [30, 40], "counts": "\x01"},
        {"size": [30], "counts": COMPRESSED},
        {"size": [30, 40], "counts": [5.0, 1195.0]},
    ],
)
def test_error_on_a_mask_that_is_neither_polygons_nor_run_lengths(coco, mask) -> None:
    examples = data_set(str(coco({"segmentation": mask})), task="segment")
    with pytest.raises(DataError, match=r"images\[0\] of val.json: segmentation: expected polygons"):
        examples[0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            {"size": [40, 30], "counts": [5, 10, 1185]},
            r"\[30, 40\] of the image, height first, got \[40, 30\]",
        ),
        ({"size": [40, 30], "counts": COMPRESSED}, "height first"),
        ({"size": [30, 40], "counts": [5, 10]}, "add up to the 1,200 px of the image, got 15"),
        ({"size": [30, 40], "counts": "5:"}, "add up to the 1,200 px of the image, got 15"),
        ({"size": [30, 40], "counts": f"{COMPRESSED}5"}, "add up to the 1,200 px"),
        ({"size": [30, 40], "counts": "oo50"}, "add up to the 1,200 px"),
        ({"size": [30, 40], "counts": "ooo"}, "add up to the 1,200 px"),
    ],
)
def test_run_lengths_are_those_of_the_image(coco, mask: dict, message: str) -> None:
    # pycocotools does not come back from lengths that add up to more.
    with pytest.raises(DataError, match=message):
        data_set(str(coco({"segmentation": mask})), task="segment")[0]


@given(masks=arrays(np.uint8, (30, 40), elements=st.integers(0, 1)))
def test_run_lengths_of_pycocotools_are_read(masks: np.ndarray) -> None:
    encoded = pycocotools_mask.encode(np.asfortranarray(masks))
    shape = ObjectShape(json.dumps({"size": [30, 40], "counts": encoded["counts"].decode()}).encode())
    assert decoded_shape(shape, "here", SIZE).mask["counts"] == encoded["counts"].decode()
    pixels = masks.flatten(order="F")
    lengths = np.diff(np.flatnonzero(np.diff(pixels)) + 1, prepend=0, append=pixels.size)
    assert sum(_decompressed(encoded["counts"].decode())) == masks.size
    assert [n for n in _decompressed(encoded["counts"].decode()) if n] == [n for n in lengths.tolist() if n]


def test_outlines_of_yolo_are_in_px_and_a_box_is_its_own_outline(yolo) -> None:
    examples = data_set(str(yolo("0 0.1 0.2 0.5 0.2 0.5 0.6", "0 0.5 0.5 0.5 0.5")), task="segment", split="val")
    boxes = examples[0].target
    assert examples.task == "segment"
    np.testing.assert_allclose(boxes.shapes[0].mask, [[4, 6, 20, 6, 20, 18]])
    np.testing.assert_allclose(boxes.shapes[1].mask, [[10, 7.5, 30, 7.5, 30, 22.5, 10, 22.5]])
    np.testing.assert_allclose(boxes.corners, [[4, 6, 20, 18], [10, 7.5, 30, 22.5]])


@pytest.mark.parametrize("values", [2, 3])
def test_key_points_of_yolo_have_a_visibility_and_a_share_of_the_box_as_area(yolo, values: int) -> None:
    points = ["0.1 0.2 2 0.5 0.6 0", "0.1 0.2 0.5 0.6"][3 - values]
    file = yolo(f"0 0.5 0.5 0.5 0.4 {points}", settings=f"kpt_shape: [2, {values}]")
    examples = data_set(str(file), task="pose", split="val")
    (shape,) = examples[0].target.shapes
    np.testing.assert_allclose(shape.keypoints, [4, 6, (1, 2)[values - 2], 20, 18, (1, 0)[values - 2]])
    assert shape.area == pytest.approx(0.53 * 20 * 12)
    assert data_set(str(file), task="detect", split="val")[0].target.shapes == ()


def test_error_when_a_yolo_set_for_poses_has_no_kpt_shape(yolo) -> None:
    with pytest.raises(DataError, match=r"kpt_shape: expected \[keypoints, 2 or 3\]"):
        data_set(str(yolo("0 0.5 0.5 0.5 0.4")), task="pose", split="val")


def test_a_set_of_boxes_does_for_an_engine_with_masks() -> None:
    assert data_set("scenes", task="segment").task == "detect"


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_a_yolo_set_of_boxes_alone_has_no_masks(yolo, task: str) -> None:
    examples = data_set(str(yolo("0 0.5 0.5 0.5 0.5", "0 0.5 0.5 0.5 0.4")), task=task, split="val")
    assert examples.task == "detect"
    assert len(examples[0].target) == 2 and examples[0].target.shapes == ()


def test_a_yolo_set_of_key_points_has_no_masks(yolo) -> None:
    file = yolo("0 0.5 0.5 0.5 0.4 0.1 0.2 0.5 0.6", settings="kpt_shape: [2, 2]")
    assert data_set(str(file), task="segment", split="val").task == "detect"


@pytest.mark.parametrize("task", ["segment", "obb", "pose"])
@pytest.mark.parametrize("more", [{}, {"segmentation": []}, {"keypoints": []}], ids=str)
def test_a_coco_set_of_boxes_alone_has_no_shapes(coco, more: dict, task: str) -> None:
    examples = data_set(str(coco(more, more | {"bbox": [3, 4, 5, 6]})), task=task, split="val")
    assert examples.task == "detect"
    assert examples[0].target.corners.tolist() == [[1, 2, 10, 11], [3, 4, 8, 10]]
    assert examples[0].target.shapes == ()
