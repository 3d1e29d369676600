import time
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.voc import VOC_NAMES, voc_from_path
from edgekit.data.formats.xml_tree import element_from_file
from edgekit.errors import DataError

OBJECT = """<object>
  <name>{name}</name>
  <difficult>{difficult}</difficult>
  <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  <bndbox><ymin>{y1}</ymin><xmin>{x1}</xmin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
</object>"""


def thing(name="cat", corners=(1, 2, 10, 20), difficult=0):
    x1, y1, x2, y2 = corners
    return OBJECT.format(name=name, x1=x1, y1=y1, x2=x2, y2=y2, difficult=difficult)


def annotation(*objects, size=(40, 30), filename="a.jpg"):
    return (
        f"<annotation>\n<filename>{filename}</filename>\n<size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>\n{''.join(objects)}\n</annotation>"
    )


def write(root, contents, lists=None):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, content in contents.items():
        (root / "Annotations" / f"{stem}.xml").write_text(content, encoding="utf-8")
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{stem}.jpg")
    for name, stems in (lists or {}).items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return root


def ids(examples):
    return [examples[i].id for i in range(len(examples))]


def test_pixels_are_counted_from_one_and_the_last_is_meant_too(tmp_path):
    whole = thing("dog", (1, 1, 40, 30))
    root = write(tmp_path, {"a": annotation(thing(), whole), "b": annotation()}, {"val": ["a", "b"]})
    found = voc_from_path(root, Choice())
    assert found.labels == ("cat", "dog")
    assert found.notes == ["the data set has no test split: its val split is used"]
    assert found[0].target.corners.tolist() == [[0, 1, 10, 20], [0, 0, 40, 30]]
    assert found[0].target.classes.tolist() == [0, 1]
    assert found[0].input.shape == (30, 40, 3)
    assert len(found[1].target) == 0


def test_difficult_objects_are_set_aside(tmp_path):
    root = write(tmp_path, {"a": annotation(thing(), thing(difficult=1))}, {"val": ["a"]})
    found = voc_from_path(root, Choice())
    assert len(found[0].target) == 1 and len(found[0].target.ignored) == 1
    assert "boxes of crowds or difficult objects: 1 ignored" in found.notes


def test_boxes_are_those_that_elementtree_reads(tmp_path):
    random = np.random.default_rng(0)
    objects = []
    for _ in range(30):
        x1, y1 = random.integers(1, 20, 2)
        objects.append(thing(str(random.choice(["cat", "dog"])), (x1, y1, x1 + random.integers(1, 20), y1 + 9)))
    root = write(tmp_path, {"a": annotation(*objects)}, {"val": ["a"]})
    example, labels = voc_from_path(root, Choice())[0], ("cat", "dog")
    theirs = ElementTree.parse(root / "Annotations" / "a.xml").getroot().findall("object")
    for each, corners, label in zip(theirs, example.target.corners, example.target.classes, strict=True):
        box = each.find("bndbox")
        expected = [float(box.find(tag).text) for tag in ("xmin", "ymin", "xmax", "ymax")]
        assert (corners + [1, 1, 0, 0]).tolist() == expected
        assert labels[label] == each.find("name").text


def test_voc_is_known_by_its_twenty_classes_or_its_name(tmp_path):
    objects = [thing(name) for name in VOC_NAMES]
    assert (
        voc_from_path(write(tmp_path / "a", {"a": annotation(*objects)}, {"val": ["a"]}), Choice()).labels == VOC_NAMES
    )
    devkit = tmp_path / "VOCdevkit"
    write(devkit / "VOC2007", {"a": annotation(thing("dog"))}, {"test": ["a"], "trainval": ["a"]})
    found = data_set(str(devkit))
    assert found.labels == VOC_NAMES and found[0].target.classes.tolist() == [VOC_NAMES.index("dog")]


def test_lists_are_the_splits_and_test_images_are_not_in_train(tmp_path):
    contents = {stem: annotation(thing()) for stem in "abc"}
    root = write(tmp_path, contents, {"train": ["a"], "val": ["b  1"], "trainval": ["a", "b"]})
    assert ids(voc_from_path(root, Choice("train"))) == ["a.jpg"]
    assert ids(voc_from_path(root, Choice("test"))) == ["b.jpg"]
    write(root, {}, {"test": ["c"]})
    assert ids(voc_from_path(root, Choice("train"))) == ["a.jpg", "b.jpg"]
    assert ids(voc_from_path(root, Choice("test"))) == ["c.jpg"]


