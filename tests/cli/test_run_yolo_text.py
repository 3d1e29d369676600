"""``edgekit run --save-txt`` for masks, poses and rotated boxes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.cli.run.items import Item, NotedOnce
from edgekit.cli.run.yolo_text import YoloText
from edgekit.data.video.pictures import Pictures
from edgekit.data.video.source import Frame
from edgekit.kernels.masks.masks import Crop
from edgekit.runtime.detections import Detections, Poses, RotatedDetections, Segments
from edgekit.runtime.tasks.detect import TASK

BOXES = np.array([[10, 20, 30, 60]], np.float32)
COMMON: dict[str, Any] = {"scores": np.array([0.9], np.float32), "classes": np.array([2]), "size": (100, 200)}


def written(found: Detections, folder: Path) -> list[float]:
    """The numbers of the only line, for an image of 100 x 200 px."""
    frame = Frame(np.zeros((200, 100, 3), np.uint8), 0, None, "a.png", Path("a.png"))
    item = Item(TASK, Pictures([], name="a.png"), frame, found, 0.0, NotedOnce(print))
    YoloText(folder, {"a.png": Path("a.png")}).add(item)
    (line,) = (folder / "a.txt").read_text().splitlines()
    return [float(word) for word in line.split()]


def test_a_box(tmp_path: Path) -> None:
    assert written(Detections(BOXES, **COMMON), tmp_path) == [2, 0.2, 0.2, 0.2, 0.2]
    tracked = Detections(BOXES, tracks=np.array([7]), **COMMON)
    assert written(tracked, tmp_path) == [2, 0.2, 0.2, 0.2, 0.2, 7]


def test_the_largest_outline_of_a_mask(tmp_path: Path) -> None:
    mask = np.zeros((40, 20), bool)
    mask[:10, :10] = True
    mask[20:22, 12:14] = True
    found = Segments(BOXES, crops=(Crop(10, 20, mask),), **COMMON)
    kind, *numbers = written(found, tmp_path)
    points = {(round(x * 100), round(y * 200)) for x, y in np.reshape(numbers, (-1, 2)).tolist()}
    assert kind == 2 and points == {(10, 20), (20, 20), (20, 30), (10, 30)}


def test_the_box_of_an_empty_mask(tmp_path: Path) -> None:
    found = Segments(BOXES, crops=(Crop(10, 20, np.zeros((40, 20), bool)),), **COMMON)
    assert written(found, tmp_path)[1:] == [0.1, 0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.3]


def test_the_key_points_of_a_pose(tmp_path: Path) -> None:
    keypoints = np.array([[[50, 50, 0.75], [0, 200, 0.25]]], np.float32)
    found = Poses(BOXES, keypoints=keypoints, **COMMON)
    assert written(found, tmp_path) == [2, 0.2, 0.2, 0.2, 0.2, 0.5, 0.25, 0.75, 0, 1, 0.25]


def test_the_corners_of_a_rotated_box(tmp_path: Path) -> None:
    rotated = np.array([[50, 100, 40, 20, math.pi / 2]], np.float32)
    found = RotatedDetections(BOXES, rotated=rotated, **COMMON)
    points = np.reshape(written(found, tmp_path)[1:], (4, 2)) * (100, 200)
    assert sorted(points.round().tolist()) == [[40, 80], [40, 120], [60, 80], [60, 120]]


def test_pictures_that_differ_in_their_suffix_alone_have_a_text_file_each(
    detector: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "a.png", "below/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(picture).convert("RGB").save(tmp_path / "photos" / name)
    words = ["run", str(detector), str(tmp_path / "photos"), "--recursive", "--save-txt", str(tmp_path / "out")]
    assert main([*words, "--score-threshold", "0.2"]) == 0
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.txt")}
    assert found == {"a.txt", "a-2.txt", "below/a.txt"}
    said = " ".join(capsys.readouterr().err.split())
    assert "a.png: its text files are named a-2, as others are named a already" in said
