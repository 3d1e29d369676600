"""Lists that divide folders of classes into splits, as data sets for research have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from edgekit.data.examples import Choice, Split, data_set
from edgekit.data.formats.image_folder import ImageFolder, image_folder_from_path
from edgekit.errors import DataError

IMAGES = [f"{name}/{name}_{number}.jpg" for name in ("ant", "bee") for number in range(6)]
TEST = [IMAGES[number] for number in (0, 4, 7)]
TRAIN = [image for image in IMAGES if image not in TEST]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for image in IMAGES:
        path = tmp_path / "images" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "images"


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ids(images: Path, split: Split) -> list[str]:
    found = image_folder_from_path(images, Choice(split))
    return [found[index].id for index in range(len(found))]


@pytest.mark.parametrize(
    ("train", "test", "form"),
    [
        ("meta/train.txt", "meta/test.txt", lambda image: image.removesuffix(".jpg")),
        ("labels/train1.txt", "labels/test1.txt", lambda image: image),
        ("TrainImages.txt", "TestImages.txt", lambda image: image),
        ("images/train.txt", "images/test.txt", lambda image: f"./{image}"),
        ("lists/train_list.txt", "lists/test_list.txt", lambda image: f"{image} {IMAGES.index(image) // 6}"),
        ("splits/train.txt", "splits/test.txt", lambda image: f"images/{image},{image.split('/')[0]}"),
        ("train.txt", "test.txt", lambda image: "C:\\sets\\images\\" + image.replace("/", "\\").upper()),
    ],
    ids=["Food-101", "DTD", "MIT Indoor Scenes", "inside", "numbers", "names", "another machine"],
)
def test_lists_of_images_are_the_splits(images, train, test, form):
    write(images.parent / train, [form(image) for image in TRAIN])
    write(images.parent / test, [form(image) for image in TEST])
    assert ids(images, "train") == TRAIN
    assert ids(images, "test") == TEST
    found = image_folder_from_path(images, Choice("test"))
    assert [found[index].target for index in range(3)] == [0, 0, 1]
    assert found.notes == [f"the splits are those of {train} and {test}"]


def test_the_numbers_of_cub_are_the_splits(images):
    write(images.parent / "images.txt", [f"{number} {image}" for number, image in enumerate(IMAGES, 1)])
    write(images.parent / "train_test_split.txt", [f"{n} {int(image in TRAIN)}" for n, image in enumerate(IMAGES, 1)])
    write(images.parent / "classes.txt", ["1 ant", "2 bee"])
    assert (ids(images, "train"), ids(images, "test")) == (TRAIN, TEST)
    assert image_folder_from_path(images, Choice("test")).notes == ["the splits are those of train_test_split.txt"]


def test_the_test_split_is_val_without_a_list_of_it(images):
    write(images.parent / "train.txt", TRAIN)
    write(images.parent / "val.txt", TEST)
    assert ids(images, "test") == ids(images, "val") == TEST
    found = image_folder_from_path(images, Choice("test"))
    assert found.split == "val" and found.notes[0] == "the data set has no test split: its val split is used"


def test_the_first_of_several_lists_is_read_and_others_are_named(images):
    write(images.parent / "labels/test1.txt", TEST)
    write(images.parent / "labels/test2.txt", TRAIN)
    write(images.parent / "labels/train1.txt", TRAIN)
    write(images.parent / "labels/trainval1.txt", IMAGES)
    assert (ids(images, "train"), ids(images, "test")) == (TRAIN, TEST)
    notes = image_folder_from_path(images, Choice("test")).notes
    assert notes[1] == "test1.txt is read as the test split; other files of this split are not: test2.txt"
    notes = image_folder_from_path(images, Choice("train")).notes
    assert notes[1] == "train1.txt is read as the train split; other files of this split are not: trainval1.txt"


def test_what_lists_leave_out_is_counted(images):
    write(images.parent / "train.txt", [*TRAIN[2:], "ant/gone.jpg", "cow/cow_0.jpg"])
    write(images.parent / "test.txt", TEST)
    assert ids(images, "train") == TRAIN[2:]
    assert image_folder_from_path(images, Choice("train")).notes[1:] == [
        "images in no list: 2 left out",
        f"lines of {images.parent / 'train.txt'} that name no image of a class: 2 left out",
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"train.txt": TRAIN},
        {"train.txt": ["ant", "bee"], "test.txt": ["ant"]},
        {"train.txt": ["0 0.5 0.5 0.1 0.1"], "test.txt": ["0 0.5 0.5 0.1 0.1"]},
        {"train_test_split.txt": ["1 1"], "images.txt": ["1 cow/1.jpg"]},
        {"train_test_split.txt": ["1 1", "2 0"]},
    ],
    ids=["one list", "names of classes", "labels", "other images", "no images.txt"],
)
def test_other_texts_declare_no_splits(images, files):
    for name, lines in files.items():
        write(images.parent / name, lines)
    assert "the data set declares no splits" in image_folder_from_path(images, Choice("test")).notes[0]


def test_a_text_in_another_encoding_is_no_list(images):
    (images.parent / "train.txt").write_bytes(b"\xff\xfe\xff")
    (images.parent / "test.txt").write_bytes(b"caf\xe9 au lait")
    (images.parent / "images.txt").write_bytes(b"1 caf\xe9")
    write(images.parent / "train_test_split.txt", ["1 1", "2 0"])
    assert isinstance(image_folder_from_path(images, Choice("test")), ImageFolder)


def test_a_split_that_no_list_has_is_named(images):
    write(images.parent / "train.txt", TRAIN)
    write(images.parent / "test.txt", TEST)
    with pytest.raises(DataError, match="lists of images: expected one called val .* got train, test") as caught:
        image_folder_from_path(images, Choice("val"))
    assert "measure on the test split" in caught.value.hint


def test_classes_beside_a_folder_of_lists_called_labels_have_a_hint(images):
    write(images.parent / "labels/train1.txt", TRAIN)
    with pytest.raises(DataError) as caught:
        data_set(str(images.parent), split="train")
    assert caught.value.hint == f"if ant is a class, use {images}"
