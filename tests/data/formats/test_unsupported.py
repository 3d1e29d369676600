"""Formats of other programs that are not read are named, and never taken for folders of classes or tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgekit.data.examples import data_set
from edgekit.data.formats.unsupported import program_of_line
from edgekit.errors import DataError


def written(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jpg", ".png"):
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_text(content)
    return root


LABELME = '{"version": "5.0", "shapes": [{"label": "a", "shape_type": "rectangle"}], "imagePath": "1.jpg"}'
VIA = '{"1.jpg9": {"filename": "1.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}}'
SUPERVISELY = '{"classes": [{"title": "a"}], "tags": [], "projectType": "images"}'
LABEL_STUDIO = '[{"id": 1, "annotations": [{"completed_by": 1, "result": []}], "data": {"image": "1.jpg"}}]'

DATUMARO = '{"info": {}, "categories": {}, "items": [{"id": "1", "annotations": [{"type": "bbox", "label_id": 0}]}]}'
KITTI = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
BDD = '[{"name": "1.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 4, "y2": 4}}]}]'
VOTT = '{"asset": {"name": "1.jpg"}, "regions": [{"tags": ["a"], "boundingBox": {"height": 4}}]}'
DARWIN = (
    '{"version": "2.0", "item": {"name": "1.jpg", "slots": []}, "annotations": [{"bounding_box": {"h": 4, "w": 4, '
    '"x": 1, "y": 1}, "name": "a", "slot_names": ["0"]}]}'
)
CREATEML = '[{"image": "1.jpg", "annotations": [{"label": "a", "coordinates": {"x": 4, "y": 4}}]}]'


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"1.jpg": "", "1.json": LABELME}, "labelme's JSON"),
        ({"train/1.jpg": "", "train/1.json": LABELME, "val/2.jpg": "", "val/2.json": LABELME}, "labelme's JSON"),
        ({"1.jpg": "", "via_project.json": VIA}, "VIA's JSON"),
        ({"project-1.json": LABEL_STUDIO}, "Label Studio's own JSON"),
        ({"train/a.tfrecord": ""}, "TFRecord files"),
        ({"Images/1.jpg": "", "annotation_train.odgt": "{}"}, "CrowdHuman's annotations"),
        ({"1.jpg": "", "output.manifest": "{}"}, "a manifest of Amazon SageMaker Ground Truth"),
        (
            {"images/1.jpg": "", "annotations.xml": "<annotations><version>1.1</version></annotations>"},
            "CVAT's own XML",
        ),
        ({"images/default/1.jpg": "", "annotations/default.json": DATUMARO}, "Datumaro's JSON"),
        ({"images/1.jpg": "", "bdd100k_labels_images_train.json": BDD}, "the JSON of BDD100K or Scalabel"),
        ({"1.jpg": "", "1-asset.json": VOTT}, "VoTT's JSON"),
        ({"train/1.jpg": "", "train/_annotations.createml.json": CREATEML}, "CreateML's JSON"),
        ({"train/1.jpg": "", "boxes.csv": "ImageID,LabelName,XMin\n1,/m/01,0.1\n"}, "a table that names images"),
        ({"data/train-00000-of-00001.parquet": ""}, "Apache Arrow"),
        ({"cifar-10-batches-py/data_batch_1": ""}, "CIFAR's arrays"),
        ({"train/data.mdb": ""}, "a database of LMDB"),
        ({"cat/1.HEIC": "", "dog/2.heic": ""}, "photos that Pillow does not read"),
        ({"run/1.mp4": "", "walk/2.mp4": ""}, "videos"),
        ({"yes/1.wav": "", "no/2.wav": ""}, "sounds"),
        ({"images/1.jpg": "", "images/2.jpg": "", "train_list.txt": "images/1.jpg 0\n"}, "images with their classes"),
        ({"val/1.JPEG": "", "val.txt": "1.JPEG 65\n"}, "a list of images with their classes"),
        ({"train/1.png": "", "train/metadata.jsonl": "{}"}, "Hugging Face's imagefolder with metadata"),
        ({"train/1.jpg": "", "train/_annotations.csv": "", "valid/1.jpg": ""}, "a table of boxes"),
        (
            {"1.jpg": "", "vott.csv": '"image","xmin","ymin","xmax","ymax","label"\n"1.jpg",1,1,2,2,"a"\n'},
            "line 2, column 'image'",
        ),
        ({"training/image_2/1.png": "", "training/label_2/1.txt": KITTI}, "labels of KITTI"),
        ({"images/1.jpg": "", "annotations/1.txt": "684,8,273,116,0,0,0,0\n"}, "VisDrone and MOT"),
        ({"images/1.png": "", "labelTxt/1.txt": "imagesource:GoogleEarth\ngsd:0.1\n"}, "labels of DOTA"),
        (
            {
                "WIDER_train/images/0--Parade/1.jpg": "",
                "WIDER_val/images/0--Parade/2.jpg": "",
                "wider_face_split/wider_face_train_bbx_gt.txt": "0--Parade/1.jpg",
            },
            "WIDER FACE",
        ),
        ({"data/1.jpg": "", "labels.json": '{"classes": ["a"], "labels": {"1": 0}}'}, "FiftyOne's JSON of classes"),
        (
            {"1.jpg": "", "min.json": '[{"image": "/data/upload/1.jpg", "label": [{"rectanglelabels": []}]}]'},
            "Label St",
        ),
        ({"train/1.jpg": "", "a.json": '[{"file_name": "1.jpg", "annotations": [{"bbox_mode": 0}]}]'}, "Detectron2"),
        (
            {"1.jpg": "", "results.json": '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]'},
            "results of a detector",
        ),
        ({"data/1.jpg": "", "export.ndjson": "{}"}, "a file with a JSON object in each line"),
        ({"train/1.jpg": "", "test/2.jpg": "", "labels.csv": "id,breed\n1,pug\n"}, "a table that names images"),
        ({"train/1.jpg": "", "train/_annotations.txt": "", "valid/1.jpg": ""}, "a list of images with their boxes"),
        ({"training/1.jpg": "", "training/bounding_boxes.labels": "{}", "testing/2.jpg": ""}, "Edge Impulse's labels"),
        ({"training/1.jpg": "", "testing/2.jpg": "", "info.labels": "{}"}, "Edge Impulse's labels"),
        ({"images/1.jpg": "", "releases/latest/annotations/1.json": DARWIN}, "V7's Darwin JSON"),
        ({"val2017/1.jpg": "", "annotations/captions_val2017.json": "{}"}, "COCO's captions"),
        ({"val2017/1.jpg": "", "annotations/panoptic_val2017.json": "{}"}, "COCO's panoptic annotations"),
    ],
)
def test_the_format_is_named(tmp_path: Path, files: dict[str, str], name: str) -> None:
    with pytest.raises(DataError, match=name) as error:
        data_set(str(written(tmp_path, files)), split="train")
    assert error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "prefix", "expected"),
    [
        ("1.json", LABELME, "coco", "labelme's JSON"),
        ("set.zip", "PK", "coco", "an archive"),
        ("set.zip", "PK", "", "an archive"),
        ("t.xlsx", "PK", "csv", "a spreadsheet"),
    ],
)
def test_a_file_is_named(tmp_path: Path, name: str, content: str, prefix: str, expected: str) -> None:
    written(tmp_path, {name: content})
    with pytest.raises(DataError, match=expected):
        data_set(f"{prefix}:{tmp_path / name}" if prefix else str(tmp_path / name))


def test_a_table_of_boxes_gets_a_hint(tmp_path: Path) -> None:
    written(tmp_path, {"t.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,8,8,a,0,0,4,4\n"})
    with pytest.raises(DataError, match="line 2, column 'filename'") as error:
        data_set(f"csv:{tmp_path / 't.csv'}")
    assert "tables that name images are not read" in error.value.hint


def test_images_without_labels_are_named(tmp_path: Path) -> None:
    written(tmp_path, {"1.jpg": "", "2.png": ""})
    with pytest.raises(DataError, match="got images without labels") as error:
        data_set(str(tmp_path))
    assert "a folder of its own" in error.value.hint


def test_names_of_images_are_no_classes_of_a_table(tmp_path: Path) -> None:
    rows = "Width,Height,ClassId,Path\n" + "".join(f"{27 + i},26,{i % 3},Train/{i}.png\n" for i in range(9))
    written(tmp_path, {"Train.csv": rows})
    with pytest.raises(DataError, match=r"line 2: expected a class in the target column, got an image, 'Train/0.png'"):
        data_set(str(tmp_path / "Train.csv"), split="train")


@pytest.mark.parametrize("splits", [("",), ("train/", "test/")])
def test_labels_in_a_folder_of_each_class_are_noted(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        for name in ("Apple", "Orange"):
            text = f"{name} 1.0 2.0 30.0 40.5\n"
            pictures = {f"{split}{name}/{i}.jpg": "" for i in range(3)}
            written(tmp_path, {**pictures, **{f"{split}{name}/Label/{i}.txt": text for i in range(3)}})
    notes = data_set(str(tmp_path), split="train").notes
    assert any("Label has labels of OIDv4 ToolKit" in note and "only the images are read" in note for note in notes)


def test_labels_of_one_class_of_oidv4_are_named(tmp_path: Path) -> None:
    written(tmp_path, {"1.jpg": "", "Label/1.txt": "Vehicle registration plate 1.0 2.0 30.0 40.5\n"})
    with pytest.raises(DataError, match="labels of OIDv4 ToolKit"):
        data_set(str(tmp_path), split="train")


@pytest.mark.parametrize("rows", ["id,label\n1,3\n2,5\n", "image_id,label\n1,cat\n2,dog\n"])
def test_numbers_of_images_are_no_features(tmp_path: Path, rows: str) -> None:
    written(tmp_path, {"trainLabels.csv": rows})
    with pytest.raises(DataError, match="a table that names images"):
        data_set(f"csv:{tmp_path / 'trainLabels.csv'}", split="train")


@pytest.mark.parametrize(
    "files",
    [
        # CVAT's and VOC's masks; Open Images; Supervisely; a common layout of masks; Kaggle's cats and dogs.
        ("JPEGImages/1.jpg", "SegmentationClass/1.png", "SegmentationObject/1.png", "ImageSets/Main/train.txt"),
        ("data/1.jpg", "labels/detections.csv"),
        ("img/1.jpg", "ann/1.jpg.json"),
        ("train_images/1.jpg", "train.csv"),
        ("train_images/1.jpg", "test-images/2.jpg", "train.csv"),
        ("images/1.jpg", "masks/1.png"),
        ("train/cat.1.jpg", "train/dog.1.jpg"),
        ("cats/1.jpg", "dogs/1.jpg", "docs/about.txt"),
        # CamVid's masks beside the splits; KITTI, whose training part alone has labels.
        ("train/1.png", "trainannot/1.png", "val/2.png", "valannot/2.png"),
        ("training/image_2/1.png", "training/label_2/1.txt", "testing/image_2/2.png"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    root = written(tmp_path, dict.fromkeys(files, "x"))
    for source in (str(root), f"folder:{root}"):
        with pytest.raises(DataError, match="expected (one subfolder per class|a subfolder for|images in the folder)"):
            data_set(source, split="train")
    with pytest.raises(DataError):
        data_set(f"folder:{root}", split="test")


def test_a_data_set_two_folders_deeper_is_suggested(tmp_path: Path) -> None:
    written(tmp_path, {"MNIST/raw/train-images-idx3-ubyte": "x"})
    with pytest.raises(DataError) as error:
        data_set(str(tmp_path))
    assert error.value.hint == f"use the folder {tmp_path / 'MNIST' / 'raw'}"


def test_labels_of_dota_beside_yolos_images_are_named(tmp_path: Path) -> None:
    written(tmp_path, {"train/images/1.jpg": "", "train/labelTxt/1.txt": "", "data.yaml": "train: train/images\nnc: 1"})
    with pytest.raises(DataError, match="expected files in labels/") as error:
        data_set(str(tmp_path), split="train")
    assert "labelTxt has labels of DOTA" in error.value.hint


def test_labels_of_makesense_get_the_name_of_their_folder(tmp_path: Path) -> None:
    written(tmp_path, {"images/1.jpg": "", "labels_my-project_2024-01-01/1.txt": "0 0.5 0.5 0.5 0.5\n"})
    with pytest.raises(DataError, match="got other files alone") as error:
        data_set(str(tmp_path), split="train")
    assert error.value.hint.endswith("rename it to labels")
    (tmp_path / "labels_my-project_2024-01-01").rename(tmp_path / "labels")
    assert len(data_set(str(tmp_path), split="train")) == 1


def test_label_files_in_a_folder_of_annotations_get_its_name(tmp_path: Path) -> None:
    written(tmp_path, {"images/1.jpg": "", "annotations/1.txt": "0 0.5 0.5 0.5 0.5\n", "darknet.labels": "a\n"})
    with pytest.raises(DataError) as caught:
        data_set(str(tmp_path), split="train")
    assert caught.value.hint == "if annotations has YOLO's label files, rename it to labels"


def test_a_folder_without_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="got a folder without files"):
        data_set(str(tmp_path))


def test_photos_beside_those_that_are_read_are_noted(tmp_path: Path) -> None:
    written(tmp_path, {f"{name}/{i}.jpg": "" for name in ("cat", "dog") for i in range(2)} | {"cat/3.heic": ""})
    (note, *_) = data_set(str(tmp_path), split="train").notes
    assert note.startswith(f"{tmp_path / 'cat'} has photos that Pillow does not read: only the images are read")


@pytest.mark.parametrize("number", ["0.2.65536", "²", "1.5.", "-", "--3", "."])
def test_what_only_looks_like_a_number_is_a_word(number: str) -> None:
    assert program_of_line(f"Coin 3.5 7 {number} 99") is None
    assert program_of_line("Coin 3.5 7 88.25 99") == "labels of OIDv4 ToolKit, which have a name and corners in px"
