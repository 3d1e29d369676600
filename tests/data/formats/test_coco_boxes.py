"""Boxes of COCO JSON that are corners are read as corners or refused, never read as sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycocotools_mask

from edgekit.data.examples import data_set
from edgekit.errors import DataError

SIDE = 100
CORNERS = np.random.default_rng(0).uniform(0, SIDE - 20, (12, 2)).round(1)
CORNERS = np.hstack([CORNERS, CORNERS + 15]).round(1)


def written(root: Path, boxes: list[list[float]], categories: Any = ((1, "a"),), **more: Any) -> str:
    """COCO JSON of one image for each box."""
    images = [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(len(boxes))]
    for image in images:
        Image.new("RGB", (SIDE, SIDE)).save(root / str(image["file_name"]))
    annotations = [
        {"id": i, "image_id": i, "category_id": categories[i % len(categories)][0], "bbox": box, **more}
        for i, box in enumerate(boxes)
    ]
    names = [{"id": key, "name": name} for key, name in categories]
    content = {"images": images, "annotations": annotations, "categories": names}
    file = root / "instances_val.json"
    file.write_text(json.dumps(content))
    return str(file)


@pytest.mark.parametrize("mode", [0, "0", "XYXY_ABS", "BoxMode.XYXY_ABS"])
def test_detectron2s_corners_are_corners(tmp_path: Path, mode: int | str) -> None:
    found = data_set(written(tmp_path, CORNERS.tolist(), bbox_mode=mode))
    np.testing.assert_allclose([found[i].target.corners[0] for i in range(12)], CORNERS, rtol=1e-6)


@pytest.mark.parametrize("mode", [1, "BoxMode.XYWH_ABS", None])
def test_detectron2s_sizes_are_sizes(tmp_path: Path, mode: int | str | None) -> None:
    sizes = np.hstack([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]])
    found = data_set(written(tmp_path, sizes.tolist(), bbox_mode=mode))
    np.testing.assert_allclose([found[i].target.corners[0] for i in range(12)], CORNERS, rtol=1e-5)


@pytest.mark.parametrize("mode", [2, 3, 4, "XYXY_REL"])
def test_other_modes_are_refused(tmp_path: Path, mode: int | str) -> None:
    with pytest.raises(DataError, match=rf"annotations\[0\].bbox_mode: expected 1 \(XYWH_ABS\) or 0 .*, got {mode}"):
        data_set(written(tmp_path, CORNERS.tolist(), bbox_mode=mode))


def test_corners_without_a_mode_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"bbox: expected \[x, y, width, height\], got boxes that read as x1 y1"
    ) as error:
        data_set(written(tmp_path, CORNERS.tolist()))
    assert '"bbox_mode": 0' in error.value.hint


def test_large_boxes_are_sizes_though_some_extend_beyond_their_images(tmp_path: Path) -> None:
    boxes = [[1 + i % 5, 2, SIDE - 4, SIDE - 4.0] for i in range(12)]  # up to 2 px of 100 beyond the image
    boxes[0] = [30, 30, 90, 90]
    found = data_set(written(tmp_path, boxes))
    assert found[0].target.corners[0].tolist() == [30, 30, SIDE, SIDE]
    assert any("boxes beyond their image" in note for note in found.notes)


def test_categories_of_one_name_are_one_class_with_a_note(tmp_path: Path) -> None:
    found = data_set(written(tmp_path, [[1.0, 1, 9, 9]] * 3, categories=((3, "cat"), (5, "dog"), (7, "cat"))))
    assert found.labels == ("cat", "dog")
    assert [found[i].target.classes.tolist() for i in range(3)] == [[0], [1], [0]]
    assert "instances_val.json: categories 3, 7 are all called 'cat': taken as one class" in found.notes


SEGMENTATIONS = {
    "polygon": [[10.5, 20.25, 60.0, 22.0, 40.0, 70.75]],
    "two polygons": [[10, 20, 30, 20, 30, 40], [50, 60, 80, 61, 70, 90]],
}


def masked(root: Path, *segmentations: Any, **more: Any) -> str:
    """COCO JSON of one image, whose annotations have a segmentation and no box."""
    file = Path(written(root, [[0.0, 0, 1, 1]]))
    content = json.loads(file.read_text())
    content["annotations"] = [
        {"id": i, "image_id": 0, "category_id": 1, "segmentation": each, **more} for i, each in enumerate(segmentations)
    ]
    file.write_text(json.dumps(content))
    return str(file)


@pytest.mark.parametrize("bbox", [{}, {"bbox": None}, {"bbox": []}], ids=str)
@pytest.mark.parametrize("polygons", SEGMENTATIONS.values(), ids=SEGMENTATIONS)
def test_a_box_that_is_missing_is_that_of_the_polygons(
    tmp_path: Path, polygons: list[list[float]], bbox: dict[str, Any]
) -> None:
    found = data_set(masked(tmp_path, polygons, **bbox))
    points = np.concatenate([np.reshape(each, (-1, 2)) for each in polygons])
    np.testing.assert_allclose(found[0].target.corners, [[*points.min(0), *points.max(0)]])
    x, y, width, height = pycocotools_mask.toBbox(
        pycocotools_mask.merge(pycocotools_mask.frPyObjects(polygons, SIDE, SIDE))
    )
    np.testing.assert_allclose(found[0].target.corners, [[x, y, x + width, y + height]], atol=1)  # of whole pixels
    assert "annotations with a segmentation and no bbox: 1 read with the box around the segmentation" in found.notes


@pytest.mark.parametrize("seed", range(8))
def test_a_box_that_is_missing_is_that_of_the_run_lengths(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    (x1, x2), (y1, y2) = (np.sort(random.choice(SIDE + 1, 2, replace=False)) for _ in range(2))
    mask[y1:y2, x1:x2] = random.random((y2 - y1, x2 - x1)) < [0.02, 0.5, 1][seed % 3]
    mask[y1, x1] = 1
    compressed = pycocotools_mask.encode(mask)
    x, y, width, height = pycocotools_mask.toBbox(compressed)
    ends = np.flatnonzero(np.diff(mask.ravel("F"))) + 1
    counts = np.diff([0, *ends, mask.size]).tolist()
    plain = {"size": [SIDE, SIDE], "counts": [0, *counts] if mask[0, 0] else counts}
    text = {"size": [SIDE, SIDE], "counts": compressed["counts"].decode()}
    found = data_set(masked(tmp_path, plain, text))
    np.testing.assert_array_equal(found[0].target.corners, [[x, y, x + width, y + height]] * 2)


def test_a_segmentation_that_is_no_mask_is_a_faulty_box(tmp_path: Path) -> None:
    found = data_set(masked(tmp_path, SEGMENTATIONS["polygon"], [[1, 2]]))
    assert len(found[0].target) == 1
    assert any("faulty boxes: 1 skipped" in note and "segmentation: expected polygons" in note for note in found.notes)


def test_a_mask_without_pixels_is_a_box_without_area(tmp_path: Path) -> None:
    found = data_set(masked(tmp_path, SEGMENTATIONS["polygon"], {"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}))
    assert len(found[0].target) == 1
    assert "boxes without area: 1 dropped" in found.notes


@pytest.mark.parametrize("empty", [None, []], ids=str)
def test_annotations_with_neither_say_what_is_read(tmp_path: Path, empty: Any) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\]: expected a bbox or a segmentation, got neither"):
        data_set(masked(tmp_path, empty))


def test_masks_without_a_box_have_one_for_a_task_with_masks(tmp_path: Path) -> None:
    found = data_set(masked(tmp_path, SEGMENTATIONS["polygon"]), task="segment")
    assert found[0].target.corners.tolist() == [[10.5, 20.25, 60, 70.75]]
    assert found[0].target.shapes[0].mask == SEGMENTATIONS["polygon"]
