import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit.data.coco import COCO_CATEGORY_IDS, COCO_NAMES
from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.coco_json import coco_from_path
from edgekit.errors import DataError

random = np.random.default_rng(0)


def annotations(count=3, **changes):
    return {
        "info": {"year": 2017},
        "images": [{"id": 10 * i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(count)],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 9, "segmentation": [[1, 2]]},
            {"id": 2, "image_id": 0, "category_id": 3, "bbox": [10, 20, 30, 10], "iscrowd": 0},
            {"id": 3, "image_id": 10, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}],
    } | changes


def write(file, content=None, size=(40, 30)):
    file.parent.mkdir(parents=True, exist_ok=True)
    content = annotations() if content is None else content
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    if isinstance(content, dict):
        for image in content["images"]:
            Image.new("RGB", size, (9, 9, 9)).save(file.parent / image["file_name"])
    return file


def test_boxes_are_corners_and_classes_are_numbered_by_category_id(tmp_path):
    found = coco_from_path(write(tmp_path / "val.json"), Choice())
    assert found.labels == ("cat", "dog") and len(found) == 3 and found.task == "detect"
    example = found[0]
    np.testing.assert_array_equal(example.target.corners, np.float32([[1, 2, 4.5, 6], [10, 20, 40, 30]]))
    assert example.target.classes.tolist() == [1, 0]
    assert example.target.corners.dtype == np.float32 and example.target.classes.dtype == np.int64
    assert example.input.shape == (30, 40, 3)
    assert found[2].target.corners.shape == (0, 4)


def test_crowds_are_set_aside_and_counted(tmp_path):
    found = coco_from_path(write(tmp_path / "val.json"), Choice())
    assert len(found[1].target) == 0
    assert found[1].target.ignored.corners.tolist() == [[0, 0, 40, 30]]
    assert found[0].target.ignored is None
    assert "boxes of crowds or difficult objects: 1 ignored" in found.notes


def test_boxes_are_those_of_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    boxes = [
        {
            "id": i + 1,
            "image_id": int(random.integers(5)) * 10,
            "category_id": int(random.choice([3, 7])),
            "bbox": [float(x) for x in (*random.uniform(0, 15, 2), *random.uniform(1, 14, 2))],
            "iscrowd": int(random.random() < 0.2),
        }
        for i in range(40)
    ]
    file = write(tmp_path / "val.json", annotations(5, annotations=boxes))
    found = coco_from_path(file, Choice())
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(file))
    names = {category["id"]: category["name"] for category in theirs.loadCats(theirs.getCatIds())}
    for i in range(5):
        expected = theirs.loadAnns(theirs.getAnnIds(imgIds=[10 * i], iscrowd=False))
        xywh = np.array([each["bbox"] for each in expected]).reshape(-1, 4)
        corners = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
        np.testing.assert_allclose(found[i].target.corners, corners, rtol=1e-6)
        assert [found.labels[k] for k in found[i].target.classes] == [names[each["category_id"]] for each in expected]


def test_cocos_own_categories_have_cocos_names(tmp_path):
    categories = [{"id": i, "name": name} for i, name in zip(COCO_CATEGORY_IDS, COCO_NAMES, strict=True)]
    boxes = [{"image_id": 0, "category_id": 90, "bbox": [1, 1, 5, 5]}]
    found = coco_from_path(
        write(tmp_path / "val.json", annotations(categories=categories, annotations=boxes)), Choice()
    )
    assert found.labels == COCO_NAMES
    assert found.labels[found[0].target.classes[0]] == "toothbrush"
    assert found.notes[1:] == [
        "no boxes in this split: 'person', 'bicycle', 'car', 'motorcycle', 'airplane' and 74 more"
    ]


def test_cocos_own_folders_are_found(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        write(tmp_path / f"{split}2017" / "x.json", annotations(count))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"{split}2017" / "x.json").rename(tmp_path / "annotations" / f"instances_{split}2017.json")
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    for source in (tmp_path, tmp_path / "annotations" / "instances_train2017.json"):
        assert len(data_set(str(source), split="train")) == 4
        assert len(data_set(str(source), split="test")) == 2
        data_set(str(source))[1]


def test_roboflows_folders_are_found(tmp_path):
    for split, count in (("train", 4), ("valid", 2)):
        write(tmp_path / split / "_annotations.coco.json", annotations(count))
    assert len(data_set(str(tmp_path), split="train")) == 4
    assert len(data_set(str(tmp_path), split="test")) == 2


def test_a_file_without_split_is_split_by_hash(tmp_path):
    file = write(tmp_path / "boxes.json", annotations(10))
    ids = {
        split: {coco_from_path(file, Choice(split))[i].id for i in range(n)} for split, n in (("train", 8), ("test", 2))
    }
    assert ids["train"] | ids["test"] == {f"{i}.png" for i in range(10)}


