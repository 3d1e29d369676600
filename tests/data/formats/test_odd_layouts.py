"""Data sets with what programs, spreadsheets and other operating systems do to their files."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.data.examples import DataSet, data_set
from edgekit.errors import DataError, UsageError

RED, BLUE = "0 0.25 0.25 0.5 0.5", "1 0.75 0.75 0.5 0.5"
CORNERS = [[0.0, 0.0, 32.0, 32.0], [32.0, 32.0, 64.0, 64.0]]


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(path, format="PNG")
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def boxes(examples: DataSet, index: int = 0) -> tuple[list[int], list[list[float]]]:
    target: Any = examples[index].target
    return target.classes.tolist(), target.corners.tolist()


@pytest.mark.parametrize(
    ("pictures", "labels"),
    [
        ("Images/Val/a.PNG", "labels/val/a.txt"),
        ("images/val/A.png", "labels/val/a.TXT"),
        ("images/VAL/a.png", "Labels/Val/A.txt"),
        ("JPEGImages/val/a.png", "Labels/val/a.Txt"),
    ],
)
def test_labels_are_found_in_any_case_as_on_windows(tmp_path: Path, pictures: str, labels: str) -> None:
    image(tmp_path / pictures)
    text(tmp_path / labels, f"{RED}\n{BLUE}\n")
    text(tmp_path / "data.yaml", "path: .\nval: images/val\nnames: [red, blue]\n".replace("images/val", pictures[:-6]))

    examples = data_set(f"yolo:{tmp_path}", split="val")

    assert boxes(examples) == ([0, 1], CORNERS)
    assert not examples.notes


def test_label_files_of_another_split_in_another_case_are_no_orphans(tmp_path: Path) -> None:
    for i in range(5):
        image(tmp_path / "Images" / f"P{i}.PNG")
        text(tmp_path / "labels" / f"p{i}.txt", RED)
    text(tmp_path / "labels" / "classes.txt", "red")

    examples = data_set(f"yolo:{tmp_path}", split="test")

    assert [note[:37] for note in examples.notes] == ["the data set declares no splits: test"]


@pytest.mark.parametrize("place", ["labels", "labels/train", "labels/Train"])
def test_labelimg_writes_the_names_with_the_labels(tmp_path: Path, place: str) -> None:
    below = place.removeprefix("labels")
    image(tmp_path / f"images{below}" / "a.png")
    text(tmp_path / place / "a.txt", f"{RED}\r\n{BLUE}\r\n")
    text(tmp_path / place / "classes.txt", "red\r\nblue\r\n")

    examples = data_set(str(tmp_path), split="train")

    assert examples.labels == ("red", "blue")
    assert boxes(examples) == ([0, 1], CORNERS)


@pytest.mark.parametrize("labels", ["labels", "Labels"])
def test_labelimg_writes_the_names_with_the_labels_of_each_split(tmp_path: Path, labels: str) -> None:
    for split in ("train", "val"):
        image(tmp_path / split / "images" / "a.png")
        text(tmp_path / split / labels / "a.txt", RED + BLUE)
        text(tmp_path / split / labels / "classes.txt", "red\nblue\n")
    assert data_set(str(tmp_path), split="train").labels == ("red", "blue")


@pytest.mark.parametrize("name", ["{}.txt", "autosplit_{}.txt"])
@pytest.mark.parametrize("prefix", ["./images/", "images/", "", "/home/other/set/images/"])
def test_lists_beside_the_images_are_the_splits(tmp_path: Path, name: str, prefix: str) -> None:
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d", "e", "f"]}
    for split, stems in parts.items():
        for stem in stems:
            image(tmp_path / "images" / f"{stem}.png")
            text(tmp_path / "labels" / f"{stem}.txt", RED)
        text(tmp_path / name.format(split), "".join(f"{prefix}{stem}.png\n" for stem in stems))
    if not prefix:
        for file in tmp_path.glob("*.txt"):
            file.write_text("".join(f"images/{line}\n" for line in file.read_text().splitlines()))
    for split, stems in parts.items():
        examples = data_set(str(tmp_path), split=split)
        assert [Path(examples[i].id).stem for i in range(len(examples))] == stems
        assert not any("splits" in note for note in examples.notes)


def test_label_files_called_train_and_test_are_no_lists(tmp_path: Path) -> None:
    for stem in ("train", "test", *"abcdefgh"):
        image(tmp_path / f"{stem}.png")
        text(tmp_path / f"{stem}.txt", RED)
    assert len(data_set(str(tmp_path), split="train")) == 8


def test_classes_of_cvat_beside_its_labels_are_read(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            image(tmp_path / split / name / "1.png")
        text(tmp_path / split / "labels.json", '{"cat": {"1.png": {"id": 0}}}')
    examples = data_set(str(tmp_path), split="val")
    assert (examples.task, examples.labels, len(examples), examples.notes) == ("classify", ("cat", "dog"), 2, [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_files_of_other_editors_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", f"{RED}{end}{BLUE}{end}".encode(encoding))
    text(tmp_path / "train.txt", f"images\\a.png{end}".encode(encoding))
    text(tmp_path / "data.yaml", f"train: train.txt{end}names:{end}  0: 赤{end}  1: blue{end}".encode(encoding))

    examples = data_set(str(tmp_path / "data.yaml"), split="train")

    assert examples.labels == ("赤", "blue")
    assert boxes(examples) == ([0, 1], CORNERS)


def test_a_number_of_classes_without_names_is_enough(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", BLUE)
    text(tmp_path / "data.yaml", "train: images\nnc: 3  # no names\n")

    examples = data_set(str(tmp_path), split="train")

    assert examples.labels == ("0", "1", "2")
    assert "classes are named 0 to 2" in examples.notes[0]


def test_outlines_may_be_a_hundredth_outside_as_in_ultralytics(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "0 -0.01 0 0.5 -0.005 0.5 0.5 0 0.5")

    examples = data_set(f"yolo:{tmp_path}", split="train")

    assert boxes(examples) == ([0], CORNERS[:1])


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("0,0.25,0.25,0.5,0.5", "with spaces"),
        (f"{RED} 0.97", "predictions end with a score"),
        ("red 0.25 0.25 0.5 0.5", "the number of a class, not its name"),
        ("1 10 50 10 50 50 10 50 red 0", "labels of DOTA"),
        ("Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59", "labels of KITTI"),
        ("684,8,273,116,0,0,0,0", "VisDrone and MOT"),
        (f"{RED} 0.97 3", "whose lines end with a score and a track id"),
    ],
)
def test_lines_of_other_formats_are_named(tmp_path: Path, line: str, hint: str) -> None:
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", line)

    with pytest.raises(DataError, match=hint):
        data_set(f"yolo:{tmp_path}", split="train")


def coco(file: Path, change: Any = lambda content: content) -> Path:
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(2)]
    for entry in images:
        image(file.parent / str(entry["file_name"]))
    annotations = [
        {"id": 2 * i + j, "image_id": i, "category_id": j + 3, "bbox": [32 * j, 32 * j, 32, 32], "area": 1024}
        for i in range(2)
        for j in range(2)
    ]
    names = ("red", "blue")
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": j + 3, "name": name} for j, name in enumerate(names)],
    }
    return text(file, json.dumps(change(content)))


def _texts(content: dict[str, Any]) -> dict[str, Any]:
    for entry in content["annotations"]:
        entry |= {
            "image_id": str(entry["image_id"]),
            "category_id": float(entry["category_id"]),
            "bbox": list(map(str, entry["bbox"])),
            "iscrowd": "0",
        }
    return content


def _no_number(content: dict[str, Any]) -> dict[str, Any]:
    content["annotations"][3]["area"] = float("nan")
    content["annotations"].append({**content["annotations"][0], "id": 9, "bbox": [float("nan"), 0, 3, float("inf")]})
    return content


def _other_case(content: dict[str, Any]) -> dict[str, Any]:
    for entry in content["images"]:
        entry["file_name"] = f"Images\\{entry['id']}.PNG"
    return content


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (_texts, None),
        (_no_number, "faulty boxes: 1 skipped"),
        (_other_case, "paths whose first folders do not exist here: 2"),
    ],
)
def test_coco_with_ids_and_numbers_of_other_types_is_read(tmp_path: Path, change: Any, note: str | None) -> None:
    examples = data_set(str(coco(tmp_path / "val.json", change)), split="val")

    assert [boxes(examples, i) for i in range(2)] == [([0, 1], CORNERS)] * 2
    assert [text[: len(note or "")] for text in examples.notes] == ([note] if note else [])


def test_a_folder_with_coco_json_of_any_name_is_coco_not_a_class_of_images(tmp_path: Path) -> None:
    coco(tmp_path / "set" / "my_boxes.json", lambda content: content)
    image(tmp_path / "set" / "images" / "b.png")

    assert data_set(str(tmp_path / "set"), split="train").task == "detect"


def test_two_files_of_one_split_are_noted(tmp_path: Path) -> None:
    for year in (2014, 2017):
        coco(tmp_path / "annotations" / f"instances_val{year}.json")
    examples = data_set(f"coco:{tmp_path}", split="val")
    assert "instances_val2014.json is read as the val split" in examples.notes[0]
    assert "instances_val2017.json" in examples.notes[0]

    for name in ("val.csv", "validation.csv"):
        text(tmp_path / "tables" / name, "a,b\n1,2\n")
    assert "val.csv is read as the val split" in data_set(str(tmp_path / "tables"), split="val").notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["iris.data", "iris.tsv", "iris.txt", "iris.csv"])
def test_tables_with_a_class_at_the_end_are_tables(tmp_path: Path, name: str, encoding: str) -> None:
    rows = [f"{i}.5,{i},{'cat' if i % 2 else 'dog'}" for i in range(10)]
    content = "\r\n".join(rows).replace(",", "\t" if name.endswith(("tsv", "txt")) else ",")
    file = text(tmp_path / name, content.encode(encoding))

    examples = data_set(str(file), split="train")

    assert examples.labels == ("cat", "dog")
    assert examples.task == "classify"


@pytest.mark.parametrize(("picture", "label"), [("caf%C3%A9", "café"), ("a b", "a%20b"), ("a%20b", "a%20b")])
def test_names_with_escapes_of_addresses_are_found(tmp_path: Path, picture: str, label: str) -> None:
    image(tmp_path / "images" / f"{picture}.jpg")
    text(tmp_path / "labels" / f"{label}.txt", f"{RED}\n{BLUE}\n")
    text(tmp_path / "classes.txt", "red\nblue\n")
    examples = data_set(str(tmp_path), split="train")
    assert boxes(examples) == ([0, 1], CORNERS)
    assert not any("without an image" in note for note in examples.notes)


def test_cvats_poses_are_found(tmp_path: Path) -> None:
    for name in ("train", "val"):
        image(tmp_path / "images" / name / f"{name}.jpg")
        content = {
            "images": [{"id": 1, "file_name": f"{name}.jpg", "width": 64, "height": 64}],
            "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b"]}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 32], "keypoints": [1, 1, 2, 9, 9, 2]}
            ],
        }
        text(tmp_path / "annotations" / f"person_keypoints_{name}.json", json.dumps(content))
    train = f"coco:{tmp_path}/annotations/person_keypoints_train.json"
    for source, task in ((str(tmp_path), "pose"), (str(tmp_path), "detect"), (train, "pose")):
        examples = data_set(source, split="val", task=task)
        assert (examples.split, boxes(examples)) == ("val", ([0], [[0.0, 0.0, 32.0, 32.0]]))


def test_a_split_that_is_missing_is_named_where_it_stands_for_the_test(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    text(tmp_path / "data.yaml", "train: images\nval: images/val*.jpg\nnames: [red, blue]\n")
    with pytest.raises(DataError, match=r"data.yaml: val: expected a file or a folder, got no such path: images/val\*"):
        data_set(str(tmp_path))


def test_a_set_of_one_split_says_how_to_measure_on_it(tmp_path: Path) -> None:
    image(tmp_path / "train" / "ant" / "1.png")
    with pytest.raises(DataError) as error:
        data_set(str(tmp_path))
    assert error.value.hint == "add a split val, or measure on the train split with split='train'"
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(DataError) as error:
        data_set(str(tmp_path), split="train")
    assert error.value.hint == "add a split train"


def test_other_files_with_names_of_classes_are_noted(tmp_path: Path) -> None:
    for name, names in (("a.yaml", "[red]"), ("b.yaml", "[blue]"), ("args.yaml", "")):
        (tmp_path / name).write_text(f"train: images\nval: images\nnames: {names}\n" if names else "lr0: 0.1\n")
    image(tmp_path / "images" / "0.png")
    text(tmp_path / "labels" / "0.txt", "0 0.5 0.5 0.5 0.5\n")
    found = data_set(str(tmp_path), split="val")
    assert found.labels == ("red",)
    assert "a.yaml says where the images are; not read: b.yaml" in found.notes
    assert not any("not read" in note for note in data_set(str(tmp_path / "a.yaml"), split="val").notes)


def numbered(root: Path, lines: list[str], names: str) -> str:
    for index, line in enumerate(lines):
        image(root / "images" / f"{index}.png")
        text(root / "labels" / f"{index}.txt", line)
    return str(text(root / "data.yaml", f"train: images\nnames: {names}\n"))


@pytest.mark.parametrize("names", ["[red, blue]", "[red]"])
def test_class_numbers_that_begin_at_1_are_refused(tmp_path: Path, names: str) -> None:
    lines = [f"{number} 0.5 0.5 0.2 0.2" for number in range(1, names.count(",") + 2)]
    with pytest.raises(DataError, match="and 0 in no line: the numbers seem to begin at 1") as error:
        data_set(numbered(tmp_path, lines, names), split="train")
    assert "subtract 1" in error.value.hint


def test_a_single_number_behind_the_last_class_is_a_mistake(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.2 0.2", "1 0.5 0.5 0.2 0.2", "2 0.5 0.5 0.2 0.2"]
    found = data_set(numbered(tmp_path, lines, "[red, blue]"), split="train")
    assert [found[i].target.classes.tolist() for i in range(3)] == [[0], [1], []]
    assert any(note.startswith("faulty boxes: 1 skipped") for note in found.notes)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_macos_are_those_of_other_systems(tmp_path: Path, forms: tuple[str, str]) -> None:
    here, there = (unicodedata.normalize(form, "Bäume é") for form in forms)
    root = tmp_path / "yolo"
    image(root / "images" / f"{here}.png")
    text(root / "labels" / f"{there}.txt", "0 0.5 0.5 0.2 0.2\n")
    text(root / "data.yaml", "train: images\nnames: [tree]\n")
    found = data_set(str(root), split="train")
    assert len(found[0].target.classes) == 1 and not [note for note in found.notes if "label file" in note]
    voc = tmp_path / "voc"
    image(voc / "JPEGImages" / f"{here}.png")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    text(voc / "Annotations" / f"{there}.xml", f"<annotation><object><name>tree</name>{box}</object></annotation>")
    assert len(data_set(str(voc), split="train")[0].target.classes) == 1
    image(tmp_path / "coco" / "images" / f"{here}.png")
    content = {
        "images": [{"id": 0, "file_name": f"{there}.png"}],
        "categories": [{"id": 0, "name": "tree"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [1, 1, 5, 5]}],
    }
    file = text(tmp_path / "coco" / "a.json", json.dumps(content))
    assert len(data_set(str(file), split="train")[0].target.classes) == 1


def test_a_set_without_any_object_says_so(tmp_path: Path) -> None:
    voc, yolo = tmp_path / "voc", tmp_path / "yolo"
    image(voc / "JPEGImages" / "a.png")
    text(voc / "Annotations" / "a.xml", "<annotation><filename>a.png</filename></annotation>")
    image(yolo / "images" / "a.png")
    text(yolo / "labels" / "a.txt", "")
    for root in (voc, yolo):
        notes = data_set(str(root), split="train").notes
        assert "no boxes in this split, and no names of classes" in notes
        assert not [note for note in notes if "-1" in note]


def test_a_label_file_that_is_a_link_to_nothing_is_no_image_without_objects(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / "images" / "val" / f"{name}.png")
        text(tmp_path / "labels" / "val" / f"{name}.txt", RED)
    text(tmp_path / "data.yaml", "val: images/val\nnames: [red]\n")
    (tmp_path / "labels" / "val" / "b.txt").unlink()
    (tmp_path / "labels" / "val" / "b.txt").symlink_to("gone.txt")

    examples = data_set(str(tmp_path), split="val")

    assert [examples[i].id for i in range(len(examples))] == ["a.png", "c.png"]
    (note,) = examples.notes
    assert note.startswith("images whose label file cannot be read: 1 skipped")


def test_a_class_that_is_a_link_to_nothing_is_noted(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        image(tmp_path / name / "1.png")
        image(tmp_path / name / "2.png")
    (tmp_path / "cow").symlink_to("gone")
    examples = data_set(str(tmp_path), split="train")
    assert f"links to nothing: 1 in {tmp_path} left out; the first: cow" in examples.notes


@pytest.mark.parametrize("prefix", ["", "coco:"])
def test_a_path_that_does_not_exist_has_a_hint(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "annotations.json").write_text("{}")
    (tmp_path / "train.json").symlink_to("gone.json")
    for name, hint in (("train.json", "a link to gone.json"), ("anotations.json", "did you mean")):
        with pytest.raises(UsageError) as error:
            data_set(f"{prefix}{tmp_path / name}")
        assert hint in error.value.hint


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_data_yaml_without_access_is_not_left_out(tmp_path: Path) -> None:
    image(tmp_path / "images" / "val" / "a.png")
    text(tmp_path / "labels" / "val" / "a.txt", RED)
    file = text(tmp_path / "data.yaml", "val: images/val\nnames: [red]\n")
    file.chmod(0)
    with pytest.raises(DataError, match=r"data\.yaml: expected a text file, got: Permission denied"):
        data_set(str(tmp_path), split="val")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["instances_val.json", "val.csv", "data.yaml", "labels/val/a.txt", "a.xml", "images/val/a.png"]
)
def test_pointers_of_git_lfs_are_named(tmp_path: Path, name: str) -> None:
    image(tmp_path / "images" / "val" / "a.png")
    if name.startswith(("data", "labels", "images")):
        text(tmp_path / "data.yaml", "val: images/val\nnames: [red]\n")
        text(tmp_path / "labels" / "val" / "a.txt", RED)
    text(tmp_path / name, POINTER)
    source = {".csv": name, ".json": name, ".xml": ""}.get(Path(name).suffix, "")
    with pytest.raises(DataError, match="expected the file itself, got a pointer of Git LFS") as error:
        data_set(str(tmp_path / source), split="train" if name == "a.xml" else "val")[0]
    assert name in error.value.message and error.value.hint == "run: git lfs pull"


def test_a_data_yaml_of_one_line_is_not_left_out(tmp_path: Path) -> None:
    image(tmp_path / "images" / "val" / "a.png")
    text(tmp_path / "labels" / "val" / "a.txt", RED)
    text(tmp_path / "data.yaml", json.dumps({"val": "images/val", "names": ["red"]}))
    assert data_set(str(tmp_path), split="val").labels == ("red",)
    text(tmp_path / "data.yaml", "{val: images/val, names: [red]}\n")
    with pytest.raises(DataError, match=r"data\.yaml, line 1: expected JSON, as the file begins with {") as error:
        data_set(str(tmp_path), split="val")
    assert "on a line of its own" in error.value.hint
