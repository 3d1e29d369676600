"""The format of a folder: annotations beside images are never taken for a class of images in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from edgekit.data.examples import data_set
from edgekit.data.formats.detect import format_from_path
from edgekit.errors import DataError

VOC = (
    "<annotation><size><width>8</width><height>8</height></size><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)
COCO = json.dumps({"images": [{"id": 1, "file_name": "0.jpg"}], "annotations": [], "categories": []})
ANNOTATIONS = {
    "VOC's XML": {"0.xml": VOC, "1.xml": VOC},
    "YOLO's text files": {"0.txt": "0 0.5 0.5 0.5 0.5\n", "1.txt": ""},
    "COCO's JSON": {"instances.json": COCO},
    "labelme's JSON": {"0.json": '{"imagePath": "0.jpg", "shapes": []}'},
    "a table that names images": {"train_labels.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n"},
    "Hugging Face's imagefolder with metadata": {"metadata.csv": "file_name,label\n0.jpg,1\n"},
    "a file with a JSON object in each line": {"_annotations.train.jsonl": "{}\n"},
}


def written(folder: Path, files: dict[str, str] | None = None, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 8)).save(folder / f"{i}.jpg")
    for name, content in (files or {}).items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_the_only_folder_with_annotations_is_no_class(tmp_path: Path, kind: str) -> None:
    inner = written(tmp_path / "dataset", ANNOTATIONS[kind])
    with pytest.raises(DataError) as error:
        data_set(str(tmp_path), split="train")
    assert error.value.hint == f"use the folder {inner}" or kind in error.value.message
    assert data_set(f"folder:{tmp_path}", split="train").labels == ("dataset",)


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations_in_the_folders_of_classes_are_noted(tmp_path: Path, kind: str) -> None:
    written(tmp_path / "ant", ANNOTATIONS[kind])
    written(tmp_path / "bee")
    examples = data_set(str(tmp_path), split="train")
    assert examples.labels == ("ant", "bee")
    note = f"{tmp_path / 'ant'} has {kind}: only the images are read, and the folders are taken as classes"
    assert examples.notes[0].startswith(note)
    with pytest.raises(DataError, match="expected one for the task 'detect'") as error:
        data_set(str(tmp_path), split="train", task="detect")
    assert error.value.hint == examples.notes[0]


def test_the_only_folder_of_images_is_a_class(tmp_path: Path) -> None:
    written(tmp_path / "ant")
    assert format_from_path(tmp_path) == ("folder", [])


def test_a_data_set_three_folders_deeper_is_suggested(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):
        written(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val" / name)
    with pytest.raises(DataError) as error:
        data_set(str(tmp_path))
    assert error.value.hint == f"use the folder {tmp_path / 'ILSVRC' / 'Data' / 'CLS-LOC'}"


def test_another_format_of_the_same_path_has_a_prefix(tmp_path: Path) -> None:
    written(tmp_path / "set", ANNOTATIONS["VOC's XML"])
    with pytest.raises(DataError, match="expected one for the task 'classify', got one for 'detect'") as error:
        data_set(str(tmp_path / "set"), split="train", task="classify")
    assert "folder:PATH" in error.value.hint
