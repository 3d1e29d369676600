import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.yolo_text import yolo_from_path
from edgekit.data.formats.yolo_yaml import settings_from_yaml
from edgekit.errors import DataError

LINE = "0 0.5 0.5 0.5 0.5\n"


def image(path, size=(40, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write(root, texts, names=("cat", "dog")):
    """A set of images ``images/…``, of texts ``labels/…``."""
    for name, text in texts.items():
        image(root / "images" / f"{name}.png")
        if text is not None:
            label = root / "labels" / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


def ids(examples):
    return [examples[i].id for i in range(len(examples))]


def test_fractions_become_px_of_the_image(tmp_path):
    write(tmp_path, {"train/a": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.2 0.4\r\n", "val/b": ""})
    example = yolo_from_path(tmp_path, Choice("train"))[0]
    np.testing.assert_allclose(example.target.corners, [[15, 5, 25, 15], [0, 0, 8, 8]], atol=1e-5)
    assert example.target.classes.tolist() == [1, 0]
    assert example.input.shape == (20, 40, 3)
    found = yolo_from_path(tmp_path, Choice("test"))
    assert ids(found) == ["b.png"] and len(found[0].target) == 0 and found.labels == ("cat", "dog")
    assert found.notes == [
        "the data set has no test split: its val split is used",
        "no boxes in this split: 'cat', 'dog'",
    ]
    assert found.split == "val" and yolo_from_path(tmp_path, Choice("val")).split == "val"


def test_corners_are_those_that_were_written_down(tmp_path):
    random = np.random.default_rng(0)
    low = random.uniform(0, 0.5, (50, 2))
    corners = np.hstack([low, low + random.uniform(0.01, 0.5, (50, 2))])
    centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    text = "".join(f"0 {c[0]:.8f} {c[1]:.8f} {s[0]:.8f} {s[1]:.8f}\n" for c, s in zip(centers, sides, strict=True))
    write(tmp_path, {"train/a": text})
    got = yolo_from_path(tmp_path, Choice("train"))[0].target.corners
    np.testing.assert_allclose(got, corners * [40, 20, 40, 20], atol=1e-4)


def test_an_outline_is_the_box_around_it(tmp_path):
    write(tmp_path, {"train/a": "1 0.1 0.2 0.5 0.2 0.3 0.8\n"})
    got = yolo_from_path(tmp_path, Choice("train"))[0].target.corners
    np.testing.assert_allclose(got, [[4, 4, 20, 16]], atol=1e-5)


def test_an_image_without_text_shows_nothing_and_is_counted(tmp_path):
    write(tmp_path, {"train/a": None, "train/b": LINE})
    found = yolo_from_path(tmp_path, Choice("train"))
    assert [len(found[i].target) for i in range(2)] == [0, 1]
    assert "images without a label file: 1 taken as images without objects" in found.notes


def test_boxes_over_the_edge_are_clipped_and_counted(tmp_path):
    write(tmp_path, {"train/a": "0 0.05 0.5 0.5 0.5\n1 0.5 0.5 0 0.5\n0 0.5 0.5 1 1\n"})
    found = yolo_from_path(tmp_path, Choice("train"))
    np.testing.assert_allclose(found[0].target.corners, [[0, 5, 12, 15], [0, 0, 40, 20]], atol=1e-5)
    assert found.notes[:2] == [
        "boxes beyond their image: 1 clipped to it",
        "boxes without area: 1 dropped",
    ]


@pytest.mark.parametrize("layout", ["images/{}/x.png", "{}/images/x.png"])
@pytest.mark.parametrize("word", ["test", "val", "valid"])
def test_layouts_of_ultralytics_and_roboflow_are_found(tmp_path, layout, word):
    for split in ("train", word):
        path = tmp_path / layout.format(split)
        image(path)
        label = tmp_path / layout.replace("images", "labels").format(split)
        label.parent.mkdir(parents=True)
        label.with_suffix(".txt").write_text(LINE)
    assert ids(data_set(str(tmp_path))) == ["x.png"]
    assert len(data_set(str(tmp_path), split="train")[0].target) == 1


def test_texts_beside_their_images_are_found_and_split_by_hash(tmp_path):
    for i in range(10):
        image(tmp_path / f"{i}.jpg")
        (tmp_path / f"{i}.txt").write_text(LINE)
    train, test = (ids(data_set(str(tmp_path), split=split)) for split in ("train", "test"))
    assert len(test) == 2 and sorted(train + test) == [f"{i}.jpg" for i in range(10)]


def test_without_names_classes_are_called_by_their_numbers(tmp_path):
    write(tmp_path, {"train/a": "2 0.5 0.5 0.5 0.5\n"}, names=())
    found = yolo_from_path(tmp_path, Choice("train"))
    assert found.labels == ("0", "1", "2")
    assert "no data.yaml or classes.txt has class names, so classes are named 0 to 2" in found.notes


@pytest.mark.parametrize(
    "names",
    [
        "names: ['cat', \"traffic light\", it''s]\n".replace("it''s", "'it''s'"),
        "names: [cat,\n  traffic light,  # of all colours\n  'it''s']\n",
        "names:\n- cat\n- 'traffic light'\n- it's # hers\n",
        'names:\n  - cat\n  - traffic light\n  - "it\'s"\n',
        "names:\n  0: cat\n  1: traffic light  # red\n  2: it's\n",
        "names: # all\n  2: it's\n  1: traffic light\n  0: cat\n",
        "names: {0: cat, 2: \"it's\", 1: 'traffic light'}\n",
        "names: {\n  0: cat,  # one, two\n  '1': traffic light,\n  2: it's,\n}\n",
        'names: ["\\x63at", "traffic\\u0020light", "it\\U00000027s"]\n',
        "names: &all\n- cat\n- traffic light\n- it's\n",
        "names: !!seq [cat, traffic light, it's]\n",
        "'names':\n  \"0\": cat\n  '1': traffic light\n  2: it's\n",
    ],
)
def test_a_data_yaml_names_classes_and_places(tmp_path, names):
    write(tmp_path / "set", {"train/a": LINE, "val/b": "2 0.5 0.5 0.5 0.5\n", "test/c": None}, names=())
    (tmp_path / "data.yaml").write_text(
        "# made by hand\n---\npath: set  # root\n"
        f"train: images/train\nval: images/val\ntest: images/test\nnc: 3\n{names}"
        "download: |\n  from x import y\n  y(1)\n"
    )
    for source in (tmp_path / "data.yaml", tmp_path):
        found = data_set(str(source))
        assert found.labels == ("cat", "traffic light", "it's")
        assert ids(found) == ["b.png"] and found[0].target.classes.tolist() == [2]
        assert found.split == "val" and "the test split has no label files: the val split is used" in found.notes
    assert ids(data_set(str(tmp_path), split="train")) == ["a.png"]


@pytest.mark.parametrize(
    "text",
    [
        '{"train": "images/train", "val": "images/val",\n "nc": 1, "names": ["ca\\u0074"]}',
        '{"val": "images/val", "names": {"0": "cat"}, "more": {"a": [1, null]}}',
        "%YAML 1.2\n---\nval: images/val\nnames: [cat]\n...\nnames: [dog]\n",
    ],
)
def test_json_and_the_marks_of_a_yaml_document_are_read(tmp_path, text):
    write(tmp_path, {"train/a": LINE, "val/b": LINE}, names=())
    (tmp_path / "data.yaml").write_text(text)
    assert data_set(str(tmp_path / "data.yaml")).labels == ("cat",)


@pytest.mark.parametrize(
    ("escaped", "name"),
    [("\\u00e9t\\xe9", "été"), ("a\\tb", "a\tb"), ("\\ud800", "\ufffd"), ("\\UFFFFFFFF", "\ufffd"), ('\\"\\\\', '"\\')],
)
def test_escapes_in_double_quotes_are_those_of_yaml(tmp_path, escaped, name):
    (tmp_path / "data.yaml").write_text(f'names: ["{escaped}"]\n')
    assert settings_from_yaml(tmp_path / "data.yaml")["names"] == [name]


def test_roboflows_path_with_one_step_too_many_is_found(tmp_path):
    for split in ("train", "valid"):
        image(tmp_path / split / "images" / "x.png")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "x.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    assert data_set(str(tmp_path))[0].target.classes.tolist() == [0]


def test_darknets_data_file_is_read(tmp_path):
    write(tmp_path, {"a": LINE, "b": LINE}, names=())
    (tmp_path / "train.txt").write_text("images/a.png\n")
    (tmp_path / "valid.txt").write_text(f"{tmp_path / 'images' / 'b.png'}\n")
    (tmp_path / "obj.names").write_text("cat\n")
    (tmp_path / "obj.data").write_text(
        "classes = 1\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = /x\n"
    )
    for source in (tmp_path / "obj.data", tmp_path):
        assert ids(data_set(str(source), split="train")) == ["a.png"]
        assert ids(data_set(str(source))) == ["b.png"]
        assert data_set(str(source)).labels == ("cat",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5 0.5 0.5 0.5 0.5", "line 1: expected a class from 0 to 1, got '5'"),
        ("-1 0.5 0.5 0.5 0.5\n" + LINE + "2 0.5 0.5 0.5 0.5", "line 1: expected a class from 0 to 1, got '-1'"),
        ("cat 0.5 0.5 0.5 0.5", "line 1: expected a class from 0 to 1, got 'cat'"),
        ("1.5 0.5 0.5 0.5 0.5", "line 1: expected a class from 0 to 1"),
        ("9" * 50 + " 0.5 0.5 0.5 0.5", "line 1: expected a class"),
        ("0 0.5 0.5 0.5", r"line 1: expected 4 numbers after the class \(cx cy width height\), got 3"),
        ("0 0.5 0.5 0.5 0.5 0.9", r"got 5"),
        ("0", "got 0"),
        ("0 0.5 0.5 0.5 wide", "expected numbers after the class"),
        ("0 120 80 40 20", "line 1: expected fractions of the image, 0 to 1, got '120 80 40 20'"),
        ("0 0.5 0.5 -0.5 0.5", "expected fractions"),
        ("0 nan 0.5 0.5 0.5", "expected fractions"),
        ("0 inf 0.5 0.5 0.5", "expected fractions"),
        ("0 1.009 0.5 0.01 0.5", "line 1: expected a box in the image of 1 x 1, got one outside it"),
        ("<!DOCTYPE html>\n", "got a web page"),
        ("0 0.5 \udcff", "line 1: expected UTF-8 text, got the byte 0xff at 7"),
    ],
)
def test_a_line_that_is_no_box_is_an_error(tmp_path, text, message):
    write(tmp_path, {"train/a": ""})
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"a\.txt.*{message}"):
        yolo_from_path(tmp_path, Choice("train"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: cat\ntrain: images", "names: expected a list, got .cat."),
        ("train: images\n", "names: expected class names"),
        ("names: []\n", "names: expected class names"),
        ("names: [cat, ]x\n", "line 1: expected a list that ends with ]"),
        ("names: [cat, {a: b}]\n", "line 1: expected names and commas"),
        ("names: ['cat]\n", "line 1: expected names and commas"),
        ("names:\n  0: cat\n  2: dog\n", "names: expected a name for each class from 0 to 2, got none for 1"),
        ("names:\n  0: cat\n  0: dog\n", "line 3: expected a unique number, got a duplicate: 0"),
        ("names:\n  0: cat\n  dog\n", "line 3: expected NUMBER: NAME, got 'dog'"),
        ("names:\n  - cat\n  dog\n", "line 3: expected - NAME, got 'dog'"),
        ("names:\n  {cat: 0}\n", "line 1: expected numbers, names and commas, got 'cat: 0'"),
        ("names: {0: cat, 0: dog}\n", "line 1: expected a unique number, got a duplicate: 0"),
        ("names: >-\n  cat\n", "line 1: names: expected a list of names"),
        ('{"names": ["cat"]', "line 1: expected JSON, as the file begins with {"),
        ("names: ['', cat]\n", "names: expected a name for class 0, got none"),
        ("nc: 2\nnames: [cat]\ntrain: images", "nc: expected 1, the number of names, got '2'"),
        ("names: [cat]\nnames: [dog]\n", "line 2: expected 'names' once"),
        ("names: [a, b, c]\ntrain: nowhere\n", "train: expected a file or a folder, got no such path: nowhere"),
        (
            "names: [a, b, c]\nval: images/train\n",
            r"expected one called train or training .*got val",
        ),
    ],
)
def test_a_data_yaml_that_is_not_understood_is_an_error(tmp_path, text, message):
    write(tmp_path, {"train/a": LINE}, names=())
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        yolo_from_path(tmp_path / "data.yaml", Choice("train"))


def test_a_data_file_that_is_not_understood_is_an_error(tmp_path):
    (tmp_path / "obj.data").write_text("train\n")
    with pytest.raises(DataError, match="obj.data, line 1: expected key = value, got 'train'"):
        yolo_from_path(tmp_path / "obj.data", Choice("train"))
    (tmp_path / "obj.data").write_text("train = list.txt\nnames = n.txt\n")
    (tmp_path / "n.txt").write_text("cat\ncat\n")
    (tmp_path / "list.txt").write_text("\nx.png\n")
    with pytest.raises(DataError, match="n.txt, line 2: expected a unique name, got 'cat', as in line 1"):
        yolo_from_path(tmp_path / "obj.data", Choice("train"))
    (tmp_path / "n.txt").write_text("cat\n")
    with pytest.raises(DataError, match="list.txt, line 2: expected the path of an image, got x.png"):
        yolo_from_path(tmp_path / "obj.data", Choice("train"))


def test_no_texts_or_no_images_are_an_error(tmp_path):
    write(tmp_path, {"train/a": None})
    with pytest.raises(DataError, match="expected files in labels/"):
        yolo_from_path(tmp_path, Choice("train"))
    with pytest.raises(DataError, match=r"expected one called test or testing .*val or .*got train"):
        yolo_from_path(tmp_path, Choice("test"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images, got none"):
        yolo_from_path(tmp_path / "empty", Choice("train"))


pieces = st.sampled_from(
    ["0", "1", "-1", "0.5", "1.0", "nan", "1e999", "cat", " ", "\n", "\r", "\t", "\0", "é", "0.1 0.2"]
)
yaml = st.lists(
    st.sampled_from(
        ["names:", " [", "]", "'", '"', "cat", ",", "\n", "- ", "  0: ", "#", " ", "{", "\\", "train: images", ":"]
    )
).map("".join)


@given(st.lists(pieces, max_size=30).map("".join).map(str.encode) | st.binary(max_size=40))
def test_any_text_is_a_set_or_a_data_error(tmp_path_factory, content):
    root = write(tmp_path_factory.mktemp("yolo"), {"train/a": ""})
    (root / "labels" / "train" / "a.txt").write_bytes(content)
    try:
        boxes = data_set(f"yolo:{root}", split="train")[0].target
        assert (boxes.corners[:, :2] < boxes.corners[:, 2:]).all()
    except DataError:
        pass


@given(yaml.map(str.encode) | st.binary(max_size=40))
def test_any_data_yaml_is_a_set_or_a_data_error(tmp_path_factory, content):
    root = write(tmp_path_factory.mktemp("yolo"), {"a": LINE, "b": LINE}, names=())
    (root / "data.yaml").write_bytes(content)
    (root / "obj.data").write_bytes(content)
    for source in (root / "data.yaml", root / "obj.data", root):
        try:
            boxes = data_set(f"yolo:{source}", split="train")[0].target
            assert (boxes.corners[:, :2] < boxes.corners[:, 2:]).all()
        except DataError as e:
            assert e.message