def box(bbox, **changes):
    return {"image_id": 0, "category_id": 3, "bbox": bbox} | changes


def test_a_box_beyond_the_edge_is_clipped_and_counted(tmp_path):
    boxes = [box([-5, 2, 10, 10]), box([30, 20, 20, 20]), box([0, 0, 40.0001, 30])]
    found = coco_from_path(write(tmp_path / "val.json", annotations(annotations=boxes)), Choice())
    assert found[0].target.corners.tolist() == [[0, 2, 5, 12], [30, 20, 40, 30], [0, 0, 40, 30]]
    assert "boxes beyond their image: 2 clipped to it" in found.notes


def test_a_box_without_area_is_left_out_and_counted(tmp_path):
    boxes = [box([5, 2, 0, 10]), box([1, 1, 2, 2])]
    found = coco_from_path(write(tmp_path / "val.json", annotations(annotations=boxes)), Choice())
    assert found[0].target.corners.tolist() == [[1, 1, 3, 3]]
    assert "boxes without area: 1 dropped" in found.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [box([50, 2, 10, 10])]}, r"annotations\[0\].bbox: expected a box in the image of 40 x 30"),
        ({"annotations": [box([5, 2, -3, 10])]}, r"annotations\[0\].bbox: expected x1 <= x2"),
        ({"annotations": [box([1e308, 2, 1e308, 10])]}, r"annotations\[0\].bbox: expected finite numbers"),
        ({"annotations": [box([1, 2, 3])]}, r"annotations\[0\].bbox: expected four numbers, got 3"),
        ({"annotations": [box([])]}, r"annotations\[0\]: expected a bbox or a segmentation, got neither"),
        ({"annotations": [box([1, 2, 3, "x"])]}, r"annotations\[0\].bbox: expected four numbers, got"),
        ({"annotations": [{"image_id": 0}]}, r"annotations\[0\]: object missing required field `category_id`"),
        (
            {"annotations": [box([1, 2, 3, 4], category_id=99)]},
            r"annotations\[0\].category_id: expected one of 3, 7, got 99",
        ),
        ({"annotations": [box([1, 2, 3, 4], image_id=5)]}, r"annotations\[0\].image_id: expected the id of an image"),
        ({"annotations": [box([0.1, 0.2, 0.5, 0.6])]}, r"annotations\[0\].bbox: expected corners in px, got fractions"),
        ({"images": [{"id": 0, "width": 4, "height": 4}]}, r"images\[0\]: object missing required field `file_name`"),
        ({"categories": []}, "categories: expected at least one, got none"),
        ({"images": {}}, r"images: expected a list, got an object"),
    ],
)
def test_an_invalid_field_is_an_error_that_names_it(tmp_path, changes, message):
    write(tmp_path / "other.json")  # its images
    with pytest.raises(DataError, match=f"val.json: {message}"):
        coco_from_path(write(tmp_path / "val.json", json.dumps(annotations() | changes)), Choice())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected JSON"),
        ('{"images": [],\n "annotations": [}', r"val.json, line 2: expected JSON"),
        ("<!DOCTYPE html>\n<html>", "expected JSON, got a web page"),
        ("[]", "top level: expected an object, got a list"),
        ("{}", "top level: object missing required field `images`"),
        ("[" * 100_000, "val.json"),
        ('{"images": ' + "[" * 100_000, "val.json"),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ],
)
def test_other_json_is_an_error(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        coco_from_path(write(tmp_path / "val.json", content), Choice())


def test_small_boxes_of_fractions_beside_one_in_px_are_in_px(tmp_path):
    content = annotations(annotations=[box([0.1, 0.2, 0.5, 0.6], id=1), box([1, 1, 2, 2], id=2)])
    found = coco_from_path(write(tmp_path / "val.json", content), Choice())
    np.testing.assert_allclose(found[0].target.corners[0], [0.1, 0.2, 0.6, 0.8], rtol=1e-6)


def test_lviss_images_have_addresses_that_end_in_a_folder_and_a_name(tmp_path):
    content = annotations()
    for split in ("train", "val"):  # both have a file of this name
        (tmp_path / f"{split}2017").mkdir()
        Image.new("RGB", (40, 30), (9, 9, split == "val" and 255)).save(tmp_path / f"{split}2017" / "0.png")
    content["images"] = [
        {"id": 0, "coco_url": "http://images.cocodataset.org/train2017/0.png", "width": 40, "height": 30},
        {"id": 10, "coco_url": "http://images.cocodataset.org/val2017/0.png", "width": 40, "height": 30},
    ]
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(content))
    found = data_set(str(tmp_path))
    assert found.labels == ("cat", "dog") and len(found) == 2
    assert [int(found[i].input[0, 0, 2]) for i in range(2)] == [0, 255]


