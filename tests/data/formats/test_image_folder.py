import numpy as np
import pytest
from PIL import Image

from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.image_folder import image_folder_from_path
from edgekit.errors import DataError


def write(path, color=(0, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), color).save(path)


def ids(examples):
    return [examples[i].id for i in range(len(examples))]


def test_a_folder_is_a_class_and_classes_are_numbered_by_name(tmp_path):
    for label, name in enumerate(["ant", "bee", "cow"]):
        for split in ("train", "test"):
            write(tmp_path / split / name / "1.png", (label * 50, 0, 0))
    for split in ("train", "test"):
        found = image_folder_from_path(tmp_path, Choice(split))
        assert found.labels == ("ant", "bee", "cow") and found.task == "classify" and found.notes == []
        assert [found[i].target for i in range(3)] == [0, 1, 2]
        assert [int(found[i].input[0, 0, 0]) for i in range(3)] == [0, 50, 100]
        assert found[0].input.shape == (4, 6, 3) and found[0].input.dtype == np.uint8


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test"])
def test_a_folder_for_the_test_may_be_called_otherwise(tmp_path, name):
    write(tmp_path / "train" / "ant" / "1.png")
    write(tmp_path / name / "ant" / "2.png")
    assert ids(image_folder_from_path(tmp_path, Choice("test"))) == ["ant/2.png"]


def test_a_class_has_the_same_number_in_both_splits_where_one_lacks_it(tmp_path):
    for path in ("train/ant", "train/bee", "train/cow", "test/cow", "test/bee"):
        write(tmp_path / path / "1.png")
    found = image_folder_from_path(tmp_path, Choice("test"))
    assert found.labels == ("ant", "bee", "cow")
    assert [found[i].target for i in range(2)] == [1, 2]
    assert found.notes == ["no images in this split: 'ant'"]


def test_without_splits_a_fifth_of_each_class_is_the_test(tmp_path):
    for name in ("ant", "bee"):
        for i in range(10):
            write(tmp_path / name / f"{i}.png")
    train, test = (ids(image_folder_from_path(tmp_path, Choice(split))) for split in ("train", "test"))
    assert len(test) == 4 and sum(name.startswith("ant") for name in test) == 2
    assert sorted(train + test) == sorted(f"{name}/{i}.png" for name in ("ant", "bee") for i in range(10))


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path):
    for place in ("here", "there"):
        for i in range(10):
            write(tmp_path / place / "ant" / f"{i}.png")
    one, other = (ids(image_folder_from_path(tmp_path / place, Choice("test"))) for place in ("here", "there"))
    assert one == other


def test_a_single_image_is_learned_from_and_the_test_says_that_it_has_none(tmp_path):
    write(tmp_path / "ant" / "1.png")
    for i in range(5):
        write(tmp_path / "bee" / f"{i}.png")
    assert image_folder_from_path(tmp_path, Choice("test")).notes[1:] == ["no images in this split: 'ant'"]
    assert "ant/1.png" in ids(image_folder_from_path(tmp_path, Choice("train")))


@pytest.mark.parametrize("split", ["train", "."])
def test_an_empty_class_is_noted(tmp_path, split):
    write(tmp_path / split / "ant" / "1.png")
    (tmp_path / split / "bee").mkdir()
    examples = image_folder_from_path(tmp_path, Choice("train"))
    assert examples.labels == ("ant", "bee")
    assert examples.notes[-1] == "no images in this split: 'bee'"


def test_subfolders_of_a_class_belong_to_it_as_in_torchvision(tmp_path):
    for name in ("ant/1.png", "ant/x/2.png", "bee/y/z/3.png", "bee/4.png"):
        write(tmp_path / "train" / name)
    examples = image_folder_from_path(tmp_path, Choice("train"))
    assert examples.labels == ("ant", "bee")
    assert [examples[i].target for i in range(len(examples))] == [0, 0, 1, 1]


def test_splits_of_images_without_classes_are_not_taken_for_classes(tmp_path):
    for split in ("train", "valid"):
        write(tmp_path / split / "1.png")
        (tmp_path / split / "_classes.csv").write_text("filename, ant\n1.png, 1\n")
    with pytest.raises(DataError, match="expected a subfolder for each class in train and valid"):
        image_folder_from_path(tmp_path, Choice("train"))


@pytest.mark.parametrize("above", ["", "train"])
def test_one_folder_of_images_beside_a_table_is_not_taken_for_a_class(tmp_path, above):
    write(tmp_path / above / "images" / "1.png")
    (tmp_path / above / "labels.csv").write_text("file,label\n1.png,ant\n")
    with pytest.raises(DataError, match="expected one subfolder per class, got the single folder images"):
        data_set(f"folder:{tmp_path}", split="train")


def test_one_folder_too_high_names_the_folder_below(tmp_path):
    for name in ("ant", "bee"):
        write(tmp_path / "archive" / "train" / name / "1.png")
    with pytest.raises(DataError, match="use .*archive"):
        image_folder_from_path(tmp_path, Choice("train"))
    with pytest.raises(DataError, match="use the folder .*archive"):
        data_set(str(tmp_path), split="train")


