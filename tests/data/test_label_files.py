import json
from pathlib import Path

import pytest

from edgekit.data.label_files import labels_from_file
from edgekit.errors import DataError

CATEGORIES = [
    {"id": 5, "name": "dog", "supercategory": "pets"},
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 2, "name": "cat", "supercategory": "pets"},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("obj.names", "\ufeffcat\r\ndog\r\n\r\n"),
        ("classes.txt", "cat\n dog \n"),
        ("data.yaml", "train: x\nnc: 2\nnames: [cat, dog]\n"),
        ("data.yml", "names:\n  1: dog\n  0: cat\n"),
        ("val.json", json.dumps({"images": [], "annotations": [], "categories": CATEGORIES})),
        ("names.json", json.dumps(["cat", "dog"])),
        ("id2label.json", json.dumps({"1": "dog", "0": "cat"})),
        ("config.json", json.dumps({"hidden_size": 8, "id2label": {"1": "dog", "0": "cat"}, "label2id": {"cat": 0}})),
        ("labelmap.txt", "0  cat\n1  dog\n"),
        ("colons.txt", "0: cat\n1: dog\n"),
    ],
)
def test_names_are_read_in_the_order_of_the_classes(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert labels_from_file(tmp_path / name) == ("cat", "dog")


def test_names_of_darknets_data_file_are_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text("classes = 2\nnames = data/obj.names\n")
    assert labels_from_file(tmp_path / "obj.data") == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.names", "\n", "expected class names, got none"),
        ("a.json", "{}", "expected class names, got none"),
        ("a.json", "[]", "expected class names, got none"),
        ("a.json", "7", "expected COCO's JSON, or a JSON list of names"),
        ("a.json", '{"x": "cat"}', "or names by number, got other fields"),
        ("a.json", '{"1": "cat"}', "a name for each number from 0 to 0"),
        ("a.yaml", "nc: 2\n", "expected class names, got none"),
    ],
)
def test_a_file_without_names_is_an_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        labels_from_file(tmp_path / name)


def test_a_missing_file_and_another_encoding_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none.txt: expected a text file"):
        labels_from_file(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_text("k\xe4se\n", encoding="latin-1")
    with pytest.raises(DataError, match="expected UTF-8 text") as error:
        labels_from_file(tmp_path / "a.txt")
    assert "UTF-8" in error.value.hint


@pytest.mark.parametrize("name", ["a.names", "a.json"])
def test_labels_in_utf_16_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('["cat", "\u8d64"]' if name.endswith("json") else "cat\n\u8d64\n", encoding="utf-16")
    assert labels_from_file(tmp_path / name) == ("cat", "\u8d64")


@pytest.mark.parametrize(
    "names", [("1 cent", "2 cents"), ("0 dots", "1 dots"), ("0 cat", "dog"), ("0 cat",), ("1", "2"), ("7up", "8ball")]
)
def test_numbers_that_do_not_count_the_lines_belong_to_the_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(names))
    assert labels_from_file(tmp_path / "a.txt") == names


def test_json_without_names_says_how_to_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"cat": 0, "dog": 1}')
    with pytest.raises(DataError, match="expected COCO's JSON, or names by number") as error:
        labels_from_file(tmp_path / "a.json")
    assert 'such as ["cat", "dog"]' in error.value.hint
