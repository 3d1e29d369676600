"""Boxes that are two corners are refused in formats with widths and heights; all others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.examples import data_set
from edgekit.data.formats.corner_boxes import CornerBoxes
from edgekit.errors import DataError

RANDOM = np.random.default_rng(0)


def sizes(corners: np.ndarray) -> np.ndarray:
    return np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])


def written(root: Path, boxes: np.ndarray) -> str:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for i, box in enumerate(boxes):
        Image.new("RGB", (40, 20)).save(root / "images" / f"{i}.png")
        (root / "labels" / f"{i}.txt").write_text("0 " + " ".join(f"{number:.4f}" for number in box) + "\n")
    (root / "data.yaml").write_text("train: images\nnames: [a]\n")
    return str(root)


def test_yolos_boxes_that_are_corners_are_refused(tmp_path: Path) -> None:
    low = RANDOM.uniform(0, 0.8, (30, 2))
    corners = np.hstack([low, low + 0.15])
    with pytest.raises(DataError, match="expected class cx cy width height, got boxes that read as x1 y1 x2 y2"):
        data_set(written(tmp_path, corners), split="train")


@pytest.mark.parametrize("side", [0.05, 0.5, 0.9])
def test_yolos_boxes_of_any_size_are_read(tmp_path: Path, side: float) -> None:
    low = RANDOM.uniform(0, 1 - side, (30, 2))
    corners = np.hstack([low, low + side])
    found = data_set(written(tmp_path, sizes(corners)), split="train")
    for example in (found[i] for i in range(30)):
        expected = corners[int(Path(example.id).stem)] * [40, 20, 40, 20]
        np.testing.assert_allclose(example.target.corners[0], expected, atol=0.01)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_single_box_beyond_its_image_is_none(beyond: int) -> None:
    boxes = CornerBoxes("", "")
    for i in range(4):
        boxes.add((30, 30, 60, 60), (30, 30, 90, 90) if i < beyond else (30, 30, 60, 60), (64, 64), "")
    boxes.require_sizes()
