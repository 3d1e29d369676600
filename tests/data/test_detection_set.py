"""Images whose size differs from what their annotation says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.detection_set import AnnotatedImage, DetectionSet
from edgekit.data.examples import Boxes
from edgekit.errors import DataError


def one(path: Path, size: tuple[int, int], corners: list[float]) -> DetectionSet:
    boxes = Boxes(np.array([corners], np.float32), np.array([0]))
    return DetectionSet("set", ("red",), [AnnotatedImage(path, boxes, size, "1.xml")], [])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_lie_on_the_image_as_it_was_annotated(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[8:16, 0:8] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "1.png", exif=exif)
    as_stored = one(tmp_path / "1.png", (32, 16), [0, 8, 8, 16])[0]
    assert (as_stored.input == stored).all()
    turned = one(tmp_path / "1.png", (16, 32), [0, 0, 8, 8])[0]
    assert turned.input.shape == (32, 16, 3)


def test_sides_that_are_exchanged_are_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (32, 16)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="expected 16 x 32 px, as 1.xml says, got 32 x 16") as error:
        one(tmp_path / "1.png", (16, 32), [0, 0, 8, 8])[0]
    assert error.value.hint == "width and height in 1.xml are exchanged"
