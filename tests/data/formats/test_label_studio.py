"""Names of Label Studio, in every format that names images: `edgekit.data.formats.label_studio`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data.examples import data_set
from edgekit.data.formats.label_studio import hint_on_prefix
from edgekit.errors import DataError

PREFIX = "3f2a91bc-"


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def coco(root: Path) -> Path:
    image(root / "images" / "cat.jpg")
    content = {
        "images": [{"id": 0, "file_name": f"images/{PREFIX}cat.jpg", "width": 40, "height": 20}],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [1, 1, 5, 5]}],
    }
    return text(root / "result.json", json.dumps(content))


def voc(root: Path) -> Path:
    image(root / "images" / "cat.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    content = f"<annotation><filename>{PREFIX}cat</filename><object><name>cat</name>{box}</object></annotation>"
    text(root / "Annotations" / f"{PREFIX}cat.xml", content)
    return root


def yolo(root: Path) -> Path:
    image(root / "images" / "cat.jpg")
    text(root / "labels" / f"{PREFIX}cat.txt", "0 0.5 0.5 0.2 0.2\n")
    text(root / "classes.txt", "cat\n")
    return root


def yolo_list(root: Path) -> Path:
    image(root / "images" / "cat.jpg")
    text(root / "labels" / "cat.txt", "0 0.5 0.5 0.2 0.2\n")
    text(root / "train.txt", f"images/{PREFIX}cat.jpg\n")
    return text(root / "data.yaml", "train: train.txt\nnames: [cat]\n")


@pytest.mark.parametrize("write", [coco, voc, yolo, yolo_list])
def test_every_format_that_names_images_says_what_the_prefix_is(write: type, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        data_set(str(write(tmp_path / "set")), split="train")
    assert "Label Studio puts eight hexadecimal digits and '-' before names" in error.value.hint


@pytest.mark.parametrize(
    ("name", "hinted"),
    [
        ("3f2a91bc-cat.jpg", True),
        (r"C:\data\3f2a91bc-a b.jpg", True),
        ("/data/upload/1/3f2a91bc-3f2504e0-4f89-11d3-9a0c-0305e82c3301.jpg", True),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301.jpg", False),
        ("3f2a91bc-folder/cat.jpg", False),
        ("20240101-cat", True),
        ("cat-3f2a91bc.jpg", False),
    ],
)
def test_the_prefix_is_that_of_the_file(name: str, hinted: bool) -> None:
    assert bool(hint_on_prefix(name)) is hinted
