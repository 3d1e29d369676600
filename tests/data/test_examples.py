import gzip
import json

import numpy as np
import pytest
from PIL import Image

from edgekit.data.examples import Boxes, Example, check_first, data_set, data_set_names, feeds_from_example
from edgekit.data.generated.spelling import SPELLING_VOCABULARY
from edgekit.data.images import preprocess
from edgekit.errors import DataError, UsageError
from edgekit.recipe.schema import Preprocess
from edgekit.specs import TensorSpec

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = Preprocess(color="gray", mean=(0.0,), std=(1.0,))


def image(path, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGE).resize(size).save(path)


def coco(file, count=5):
    images = [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in range(count)]
    boxes = [{"image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]} for i in range(count)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}))
    for i in range(count):
        image(file.parent / f"{i}.png")


def voc(root, count=5):
    for i in range(count):
        image(root / "JPEGImages" / f"{i}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{i}.xml").write_text(
            "<annotation><size><width>30</width><height>20</height></size><object><name>cat</name><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
        )


def yolo(root, count=5):
    for i in range(count):
        image(root / "images" / f"{i}.png")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")


def folder(root):
    for name in ("cat", "dog"):
        for i in range(5):
            image(root / name / f"{i}.png")


def idx(root):
    root.mkdir()
    pixels = np.zeros((5, 4, 4), np.uint8)
    for split in ("train", "t10k"):
        header = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 4])
        (root / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        (root / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 5, 0, 1, 2, 1, 0]))


