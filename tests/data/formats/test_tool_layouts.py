"""Data sets in the layouts of Roboflow, CVAT, FiftyOne, Label Studio, labelme, AlexeyAB's Darknet and Ultralytics."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.data.examples import DataSet, data_set, split_used
from edgekit.errors import DataError

SIDE = 64
RED, BLUE = "0 0.25 0.25 0.5 0.5\n", "1 0.75 0.75 0.5 0.5\n"
CORNERS = {"red": [0.0, 0.0, 32.0, 32.0], "blue": [32.0, 32.0, 64.0, 64.0]}


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def found(examples: DataSet) -> set[tuple[str, tuple[float, ...]]]:
    """All boxes as name and corners, whatever their class number."""
    return {
        (examples.labels[kind], tuple(corners))
        for i in range(len(examples))
        for target in [examples[i].target]
        for kind, corners in zip(target.classes.tolist(), target.corners.tolist(), strict=True)
    }


BOTH = {(name, tuple(corners)) for name, corners in CORNERS.items()}


def coco(file: Path, categories: list[dict[str, Any]], names: list[str], folder: str = "") -> Path:
    """COCO JSON of images with a red and a blue box each; images lie at ``folder`` below the file."""
    ids = {each["name"]: each["id"] for each in categories}
    boxes = {name: [x, y, a - x, b - y] for name, (x, y, a, b) in CORNERS.items()}
    for name in names:
        image(file.parent / folder / name)
    content = {
        "images": [{"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)],
        "annotations": [
            {"id": 2 * i + j, "image_id": i, "category_id": ids[name], "bbox": boxes[name]}
            for i in range(len(names))
            for j, name in enumerate(boxes)
        ],
        "categories": categories,
    }
    return text(file, json.dumps(content))


def xml(objects: dict[str, list[float]], size: str = "", filename: str = "") -> str:
    parts = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{a}</xmax><ymax>{b}</ymax></bndbox>"
        "</object>"
        for name, (x, y, a, b) in objects.items()
    )
    return f"<annotation><filename>{filename}</filename>{size}{parts}</annotation>"


ROOT = [{"id": 0, "name": "things", "supercategory": "none"}]
CLASSES = [{"id": 1, "name": "red", "supercategory": "things"}, {"id": 2, "name": "blue", "supercategory": "things"}]


def test_roboflows_root_category_is_no_class(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        coco(tmp_path / split / "_annotations.coco.json", ROOT + CLASSES, ["a.png"])
    examples = data_set(str(tmp_path))
    assert examples.labels == ("red", "blue") and found(examples) == BOTH
    same_name = [{**ROOT[0], "name": "red"}, {**CLASSES[0], "supercategory": "red"}, CLASSES[1]]
    assert data_set(str(coco(tmp_path / "x" / "test.json", same_name, ["a.png"]))).labels == ("red", "blue")


def test_a_parent_that_is_annotated_and_a_flat_list_of_parents_are_classes(tmp_path: Path) -> None:
    used = [{"id": 0, "name": "red", "supercategory": "none"}, {"id": 1, "name": "blue", "supercategory": "red"}]
    assert data_set(str(coco(tmp_path / "a" / "test.json", used, ["a.png"]))).labels == ("red", "blue")
    flat = [*CLASSES, {"id": 3, "name": "green", "supercategory": "green"}]
    assert data_set(str(coco(tmp_path / "b" / "test.json", flat, ["a.png"]))).labels == ("red", "blue", "green")
    labelme = [{"id": 0, "name": "_background_", "supercategory": None}, *CLASSES]
    assert data_set(str(coco(tmp_path / "c" / "val.json", labelme, ["a.png"]))).labels == ("red", "blue")


@pytest.mark.parametrize("name", ["instances_val.json", "boxes.json"])
def test_a_note_says_which_of_several_annotations_is_read(tmp_path: Path, name: str) -> None:
    coco(tmp_path / name, CLASSES, ["images/a.png"])
    text(tmp_path / "labels" / "a.txt", RED)
    text(tmp_path / "Annotations" / "a.xml", xml(CORNERS))
    used, other = ("COCO's JSON", "YOLO's text files (yolo:") if "instances" in name else ("VOC's XML", "YOLO's")
    examples = data_set(str(tmp_path), split="val" if "val" in name else "train")
    assert f"{tmp_path} has annotations in several formats: {used} is read, not " in examples.notes[0]
    assert other in examples.notes[0]
    assert not any("several formats" in note for note in data_set(f"yolo:{tmp_path}", split="train").notes)


def test_splits_that_number_their_categories_differently_are_united_by_name(tmp_path: Path) -> None:
    swapped = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}, {"id": 3, "name": "green"}]
    coco(tmp_path / "train.json", CLASSES, ["a.png", "b.png"])
    coco(tmp_path / "val.json", swapped, ["c.png"])
    train, val = (data_set(f"coco:{tmp_path}", split=split) for split in ("train", "val"))
    assert train.labels == val.labels == ("red", "blue", "green")
    assert found(train) == found(val) == BOTH


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_names_of_images_with_folders_and_backslashes_are_found(tmp_path: Path, bom: str) -> None:
    file = coco(tmp_path / "annotations" / "instances_default.json", CLASSES, ["a.png"], "../images")
    content = file.read_text()
    for name in ("images/a.png", "images\\\\a.png", "C:\\\\export\\\\images\\\\a.png", "../../x/images/a.png"):
        text(file, bom + content.replace("a.png", name))
        assert found(data_set(f"coco:{file}", split="train")) == BOTH


def test_fiftyones_and_label_studios_coco_are_found(tmp_path: Path) -> None:
    coco(tmp_path / "fo" / "labels.json", CLASSES, [f"{i}.png" for i in range(5)], "data")
    coco(tmp_path / "ls" / "result.json", CLASSES, [f"images/{i}.png" for i in range(5)])
    for name in ("fo", "ls"):
        assert found(data_set(str(tmp_path / name), split="train")) == BOTH


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_is_the_named_one_in_every_format(tmp_path: Path, split: str) -> None:
    counts = {"train": 5, "valid": 3, "test": 2}
    for folder, count in counts.items():
        names = [f"{i}.png" for i in range(count)]
        coco(tmp_path / "coco" / folder / "_annotations.coco.json", ROOT + CLASSES, names)
        text(tmp_path / "csv" / f"{folder}.csv", "a,b\n" + "1,2\n" * count)
        text(tmp_path / "text" / f"{folder.upper()}.tsv", "a\tb\n" * count)
        for i, name in enumerate(names):
            image(tmp_path / "classes" / folder / "red" / name)
            image(tmp_path / "yolo" / folder / "images" / name)
            text(tmp_path / "yolo" / folder / "labels" / f"{i}.txt", RED + BLUE)
            image(tmp_path / "voc" / folder / name)
            text(tmp_path / "voc" / folder / f"{i}.xml", xml(CORNERS))
            image(tmp_path / "lists" / "JPEGImages" / f"{folder}{i}.png")
            text(tmp_path / "lists" / "Annotations" / f"{folder}{i}.xml", xml(CORNERS))
        listed = "".join(f"{folder}{i}\n" for i in range(count))
        text(tmp_path / "lists" / "ImageSets" / "Main" / f"{folder.capitalize()}.txt", listed)
    text(
        tmp_path / "yolo" / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [red, blue]\n",
    )
    expected = {"train": 5, "val": 3, "test": 2}[split]
    for source in ("coco", "yolo", "yolo/data.yaml", "voc", "lists", "classes", "csv", "text"):
        examples = data_set(str(tmp_path / source), split=split)  # type: ignore[arg-type]
        assert (len(examples), split_used(examples, "")) == (expected, split), source
        assert not any("split" in note and "used" in note for note in examples.notes), source


def test_cvats_yolo_lists_are_found_as_unzipped(tmp_path: Path) -> None:
    for i in range(2):
        image(tmp_path / "obj_train_data" / f"{i}.png")
        text(tmp_path / "obj_train_data" / f"{i}.txt", RED + BLUE)
    text(tmp_path / "obj.names", "\ufeffred\r\nblue\r\n")
    text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    text(tmp_path / "train.txt", "data/obj_train_data/0.png\ndata\\obj_train_data\\1.png\ndata/obj_train_data/9.png\n")
    examples = data_set(str(tmp_path), split="train")
    assert len(examples) == 2 and found(examples) == BOTH
    assert any(note.startswith("paths of images that do not exist: 1 skipped; ") for note in examples.notes)
    assert any("paths whose first folders do not exist here: 2" in note for note in examples.notes)


def test_darknets_lists_are_relative_to_its_folder_or_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "darknet" / "data"
    image(data / "obj" / "0.png")
    text(data / "obj" / "0.txt", RED + BLUE)
    text(data / "obj.names", "red\nblue\n")
    text(data / "train.txt", "data/obj/0.png\n")
    text(data / "obj.data", "classes=2\ntrain=data/train.txt\nVALID = data/train.txt\nnames=data/obj.names\n")
    assert found(data_set(str(data / "obj.data"))) == BOTH
    text(tmp_path / "elsewhere" / "obj.data", (data / "obj.data").read_text())
    monkeypatch.chdir(tmp_path / "darknet")
    assert found(data_set(str(tmp_path / "elsewhere" / "obj.data"), split="train")) == BOTH


@pytest.mark.parametrize("folder", ["JPEGImages", "images", "Images", "raw"])
def test_labels_are_beside_the_folder_of_images(tmp_path: Path, folder: str) -> None:
    path = image(tmp_path / folder / "sub" / "0.png")
    text(tmp_path / "labels" / "sub" / "0.txt", RED + BLUE)
    text(tmp_path / "voc.names", "red\nblue\n")
    text(tmp_path / "t.txt", f"{path}\n")
    text(tmp_path / "voc.data", "classes=2\ntrain=t.txt\nnames=voc.names\n")
    assert found(data_set(str(tmp_path / "voc.data"), split="train")) == BOTH


def test_roboflows_darknet_export_and_fiftyones_yolov4_are_found(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        image(tmp_path / "rf" / split / "a.png")
        text(tmp_path / "rf" / split / "a.txt", RED + BLUE)
        text(tmp_path / "rf" / split / "_darknet.labels", "red\nblue\n")
    assert found(data_set(str(tmp_path / "rf"))) == BOTH
    for i in range(5):
        image(tmp_path / "fo" / "data" / f"{i}.png")
        text(tmp_path / "fo" / "data" / f"{i}.txt", RED + BLUE)
    text(tmp_path / "fo" / "obj.names", "red\nblue\n")
    assert found(data_set(str(tmp_path / "fo"), split="train")) == BOTH


def test_ultralytics_coco_layout_and_a_linked_folder_of_images_are_found(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        image(tmp_path / "photos" / split / "a.png")
        text(tmp_path / "set" / "labels" / split / "a.txt", RED + BLUE)
    (tmp_path / "set" / "images").symlink_to(tmp_path / "photos")
    text(tmp_path / "set" / "classes.txt", "red\nblue\n")
    assert found(data_set(str(tmp_path / "set"), split="val")) == BOTH


@pytest.mark.parametrize(
    ("shape", "tail"),
    [("[2, 2]", "0.3 0.3 0.2 0.2"), ("[2, 3]", "0.3 0.3 1 0.2 0.2 2"), ("[1, 3]", "0.3 0.3 1"), ("[1, 2]", "0 0")],
)
def test_keypoints_are_no_outline(tmp_path: Path, shape: str, tail: str) -> None:
    image(tmp_path / "images" / "val" / "0.png")
    text(tmp_path / "labels" / "val" / "0.txt", f"{BLUE.strip()} {tail}\n" + RED)
    text(tmp_path / "data.yaml", f"val: images/val\nkpt_shape: {shape}\nnames: [red, blue]\n")
    assert found(data_set(str(tmp_path / "data.yaml"))) == BOTH


def test_an_invalid_shape_of_keypoints_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "images" / "val" / "0.png")
    text(tmp_path / "data.yaml", "val: images/val\nkpt_shape: [17]\nnames: [red]\n")
    with pytest.raises(DataError, match="kpt_shape: expected .keypoints, 2 or 3., got"):
        data_set(str(tmp_path / "data.yaml"))


def test_a_test_split_that_is_not_here_is_replaced_by_val_with_a_note(tmp_path: Path) -> None:
    image(tmp_path / "images" / "val" / "0.png")
    text(tmp_path / "labels" / "val" / "0.txt", RED + BLUE)
    text(tmp_path / "data.yaml", "train: gone\nval: images/val\ntest: test-dev.txt\nnames: [red, blue]\n")
    examples = data_set(str(tmp_path / "data.yaml"))
    assert split_used(examples, "") == "val" and "test: expected a file or a folder" in examples.notes[0]
    with pytest.raises(DataError, match="train: expected a file or a folder, got no such path: gone"):
        data_set(str(tmp_path / "data.yaml"), split="train")


@pytest.mark.parametrize(
    "corners",
    [
        {"red": [0, 0, 32, 32], "blue": [32, 32, 64, 64]},  # LabelImg's and Roboflow's edges from 0
        {"red": [0.25, 0.0, 32.25, 32.0], "blue": [32.5, 32.0, 63.75, 64.0]},  # CVAT's fractions
    ],
)
def test_boxes_from_0_and_fractions_are_edges_and_a_note_says_so(
    tmp_path: Path, corners: dict[str, list[float]]
) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    for name in "ab":
        text(tmp_path / f"{name}.xml", xml(corners))
    examples = data_set(str(tmp_path), split="train")
    assert found(examples) == {(name, tuple(map(float, box))) for name, box in corners.items()}
    assert any("boxes start at 0 or have fractions" in note for note in examples.notes)


def test_vocs_own_boxes_start_at_1_though_some_have_fractions(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    image(root / "JPEGImages" / "a.png")
    text(root / "Annotations" / "a.xml", xml({"dog": [45.7, 1, 60, 60]}))
    text(root / "ImageSets" / "Main" / "VAL.txt", "a\n")
    assert data_set(str(root))[0].target.corners[0].tolist() == pytest.approx([44.7, 0, 60, 60])


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>64.0</width><height/></size>",
        "<size><width>wide</width><height>64</height></size>",
        "<size><width>inf</width><height>64</height></size>",
    ],
)
def test_a_size_that_is_missing_in_xml_is_read_from_the_picture(tmp_path: Path, size: str) -> None:
    for i in range(5):
        image(tmp_path / f"{i}.png")
        text(tmp_path / f"{i}.xml", xml(CORNERS, size))
    assert found(data_set(str(tmp_path), split="train")) == BOTH


@pytest.mark.parametrize("size", [{}, {"width": 0, "height": 0}, {"width": None, "height": 64}, {"width": "64"}])
def test_a_size_that_is_missing_in_json_is_read_from_the_picture(tmp_path: Path, size: dict[str, Any]) -> None:
    file = coco(tmp_path / "val.json", CLASSES, ["a.png"])
    content = json.loads(file.read_text())
    content["images"] = [{"id": 0, "file_name": "a.png", **size}]
    text(file, json.dumps(content))
    assert found(data_set(str(file), split="val")) == BOTH


def test_single_bad_records_of_coco_are_skipped_and_counted(tmp_path: Path) -> None:
    file = coco(tmp_path / "val.json", CLASSES, ["a.png", "b.png", "gone.png"])
    (tmp_path / "gone.png").unlink()
    content = json.loads(file.read_text())
    good = content["annotations"][0]
    content["annotations"] += [
        dict(good),
        {**good, "id": 90, "image_id": 77},
        {**good, "id": 91, "category_id": 9},
        {"id": 92, "image_id": 0, "category_id": 1},
        {**good, "id": 93, "bbox": [500, 0, 10, 10]},
    ]
    content["images"] += [dict(content["images"][0])]
    content["categories"] += [dict(CLASSES[0])]
    text(file, json.dumps(content))
    examples = data_set(str(file), split="val")
    assert len(examples) == 2 and found(examples) == BOTH
    assert sum(len(examples[i].target) for i in range(2)) == 4
    for what in (
        "copies of annotations",
        "annotations of images that are not listed",
        "annotations of unknown categories",
        "annotations without a box",
        "faulty boxes",
        "images whose id is a duplicate",
        "categories whose id is a duplicate",
        "images without a file",
    ):
        assert any(note.startswith(f"{what}: 1 skipped; the first: ") for note in examples.notes), what


def test_single_bad_records_of_voc_are_skipped_and_counted(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / "JPEGImages" / f"{name} 1.png")
        text(tmp_path / "Annotations" / f"{name} 1.xml", xml(CORNERS))
    text(tmp_path / "Annotations" / "orphan.xml", xml(CORNERS))
    text(tmp_path / "Annotations" / "broken.xml", "<annotation>")
    text(tmp_path / "ImageSets" / "Main" / "test.txt", "a 1\nb 1.png\nJPEGImages/c 1.png\norphan\ngone\na 1\n")
    examples = data_set(str(tmp_path))
    assert len(examples) == 3 and found(examples) == BOTH
    for what in ("annotation files that cannot be read", "annotation files without an image",
                 "listed images without an annotation file", "images that are listed twice"):  # fmt: skip
        assert any(note.startswith(f"{what}: 1 skipped") for note in examples.notes), what


def test_single_bad_records_of_yolo_are_skipped_and_counted(tmp_path: Path) -> None:
    for i in range(2):
        image(tmp_path / "images" / "train" / f"{i}.png")
        text(tmp_path / "labels" / "train" / f"{i}.txt", RED + BLUE)
    text(tmp_path / "labels" / "train" / "0.txt", RED + BLUE + RED + "0 5 5 1 1\n")
    text(tmp_path / "labels" / "train" / "orphan.txt", RED)
    (tmp_path / "labels" / "train" / "._0.txt").write_bytes(b"\0\5\x16\7")
    text(tmp_path / "classes.txt", "red\nblue\n")
    examples = data_set(str(tmp_path), split="train")
    assert len(examples[0].target) == 2 and found(examples) == BOTH
    for what in ("copies of lines", "faulty boxes", "label files without an image"):
        assert any(note.startswith(f"{what}: 1 skipped") for note in examples.notes), what


APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(40)


@pytest.mark.parametrize("format", ["coco", "voc", "yolo", "csv", "text", "folder"])
def test_hidden_files_of_macos_are_no_part_of_a_set(tmp_path: Path, format: str) -> None:
    names = [f"{i}.png" for i in range(5)]
    if format == "coco":
        coco(tmp_path / "valid" / "_annotations.coco.json", CLASSES, names)
    for i, name in enumerate(names):
        if format == "voc":
            image(tmp_path / name)
            text(tmp_path / f"{i}.xml", xml(CORNERS))
        elif format == "yolo":
            image(tmp_path / "valid" / "images" / name)
            text(tmp_path / "valid" / "labels" / f"{i}.txt", RED + BLUE)
            text(tmp_path / "data.yaml", "val: valid/images\nnames: [red, blue]\n")
        elif format == "folder":
            image(tmp_path / "valid" / "red" / name)
    if format in ("csv", "text"):
        text(tmp_path / ("valid.csv" if format == "csv" else "valid.tsv"), "1,2\n" if format == "csv" else "a\tb\n")
    split = "train" if format == "voc" else "val"
    before = len(data_set(str(tmp_path), split=split))
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        (file.parent / f"._{file.name}").write_bytes(APPLE_DOUBLE)
    for folder in [tmp_path, *(Path(root) for root, _, _ in os.walk(tmp_path))]:
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert len(data_set(str(tmp_path), split=split)) == before