def test_without_lists_a_fifth_is_the_test(tmp_path):
    root = write(tmp_path, {f"{i}": annotation(thing()) for i in range(10)})
    train, test = (ids(voc_from_path(root, Choice(split))) for split in ("train", "test"))
    assert len(test) == 2 and sorted(train + test) == [f"{i}.jpg" for i in range(10)]


def test_xml_files_beside_their_images_are_read(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.xml").write_text(annotation(thing()))
        Image.new("RGB", (40, 30)).save(tmp_path / f"{i}.png")
    assert ids(data_set(str(tmp_path), split="train"))[0].endswith(".png")


def test_an_image_may_be_called_as_its_file_says(tmp_path):
    root = write(tmp_path, {"a": annotation(thing(), filename="photo 1.jpg")}, {"val": ["a"]})
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "photo 1.jpg")
    assert ids(voc_from_path(root, Choice())) == ["photo 1.jpg"]


def test_a_class_that_is_not_listed_is_an_error_that_names_the_nearest(tmp_path):
    root = write(tmp_path, {"a": annotation(thing("catt"))}, {"val": ["a"]})
    (root / "labels.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"a.xml, line \d+: expected a known class name, got 'catt'") as e:
        voc_from_path(root, Choice())
    assert "cat" in e.value.hint


def test_a_box_beyond_the_edge_is_clipped_and_one_outside_is_an_error(tmp_path):
    root = write(tmp_path, {"a": annotation(thing(corners=(1, 1, 45, 30)))}, {"test": ["a"]})
    found = voc_from_path(root, Choice())
    assert found[0].target.corners.tolist() == [[0, 0, 40, 30]]
    assert found.notes == ["boxes beyond their image: 1 clipped to it"]
    root = write(tmp_path, {"a": annotation(thing(), thing(corners=(50, 1, 60, 30)))}, {"test": ["a"]})
    found = voc_from_path(root, Choice())
    assert len(found[0].target) == 1
    assert "a.xml, line 13: expected a box in the image of 40 x 30" in found.notes[0]
    root = write(tmp_path, {"a": annotation(thing(corners=(50, 1, 60, 30)))}, {"test": ["a"]})
    with pytest.raises(DataError, match=r"a.xml, line 8: expected a box in the image of 40 x 30"):
        voc_from_path(root, Choice())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: expected XML, got: no element found"),
        ("<annotation>\n<size>\n</annotation>", "line 3: expected XML, got: mismatched tag"),
        ("<html><body>Not found</body></html>", "got a web page"),
        ("<a/>", "line 1: expected <annotation>, got <a>"),
        (annotation("<object>\n</object>"), "line 4: expected <name> in <object>"),
        (annotation("<object>\n<name> </name></object>"), "line 5: expected a class name"),
        (annotation("<object><name>a</name></object>"), "line 4: expected <bndbox> in <object>"),
        (annotation(thing(corners=(1, 2, "x", 4))), "line 8: expected a number in <xmax>, got 'x'"),
        (annotation(thing(corners=(1, 2, "nan", 4))), "line 8: expected a number in <xmax>, got 'nan'"),
        (annotation(thing(corners=(9, 2, 3, 4))), "line 8: expected x1 <= x2"),
        ("<a>" * 100 + "</a>" * 100, "expected at most 64 nested elements"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "expected XML in UTF-8, got: unknown encoding"),
    ],
)
def test_an_invalid_annotation_is_an_error_that_names_its_line(tmp_path, content, message):
    with pytest.raises(DataError, match=f"a.xml.*{message}"):
        voc_from_path(write(tmp_path, {"a": content}, {"val": ["a"]}), Choice())


@pytest.mark.parametrize(
    ("declared", "written", "name"),
    [
        ("gb2312", "gbk", "猫"),
        ("GBK", "gbk", "镕"),  # which gb2312 itself lacks
        ("gb2312", "gbk", "镕"),  # Windows calls its gbk so
        ("gb18030", "gb18030", "㐂"),
        ("big5", "big5", "貓"),
        ("Shift_JIS", "cp932", "猫①"),
        ("euc-jp", "euc_jp", "猫"),
        ("euc-kr", "cp949", "고양이"),
        ("windows-1251", "cp1251", "кот"),
        ("utf-8", "utf-8", "猫"),
    ],
)
def test_names_in_the_encoding_that_the_file_declares(tmp_path, declared, written, name):
    write(tmp_path, {"a": ""}, {"val": ["a"]})
    content = f'<?xml version="1.0" encoding="{declared}"?>\n' + annotation(thing(name=name))
    (tmp_path / "Annotations" / "a.xml").write_bytes(content.encode(written))
    assert voc_from_path(tmp_path, Choice()).labels == (name,)


