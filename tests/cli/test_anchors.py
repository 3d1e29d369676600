from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import main

SIZES = ((10, 20), (30, 30), (60, 40), (80, 90))
"""Widths and heights in px, of the boxes, about, in images of 100 x 100 px."""


@pytest.fixture
def boxes(tmp_path: Path) -> str:
    """A data set in YOLO format: each image has a box of about each of `SIZES`."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (100, 100)).save(tmp_path / "set" / "images" / split / f"{i}.png")
            sides = [np.array(size) / 100 * random.uniform(0.98, 1.02, 2) for size in SIZES]
            text = "".join(f"0 0.5 0.5 {w:.5f} {h:.5f}\n" for w, h in sides)
            (tmp_path / "set" / "labels" / split / f"{i}.txt").write_text(text)
    (tmp_path / "set" / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    return f"yolo:{tmp_path / 'set' / 'data.yaml'}"


def anchors_in(line: str) -> list[list[int]]:
    """Parses a line of TOML, which here is JSON after the name."""
    found: list[list[int]] = json.loads(line.removeprefix("anchors = "))
    return found


def test_lines_for_a_recipe_are_printed_small_to_large(boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", boxes, "--count", "4", "--shape", "200x300"]) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    match = re.match(r"mean IoU (0\.\d+) of 40 boxes in 10 images with the best of 4 anchors", first)
    assert match and float(match[1]) > 0.95
    assert len(lines) == 1
    # 200 px high at most: everything is twice as large.
    found = anchors_in(lines[0])
    np.testing.assert_allclose(found, np.array(SIZES) * 2, atol=3)


def test_a_multiple_of_three_anchors_is_one_line_per_head(boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", boxes, "--count", "6", "--shape", "100x100"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    heads = [anchors_in(line) for line in lines]
    assert [len(head) for head in heads] == [3, 3]
    areas = [width * height for head in heads for width, height in head]
    assert areas == sorted(areas)


def test_json_says_the_same(boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", boxes, "--count", "4", "--shape", "100x100", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(written["anchors"], SIZES, atol=2)
    assert written["mean_overlap"] > 0.95
    assert (written["shape"], written["boxes"], written["pictures"], written["skipped"]) == ([100, 100], 40, 10, [])


def test_error_on_fewer_boxes_than_anchors(boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", boxes, "--count", "41"]) == 1
    err = capsys.readouterr().err
    assert "expected at least 41 boxes for 41 anchors, got 40" in err
    assert "hint: --count 40" in err


def test_error_on_a_set_without_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", "digits"]) == 1
    assert "expected one for the task 'detect', got one for 'classify'" in capsys.readouterr().err