MAKERS = {
    "folder": (folder, "", "classify"),
    "idx": (idx, "", "classify"),
    "coco": (lambda root: coco(root / "a.json"), "a.json", "detect"),
    "voc": (voc, "", "detect"),
    "yolo": (yolo, "", "detect"),
    "csv": (lambda root: root.mkdir() or (root / "a.csv").write_text("1,2\n" * 5 + "3,4\n7,8\n"), "a.csv", "regress"),
    "text": (
        lambda root: root.mkdir() or (root / "a.tsv").write_text("a\tb\nc\td\ne\tf\ng\th\n"),
        "a.tsv",
        "translate",
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_format_is_detected_or_given_as_a_prefix(tmp_path, name):
    make, inner, task = MAKERS[name]
    make(tmp_path / "set")
    path = tmp_path / "set" / inner
    sets = [data_set(str(path), split=split) for split in ("train", "test")]
    assert [found.task for found in sets] == [task, task]
    told = data_set(f"{name}:{path}", split="train", task=task)
    assert len(told) == len(sets[0]) > 0
    for found in sets:
        for i in range(len(found)):
            assert isinstance(found[i], Example)


def test_splits_of_one_file_share_nothing_and_lose_nothing(tmp_path):
    coco(tmp_path / "a.json", 20)
    sets = [data_set(str(tmp_path / "a.json"), split=split) for split in ("train", "test")]
    ids = [[each[i].id for i in range(len(each))] for each in sets]
    assert len(ids[0]) == 16 and len(ids[1]) == 4
    assert sorted(ids[0] + ids[1]) == sorted(f"{i}.png" for i in range(20))


def test_an_unknown_name_is_an_error_that_names_the_nearest():
    assert data_set_names() == ["digits", "scenes", "spelling"]
    with pytest.raises(UsageError, match="unknown data set 'digit'") as e:
        data_set("digit")
    assert "digits" in e.value.hint
    with pytest.raises(UsageError, match="unknown data set 'cocoo:x'") as e:
        data_set("cocoo:x")
    assert "coco:" in e.value.hint


@pytest.mark.parametrize("source", ["", "coco:", "voc:/nowhere", "a" * 5000, "a\0b", "idx:a\0b"])
def test_a_path_that_is_not_there_is_an_error(source):
    with pytest.raises(UsageError):
        data_set(source)


def test_an_unknown_split_is_an_error():
    with pytest.raises(UsageError, match="expected train, val, test, got 'dev'"):
        data_set("spelling", split="dev")
    with pytest.raises(UsageError, match="expected the split train or test, got val"):
        data_set("spelling", split="val")


def test_a_set_for_another_task_is_an_error():
    with pytest.raises(DataError, match="expected one for the task 'detect', got one for 'translate'"):
        data_set("spelling", task="detect")


@pytest.mark.parametrize("name", ["digits:32", "spelling:9", "scenes:7", "scenes:axb", "scenes:99999", "scenes:0x64"])
def test_an_invalid_size_is_an_error(name):
    with pytest.raises(UsageError, match="expected"):
        data_set(name)


def test_a_folder_of_nothing_known_is_an_error_that_says_what_is_known(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(DataError, match="Annotations") as e:
        data_set(str(tmp_path))
    assert "folder:PATH" in e.value.hint
    with pytest.raises(DataError, match="a file in an unknown format"):
        data_set(str(tmp_path / "notes.md"))


@pytest.mark.parametrize("name", ["folder", "voc", "yolo", "coco", "idx"])
def test_a_wrong_format_prefix_is_an_error(tmp_path, name):
    (tmp_path / "a.bin").write_bytes(b"nothing of it")
    for path in (tmp_path / "a.bin", tmp_path):
        with pytest.raises(DataError):
            data_set(f"{name}:{path}")


def test_an_image_becomes_what_preprocess_makes_of_it():
    how, spec = Preprocess(resize="letterbox"), TensorSpec("images", "float32", (1, 3, 32, 32))
    feeds = feeds_from_example(Example("x", IMAGE, 0), [spec], how, ())
    np.testing.assert_array_equal(feeds["images"], preprocess(IMAGE, how, spec.shape)[0])


def test_a_grey_image_goes_into_grey_and_coloured_models():
    grey = IMAGE[..., 0]
    spec = TensorSpec("x", "float32", (1, 1, 20, 30))
    got = feeds_from_example(Example("x", grey, 0), [spec], GRAY, ())["x"]
    np.testing.assert_allclose(got[0, 0], grey / 255, atol=1e-6)
    spec = TensorSpec("x", "float32", (4, 3, 20, 30))
    got = feeds_from_example(Example("x", grey, 0), [spec], Preprocess(), ())["x"]
    assert got.shape == (4, 3, 20, 30)
    np.testing.assert_allclose(got[3, 2], grey / 255, atol=1e-6)


def test_numbers_go_in_as_they_are():
    spec = TensorSpec("x", "float32", (2, 3))
    got = feeds_from_example(Example("x", np.array([1, 2, 3], np.float32), 0), [spec], None, ())
    np.testing.assert_array_equal(got["x"], [[1, 2, 3], [1, 2, 3]])


TEXTS = [TensorSpec("source", "int64", (1, 6)), TensorSpec("target", "int64", (1, 8))]


def test_a_text_ends_and_its_translation_is_shifted_by_one():
    feeds = feeds_from_example(Example("x", "12", "ab-c"), TEXTS, None, SPELLING_VOCABULARY)
    at = SPELLING_VOCABULARY.index
    assert feeds["source"].tolist() == [[at("1"), at("2"), 2, 0, 0, 0]]
    assert feeds["target"].tolist() == [[1, at("a"), at("b"), at("-"), at("c"), 0, 0, 0]]
    assert feeds["source"].dtype == np.int64


def test_a_text_that_is_too_long_is_an_error():
    with pytest.raises(DataError, match="x: expected at most 6 tokens for input 'source', got 7"):
        feeds_from_example(Example("x", "123456", "a"), TEXTS, None, SPELLING_VOCABULARY)
    with pytest.raises(DataError, match="x: expected at most 8 tokens for input 'target', got 9"):
        feeds_from_example(Example("x", "1", "a" * 8), TEXTS, None, SPELLING_VOCABULARY)


def test_a_dimension_that_is_open_is_as_long_as_the_text():
    specs = [TensorSpec("source", "int64", ("n", "s"))]
    assert feeds_from_example(Example("x", "12", "a"), specs, None, SPELLING_VOCABULARY)["source"].shape == (1, 3)


@pytest.mark.parametrize(
    ("value", "spec", "how"),
    [
        (np.zeros(4, np.float32), TensorSpec("x", "float32", (1, 3)), None),
        (np.zeros(3, np.float32), TensorSpec("x", "float32", (1, 3, 1)), None),
        (np.zeros(3, np.float32), TensorSpec("x", "float32", (1, 3, 8, 8)), Preprocess()),
        (IMAGE, TensorSpec("x", "float32", (1, 20, 30, 3)), None),
        ("a text", TensorSpec("x", "float32", (1, 3)), None),
        ("a text", TensorSpec("x", "float32", (1, 3, 8, 8)), Preprocess()),
    ],
)
def test_an_example_that_the_model_does_not_take_is_an_error(value, spec, how):
    with pytest.raises(DataError, match="expected"):
        feeds_from_example(Example("x", value, 0), [spec], how, ())


@pytest.mark.parametrize(("shape", "shown"), [((2,), "2"), ((10, 1), "10x1")])
def test_an_error_on_numbers_shows_shapes_without_the_batch(shape, shown):
    example, spec = Example("x", np.zeros(shape, np.float32), 0), TensorSpec("features", "float32", (1, 10))
    with pytest.raises(DataError, match=f"x: expected float32 10 for the input 'features', got float32 {shown}(\\n|$)"):
        feeds_from_example(example, [spec], None, ())


def test_an_image_for_a_model_of_arrays_says_what_is_missing():
    with pytest.raises(DataError, match="which has no preprocessing for images, got an image of 30x20 px") as error:
        feeds_from_example(Example("x", IMAGE, 0), [TensorSpec("x", "float32", (1, 20, 30, 3))], None, ())
    assert "preprocess" in error.value.hint


def test_the_first_readable_example_is_checked():
    class Set(list):
        def __getitem__(self, index):
            if index == 0:
                raise DataError("a.jpg: broken image")
            return super().__getitem__(index)

    def refuse(example):
        raise DataError(f"{example.id} does not fit")

    rows = Set([Example(name, np.zeros(3, np.float32), 0) for name in "abc"])
    with pytest.raises(DataError, match="^b does not fit"):
        check_first(rows, range(3), refuse)
    check_first(rows, [0], refuse)
    check_first(Set([Example(name, "a text", "b") for name in "abc"]), range(3), refuse)


@pytest.mark.parametrize("source", ["digits", "scenes"])
def test_a_target_column_of_other_formats_is_an_error(source):
    with pytest.raises(UsageError, match=f"data set {source}: expected a CSV table for the target column 'price'"):
        data_set(source, target="price")


def test_one_array_for_two_inputs_is_an_error():
    specs = [TensorSpec(name, "float32", (1, 3)) for name in "ab"]
    with pytest.raises(DataError, match="expected arrays for a: float32"):
        feeds_from_example(Example("x", np.zeros(3, np.float32), 0), specs, None, ())


def test_boxes_count_without_the_ignored():
    ignored = Boxes(np.zeros((3, 4), np.float32), np.zeros(3, np.int64))
    assert len(Boxes(np.zeros((2, 4), np.float32), np.zeros(2, np.int64), ignored)) == 2