@pytest.mark.parametrize("name", ["captions.json", "panoptic_val2017.json"])
def test_a_folder_with_other_annotations_alone_is_an_error_that_names_them(tmp_path, name):
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"expected a COCO JSON file with boxes, .*got {name}"):
        data_set(str(tmp_path), split="train")


def test_bytes_that_are_no_text_are_an_error(tmp_path):
    (tmp_path / "val.json").write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(DataError, match=r"val.json"):
        coco_from_path(tmp_path / "val.json", Choice())


def test_no_images_are_an_error(tmp_path):
    with pytest.raises(DataError, match="images: expected at least one"):
        coco_from_path(write(tmp_path / "val.json", annotations(0, annotations=[])), Choice())
    with pytest.raises(DataError, match="images: expected at least one for the test split, got 1"):
        coco_from_path(write(tmp_path / "x.json", annotations(1, annotations=[])), Choice())


def test_an_image_that_is_not_there_is_an_error_that_says_where_it_was_looked_for(tmp_path):
    file = write(tmp_path / "val.json")
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(DataError, match=r"images\[0\].file_name: expected a file in one of .*images"):
        coco_from_path(file, Choice())


def test_an_image_of_another_size_is_an_error_when_it_is_read(tmp_path):
    found = coco_from_path(write(tmp_path / "val.json", size=(30, 40)), Choice())
    with pytest.raises(
        DataError, match=r"0.png: expected 40 x 30 px, as images\[0\] of val.json says, got 30 x 40"
    ) as e:
        found[0]
    assert "exchanged" in e.value.hint


def test_a_folder_of_one_split_has_not_the_other(tmp_path):
    write(tmp_path / "instances_train.json")
    with pytest.raises(DataError, match="expected one called test or .*got instances_train.json"):
        coco_from_path(tmp_path, Choice("test"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "name", "width"]), inner)
    ),
    max_leaves=8,
)
small = st.integers(-2, 50) | st.floats(width=32)
names = st.sampled_from(["0.png", "", "\0", "a" * 300])
images = st.fixed_dictionaries({"id": st.integers(0, 3), "file_name": names, "width": small, "height": small})
boxes = st.lists(small, min_size=4, max_size=4)
labelled = st.fixed_dictionaries({"image_id": st.integers(0, 3), "category_id": st.integers(0, 2), "bbox": boxes})
categories = st.fixed_dictionaries({"id": st.integers(0, 2), "name": st.text(max_size=3)})
entries = st.fixed_dictionaries(
    {
        "images": st.lists(images, max_size=3) | values,
        "annotations": st.lists(labelled | values, max_size=3),
        "categories": st.lists(categories, max_size=3),
    }
)


@settings(max_examples=200)
@given((entries | values).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30))
def test_any_json_is_a_set_or_a_data_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val.json").write_bytes(content)
    Image.new("RGB", (40, 30)).save(folder / "0.png")
    try:
        found = data_set(str(folder / "val.json"))
        for i in range(len(found)):
            boxes = found[i].target
            assert (boxes.corners[:, :2] < boxes.corners[:, 2:]).all() and np.isfinite(boxes.corners).all()
    except DataError:
        pass


def test_the_only_json_of_a_split_is_its_annotations(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        write(tmp_path / split / "annotation_coco.json", annotations(count))
    assert len(data_set(str(tmp_path), split="train")) == 4
    assert len(data_set(str(tmp_path), split="val")) == 2


def test_images_are_found_in_the_folder_of_their_split(tmp_path):
    content = annotations(2)
    write(tmp_path / "train" / "patch8" / "x.json", content)
    (tmp_path / "train" / "patch8" / "x.json").unlink()
    for image in content["images"]:
        image["file_name"] = f"images/v1/patch8/{image['file_name']}"
    (tmp_path / "zhiyuan_objv2_train.json").write_text(json.dumps(content))
    examples = data_set(str(tmp_path), split="train")
    assert [examples[i].id for i in range(2)] == ["0.png", "1.png"]


def test_annotations_of_classes_alone_say_where_these_are_read_from(tmp_path):
    write(tmp_path / "train.json", annotations(annotations=[{"id": 1, "image_id": 0, "category_id": 3}]))
    with pytest.raises(DataError, match="expected a bbox or a segmentation, got neither") as error:
        data_set(str(tmp_path / "train.json"), split="train")
    assert "a folder for each class" in error.value.hint


@pytest.mark.parametrize("name", ["0.jpg", "images/0.JPG", "images\\0.jpg"])
def test_an_image_with_another_suffix_is_named(tmp_path, name):
    content = annotations(1, annotations=[box([1, 2, 3, 4])])
    file = write(tmp_path / "val.json", content)
    if "/" in name.replace("\\", "/"):
        (tmp_path / "images").mkdir()
        (tmp_path / "0.png").rename(tmp_path / "images" / "0.png")
    content["images"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="got none named") as error:
        data_set(str(file))
    assert error.value.hint.endswith("0.png has another suffix: correct that in file_name")
