from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.formats.text_lines import names_in, text_line_at, text_lines
from edgekit.data.splits import file_of_split, fraction_from_key, part_of, split_from_folder, split_from_name
from edgekit.errors import DataError


@given(st.lists(st.text(max_size=5), unique=True, max_size=40))
def test_a_fifth_is_the_test_whatever_the_order(items):
    train, test = (part_of(items, split, str) for split in ("train", "test"))
    assert [item for item in items if item in train or item in test] == items and not set(train) & set(test)
    if len(items) > 1:
        assert len(test) == max(1, round(len(items) / 5)) and train
    assert set(part_of(items[::-1], "test", str)) == set(test)


def test_a_split_is_the_same_on_every_machine():
    assert part_of("abcdefghij", "test", str) == part_of("abcdefghij", "test", str)
    # Numbers of SHA-256, written down: FIPS 180-2 has the first 56 bits of "abc" as ba7816bf8f01cf.
    assert fraction_from_key("abc") == 0xBA7816BF8F01CF / 2**56


def test_fractions_of_keys_are_spread_evenly():
    fractions = [fraction_from_key(f"{i}") for i in range(5000)]
    for tenth in range(10):
        assert 430 < sum(tenth / 10 <= fraction < (tenth + 1) / 10 for fraction in fractions) < 570


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017.json", "val"),
        ("train2017", "train"),
        ("t10k-images-idx3-ubyte", "test"),
        ("X_test.csv", "test"),
        ("Validation", "val"),
        ("DEV.tsv", "val"),
        ("latest.csv", None),
        ("trained.csv", None),
        ("attestation.json", None),
        ("a.csv", None),
    ],
)
def test_the_split_is_read_from_the_name(name, split):
    assert split_from_name(name) == split


def test_a_folder_is_a_split_only_by_its_whole_name():
    assert split_from_folder(Path("a/Valid")) == "val"
    assert split_from_folder(Path("a/Train2017")) == "train"
    assert split_from_folder(Path("a/train")) == "train"
    assert split_from_folder(Path("test_of_things")) is None


def test_test_means_test_val_is_used_only_without_one_and_a_note_says_so(tmp_path):
    val, test, train = paths = [tmp_path / f"{name}.csv" for name in ("VAL", "testing", "train")]
    assert file_of_split(tmp_path, paths, "test", "x") == (test, "test", [])
    assert file_of_split(tmp_path, paths, "val", "x") == (val, "val", [])
    assert file_of_split(train, paths, "test", "x") == (test, "test", [])
    assert file_of_split(tmp_path, [val, train], "test", "x") == (
        val,
        "val",
        ["the data set has no test split: its val split is used"],
    )
    path, split, notes = file_of_split(val, paths, "test", "x")
    assert (path, split) == (val, "val") and "VAL.csv is of the val split" in notes[0]
    for wanted, others in (("train", [val]), ("val", [train, test])):
        with pytest.raises(DataError, match=f"x: expected one called {wanted} or"):
            file_of_split(tmp_path, others, wanted, "x")


def test_without_declared_splits_there_is_no_val(tmp_path):
    file = tmp_path / "a.csv"
    assert file_of_split(file, [], "train", "x")[:2] == (file, None)
    assert "no splits: test is a fifth" in file_of_split(file, [], "test", "x").notes[0]
    with pytest.raises(DataError, match="a val split .* got none"):
        file_of_split(file, [], "val", "x")


def test_lines_know_their_number_and_their_place(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\n\n  \ntwo \u2028 more\nthree".encode())
    lines = list(text_lines(file))
    assert [(line.number, line.text) for line in lines] == [(1, "one"), (4, "two \u2028 more"), (5, "three")]
    for line in lines:
        assert text_line_at(file, line.number, line.offset) == line.text


def test_a_file_that_is_a_folder_or_missing_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(DataError, match="expected a text file, got"):
            list(text_lines(path))
        with pytest.raises(DataError, match="expected a text file, got"):
            text_line_at(path, 1, 0)


def test_a_file_of_names_without_names_is_an_error(tmp_path):
    (tmp_path / "n.txt").write_text("\n  \n")
    with pytest.raises(DataError, match="expected class names, one per line, got none"):
        names_in(tmp_path / "n.txt")
