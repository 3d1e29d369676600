"""Lines with key points are never taken for outlines; outlines of every form are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.examples import data_set
from edgekit.errors import DataError

POINTS = np.array([(0.4, 0.4), (0.6, 0.4), (0.4, 0.6), (0.6, 0.6), (0.5, 0.5)])


def written(root: Path, lines: list[str]) -> str:
    for index, line in enumerate(lines):
        for folder in ("images", "labels"):
            (root / folder).mkdir(exist_ok=True)
        Image.new("RGB", (100, 50)).save(root / "images" / f"{index}.png")
        (root / "labels" / f"{index}.txt").write_text(line + "\n")
    return str(root)


def pose(count: int, values: int, offset: float = 0.0) -> str:
    points = np.hstack([POINTS[:count] + offset, np.full((count, 1), 1.0)])[:, :values]
    return f"0 {0.5 + offset} {0.5 + offset} 0.3 0.3 " + " ".join(map(str, points.ravel()))


@pytest.mark.parametrize(("count", "values"), [(4, 3), (3, 2), (4, 2), (5, 2)])
@pytest.mark.parametrize("task", [None, "segment"])
def test_error_on_key_points_without_their_shape(tmp_path: Path, count: int, values: int, task: str | None) -> None:
    root = written(tmp_path, [pose(count, values), pose(count, values, 0.1), pose(count, values, -0.2)])
    with pytest.raises(DataError, match="expected kpt_shape in a data.yaml") as error:
        data_set(root, split="train", task=task)
    assert f"add kpt_shape: [{count}, {values}] to" in error.value.hint
    (tmp_path / "data.yaml").write_text(f"train: images\nkpt_shape: [{count}, {values}]\nnames: [a]\n")
    corners = data_set(root, split="train")[0].target.corners
    np.testing.assert_allclose(corners, [[35, 17.5, 65, 32.5]], rtol=1e-6)


def polygon(corners: int, radius: float, x: float, y: float, turn: float = 0.0) -> str:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return "0 " + " ".join(f"{x + radius * math.cos(a)} {y + radius * math.sin(a)}" for a in angles)


@pytest.mark.parametrize("corners", [3, 4, 5, 7, 8, 12])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.3, 0.45])
def test_outlines_with_the_same_number_of_corners_are_outlines(tmp_path: Path, corners: int, radius: float) -> None:
    lines = [polygon(corners, radius, 0.5 + 0.02 * i, 0.5, 0.3 * i) for i in range(3)]
    numbers = np.array(lines[0].split()[1:], float).reshape(-1, 2)
    root = written(tmp_path, lines)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    found = data_set(root, split="train")[0]
    expected = np.concatenate([numbers.min(0), numbers.max(0)]) * [100, 50, 100, 50]
    np.testing.assert_allclose(found.target.corners[0], expected, rtol=1e-5)


def test_outlines_beside_boxes_are_outlines(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.2 0.2", polygon(6, 0.2, 0.5, 0.5), polygon(9, 0.2, 0.5, 0.5)]
    assert len(data_set(written(tmp_path, lines), split="train"))


def tracked(number: int, extra: str = "") -> str:
    """A line of Ultralytics' ``save_txt`` with ``save_conf`` and a track id: LINE % (*xywhn, conf, id) with %g."""
    return f"0 {0.5 + 0.01 * number} 0.5 0.2 0.25 {extra}0.8{number} {number}"


@pytest.mark.parametrize("lines", [[tracked(1)], [tracked(i) for i in (1, 2, 3)], [tracked(4, "0.5 0.5 0.6 0.6 ")] * 2])
@pytest.mark.parametrize("task", [None, "segment"])
def test_predictions_of_tracked_objects_are_refused(tmp_path: Path, lines: list[str], task: str | None) -> None:
    with pytest.raises(DataError, match="expected labels, got predictions, whose lines end with a score and a track"):
        data_set(written(tmp_path, lines), split="train", task=task)


def test_predictions_with_key_points_are_no_outlines(tmp_path: Path) -> None:
    root = written(tmp_path, [pose(2, 2) + " 0.9 1"])
    (tmp_path / "data.yaml").write_text("train: images\nkpt_shape: [2, 2]\nnames: [a]\n")
    with pytest.raises(DataError, match=r"expected 4 numbers after the class \(cx cy width height\), or 8 with"):
        data_set(root, split="train")


@pytest.mark.parametrize(
    "lines", [["0 0.1 0.2 0.6 0.3 0.4 1"], ["0 0.4 0.4 0.5 0.2 0.3 0.8", "0 0.5 0.5 0.4 0.4 0.5 1"]]
)
def test_triangles_that_end_at_the_lower_edge_are_triangles(tmp_path: Path, lines: list[str]) -> None:
    points = np.array(lines[0].split()[1:], float).reshape(-1, 2)
    root = written(tmp_path, lines)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    corners = data_set(root, split="train")[0].target.corners
    np.testing.assert_allclose(corners[0], np.concatenate([points.min(0), points.max(0)]) * [100, 50, 100, 50], 1e-5)