@pytest.mark.parametrize("names", [("ant/x/1.png", "bee/y/2.png"), ("ant/x/1.png", "bee/y/z/2.png")], ids=str)
def test_classes_whose_images_are_in_subfolders_name_both_ways_on(tmp_path, names):
    for name in names:
        write(tmp_path / name)
    with pytest.raises(DataError, match="got folders whose images are in subfolders: ant, bee") as error:
        data_set(str(tmp_path), split="train")
    assert f"folder:{tmp_path};" in error.value.hint and str(tmp_path / "ant") in error.value.hint
    assert data_set(f"folder:{tmp_path}", split="train").labels == ("ant", "bee")


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path):
    for name in ("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png"):
        write(tmp_path / "train" / name)
    (tmp_path / "train" / "ant" / "3.png").symlink_to("nowhere.png")
    examples = data_set(str(tmp_path), split="train")
    assert len(examples) == 5
    with pytest.raises(DataError, match=r"3\.png: expected an image, got a link to nowhere\.png, which does not exist"):
        examples[2]


def test_a_split_that_is_not_there_is_an_error(tmp_path):
    write(tmp_path / "train" / "ant" / "1.png")
    with pytest.raises(DataError, match="expected one called test or testing .* or val or valid .*got train"):
        image_folder_from_path(tmp_path, Choice("test"))


def test_no_classes_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected one subfolder per class, got none"):
        image_folder_from_path(tmp_path, Choice())
    write(tmp_path / "ant" / "1.png")
    with pytest.raises(DataError, match="expected images in the test split, got none"):
        image_folder_from_path(tmp_path, Choice("test"))
    with pytest.raises(DataError, match="got a file"):
        image_folder_from_path(tmp_path / "ant" / "1.png", Choice())


def test_images_of_no_class_are_noted(tmp_path):
    write(tmp_path / "stray.png")
    for i in range(2):
        write(tmp_path / "ant" / f"{i}.png")
        write(tmp_path / "bee" / f"{i}.png")
    assert image_folder_from_path(tmp_path, Choice()).notes[1:] == [
        f"1 images are in {tmp_path} itself and belong to no class"
    ]


def test_hidden_folders_are_no_classes(tmp_path):
    for name in (".git", "__MACOSX", "ant"):
        for i in range(2):
            write(tmp_path / name / f"{i}.png")
    assert image_folder_from_path(tmp_path, Choice()).labels == ("ant",)


def test_a_broken_image_is_an_error_when_it_is_read(tmp_path):
    for i in range(2):
        (tmp_path / "ant").mkdir(exist_ok=True)
        (tmp_path / "ant" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    found = image_folder_from_path(tmp_path, Choice("test"))
    with pytest.raises(DataError, match=r"\d\.png"):
        found[0]


@pytest.mark.parametrize("name", ["test/images/1.png", "test/images/a/1.png"])
def test_a_split_without_classes_is_left_out_with_a_note(tmp_path, name):
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            write(tmp_path / split / label / f"{split}.png")
    write(tmp_path / name)
    note = f"{tmp_path / 'test'} has no folders of classes and is left out"
    for split, used in (("train", "train"), ("test", "val")):
        examples = data_set(str(tmp_path), split=split)
        assert examples.labels == ("ant", "bee") and note in examples.notes
        assert ids(examples) == [f"ant/{used}.png", f"bee/{used}.png"]


def test_a_test_split_without_classes_is_an_error_where_no_val_stands_for_it(tmp_path):
    for name in ("train/ant/1.png", "train/bee/1.png", "test/images/1.png"):
        write(tmp_path / name)
    assert data_set(str(tmp_path), split="train").labels == ("ant", "bee")
    with pytest.raises(DataError, match="test: expected one subfolder per class, got the single folder images"):
        data_set(str(tmp_path), split="test")


@pytest.mark.parametrize("names", [("jpg/1.png", "jpg/2.png"), ("gtFine/a/1.png", "leftImg8bit/a/1.png")], ids=str)
def test_folders_of_images_or_masks_are_no_classes(tmp_path, names):
    for name in names:
        write(tmp_path / name)
    with pytest.raises(DataError) as error:
        data_set(str(tmp_path), split="train")
    assert "classes" not in error.value.hint


def test_a_single_class_is_noted(tmp_path):
    for name in ("ant/1.png", "ant/2.png"):
        write(tmp_path / name)
    assert data_set(str(tmp_path), split="train").notes[-1] == "there is one class alone: 'ant'"


def test_a_split_of_images_without_classes_is_named(tmp_path):
    """Kaggle's GTSRB and other competitions have test images in one folder, beside those to train on."""
    for number in range(3):
        write(tmp_path / "Train" / str(number) / "1.png")
        write(tmp_path / "Test" / f"{number}.png")
    with pytest.raises(DataError) as caught:
        image_folder_from_path(tmp_path, Choice("test"))
    assert caught.value.message == f"{tmp_path / 'Test'}: expected one subfolder per class, got images without classes"
    assert "measure on the train split" in caught.value.hint
    found = image_folder_from_path(tmp_path, Choice("train"))
    assert found.notes == [f"{tmp_path / 'Test'} has no folders of classes and is left out"]
    write(tmp_path / "val" / "0" / "1.png")
    found = image_folder_from_path(tmp_path, Choice("test"))
    assert found.split == "val" and f"{tmp_path / 'Test'} has no folders of classes and is left out" in found.notes
