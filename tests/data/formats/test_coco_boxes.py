"""Boxes of COCO JSON that are corners are read as corners or refused, never read as sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