def test_error_on_bytes_of_another_encoding_says_how_to_declare_it(tmp_path):
    (tmp_path / "a.xml").write_bytes("<a>\n<b>狗</b></a>".encode("gbk"))
    with pytest.raises(DataError, match="a.xml, line 2: expected XML, got: not well-formed") as caught:
        element_from_file(tmp_path / "a.xml")
    assert 'encoding="gbk"' in caught.value.hint
    (tmp_path / "a.xml").write_bytes(b'<?xml version="1.0" encoding="gb2312"?>\n<a>\xff\xff</a>')
    with pytest.raises(DataError, match="a.xml, line 2: expected XML in gb2312, as it declares, got other bytes"):
        element_from_file(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_bytes(b"<a><b></a>")
    with pytest.raises(DataError, match="mismatched tag") as caught:
        element_from_file(tmp_path / "a.xml")
    assert caught.value.hint == ""


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    + "]><annotation>&a9;</annotation>"
)
OTHER_FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'


@pytest.mark.parametrize("content", [LAUGHS, OTHER_FILE, "<!DOCTYPE annotation SYSTEM 'http://x/y.dtd'><annotation/>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_before_anything_expands(tmp_path, content, encoding):
    (tmp_path / "a.xml").write_text(content, encoding=encoding)
    start = time.perf_counter()
    with pytest.raises(DataError, match="expected XML without a document type"):
        element_from_file(tmp_path / "a.xml")
    assert time.perf_counter() - start < 1


def test_a_large_file_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>" + " " * (5 << 20) + "</annotation>")
    with pytest.raises(DataError, match="expected at most 4,194,304 bytes"):
        element_from_file(tmp_path / "a.xml")


def test_files_that_are_missing_are_errors(tmp_path):
    root = write(tmp_path, {"a": annotation(thing())}, {"val": ["b"]})
    with pytest.raises(DataError, match=r"val.txt, line 1: expected the name of a file in Annotations, got 'b'"):
        voc_from_path(root, Choice())
    with pytest.raises(DataError, match="ImageSets/Main: expected one called train or .*trainval, got val"):
        voc_from_path(root, Choice("train"))
    write(root, {}, {"val": ["a"]})
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match="a.xml: expected its image a.jpg"):
        voc_from_path(root, Choice())


tags = ["annotation", "size", "width", "height", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax"]
texts = st.sampled_from(["", "1", "30", "-3", "1e400", "nan", "cat", "&lt;", "&x;", "\0", "<![CDATA[7]]>", "é"])
trees = st.recursive(
    st.tuples(st.sampled_from(tags), texts).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>"),
    lambda inner: st.tuples(st.sampled_from(tags), st.lists(inner, max_size=5)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
    max_leaves=12,
)
objects = st.lists(st.tuples(*[texts] * 4), max_size=3).map(
    lambda boxes: annotation(*(thing(corners=c) for c in boxes))
)


@given(
    (trees | objects).map(str.encode)
    | trees.map(lambda text: f"<annotation>{text}</annotation>".encode())
    | st.binary()
)
def test_any_file_is_a_set_or_a_data_error(tmp_path_factory, content):
    root = write(tmp_path_factory.mktemp("voc"), {"a": ""}, {"val": ["a"]})
    (root / "Annotations" / "a.xml").write_bytes(content)
    try:
        boxes = data_set(str(root))[0].target
        assert (boxes.corners[:, :2] < boxes.corners[:, 2:]).all()
    except DataError as e:
        assert e.message


def test_lists_of_single_classes_are_the_splits_as_vott_writes_them(tmp_path):
    lists = {
        "cat_train": ["a.jpg 1", "b.jpg -1"], "dog_train": ["b.jpg 1", "c.jpg 1"],
        "cat_val": ["d.jpg 1"], "dog_val": ["d.jpg -1"],
    }  # fmt: skip
    root = write(tmp_path, {stem: annotation(thing()) for stem in "abcd"}, lists)
    assert ids(voc_from_path(root, Choice("train"))) == ["a.jpg", "b.jpg", "c.jpg"]
    examples = voc_from_path(root, Choice("test"))
    assert ids(examples) == ["d.jpg"]
    assert examples.notes == ["the data set has no test split: its val split is used"]


def test_rotated_boxes_are_named(tmp_path):
    rotated = "<object><name>cat</name><robndbox><cx>9</cx><angle>0.3</angle></robndbox></object>"
    root = write(tmp_path, {"a": annotation(rotated)}, {"val": ["a"]})
    with pytest.raises(DataError, match="expected <bndbox> in <object>, got a rotated box") as error:
        voc_from_path(root, Choice("val"))
    assert "four corners" in error.value.hint


def test_polygons_without_boxes_are_named(tmp_path):
    outline = "<object><name>cat</name><polygon><pt><x>1</x><y>1</y></pt><pt><x>9</x><y>9</y></pt></polygon></object>"
    root = write(tmp_path, {"a": annotation(outline)}, {"val": ["a"]})
    with pytest.raises(DataError, match="expected <bndbox> in <object>, got a <polygon> alone") as error:
        voc_from_path(root, Choice("val"))
    assert "COCO" in error.value.hint


def test_subfolders_of_annotations_are_the_splits(tmp_path):
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        for folder, name in (("annotations", f"{stem}.xml"), ("images", f"{stem}.jpg")):
            (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / split / name).write_text(annotation(thing()))
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / split / f"{stem}.jpg")
    assert ids(data_set(str(tmp_path), split="train")) == ["a.jpg", "b.jpg"]
    assert ids(data_set(str(tmp_path), split="val")) == ["c.jpg"]


def test_lists_come_before_subfolders_of_annotations(tmp_path):
    root = write(tmp_path, {}, {"train": ["test/a"], "val": ["train/b"]})
    for key in ("test/a", "train/b"):
        for folder, name in (("Annotations", f"{key}.xml"), ("JPEGImages", f"{key}.jpg")):
            (root / folder / name).parent.mkdir(exist_ok=True)
            (root / folder / name).write_text(annotation(thing()))
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{key}.jpg")
    assert ids(voc_from_path(root, Choice("train"))) == ["a.jpg"]
    assert ids(voc_from_path(root, Choice("val"))) == ["b.jpg"]


def test_images_of_dior_lie_in_a_folder_of_each_part(tmp_path):
    root = write(tmp_path, {stem: annotation(thing()) for stem in "ab"}, {"train": ["a"], "test": ["b"]})
    for stem, folder in (("a", "JPEGImages-trainval"), ("b", "JPEGImages-test")):
        (root / folder).mkdir()
        (root / "JPEGImages" / f"{stem}.jpg").rename(root / folder / f"{stem}.jpg")
    (root / "JPEGImages").rmdir()
    for split, stem in (("train", "a"), ("test", "b")):
        found = voc_from_path(root, Choice(split))
        assert ids(found) == [f"{stem}.jpg"] and found[0].input.shape == (30, 40, 3)
        assert found[0].target.corners.tolist() == [[0, 1, 10, 20]]


def test_two_files_for_one_listed_image_are_refused(tmp_path):
    root = write(tmp_path, {"a": annotation(thing())}, {"train": ["a"]})
    for folder in ("Horizontal", "Oriented"):
        (root / "Annotations" / folder).mkdir()
        (root / "Annotations" / folder / "a.xml").write_text(annotation(thing()))
    (root / "Annotations" / "a.xml").unlink()
    with pytest.raises(DataError, match="expected one file called a in Annotations, got Horizontal/a, Oriented/a"):
        voc_from_path(root, Choice("train"))


def test_one_listed_image_with_two_files_is_left_out_and_counted(tmp_path):
    root = write(tmp_path, {name: annotation(thing()) for name in "abc"}, {"train": ["a", "b", "c"]})
    for folder in ("new", "old"):
        (root / "Annotations" / folder).mkdir()
        (root / "Annotations" / folder / "a.xml").write_text(annotation(thing()))
    (root / "Annotations" / "a.xml").unlink()
    found = voc_from_path(root, Choice("train"))
    assert ids(found) == ["b.jpg", "c.jpg"]
    assert any("several annotation files" in note and "new/a, old/a" in note for note in found.notes)
