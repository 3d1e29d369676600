"""CSV as spreadsheets write it, against Python's module `csv`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.examples import data_set, split_used
from edgekit.data.formats.csv_records import class_name, number_from_text, records, separator_of
from edgekit.errors import DataError

cells = st.text(st.sampled_from("ab ,;\n\"'0.é"), max_size=6)


def write(file: Path, content: str) -> Path:
    file.write_text(content, encoding="utf-8", newline="")
    return file


@given(st.lists(st.lists(cells, min_size=2, max_size=3), max_size=6), st.sampled_from(",;\t"))
def test_records_are_those_of_the_csv_module_and_are_found_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], separator: str
) -> None:
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows(rows)
    with file.open(newline="", encoding="utf-8") as stream:
        theirs = [[field.strip() for field in row] for row in csv.reader(stream, delimiter=separator)]
    got = list(records(file, separator))
    assert [record.fields for record in got] == [row for row in theirs if any(row)]
    for record in got:
        assert next(records(file, separator, line=record.line, offset=record.offset)) == record


def test_a_quoted_field_may_have_newlines_and_rows_keep_their_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", 'x,"the\nname"\n1,"a\n\nb"\r\n2,c\n')
    table = data_set(str(file), split="train")
    assert table.labels == ("a\n\nb", "c") and [table[i].target for i in range(2)] == [0, 1]
    assert [table[i].id for i in range(2)] == [f"{file}, line 3", f"{file}, line 6"]


@pytest.mark.parametrize(
    "content",
    [
        "1,5;-2,25;3\n0,5;1e3;4,0\n",
        "a;b;c\n1,5;-2,25;3\n0,5;1000;4,0\n",
        "1,5\t-2,25\t3\n0,5\t1000\t4\n",
        '"1,5","-2,25",3\n"0,5",1000,4\n',
        "sep=;\r\n1,5;-2,25;3\r\n0,5;1000;4\r\n",
        "1.5,-2.25,3\n.5,1000,4.0\n",
    ],
)
def test_decimal_commas_are_numbers(tmp_path: Path, content: str) -> None:
    table = data_set(str(write(tmp_path / "train.csv", content)), split="train")
    rows = [(*table[i].input.tolist(), float(table[i].target[0])) for i in range(len(table))]
    assert rows == [(1.5, -2.25, 3.0), (0.5, 1000.0, 4.0)]


def test_thousands_where_commas_separate_are_refused_not_read_as_fractions(tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", '"1,234",2\n"5,5",3\n')
    with pytest.raises(DataError, match="line 1, column 1: expected a number .* got '1,234'") as error:
        data_set(str(file), split="train")
    assert "thousands" in error.value.hint


@pytest.mark.parametrize(
    ("first", "separator"),
    [("a,b\n1,2\n", ","), ("1,5;2,5\n", ";"), ("a b\t1\nc,d\t2\n", "\t"), ('"x;y",1\n"z;",2\n', ","), ("", "\t")],
)
def test_the_separator_gives_equal_numeric_columns(tmp_path: Path, first: str, separator: str) -> None:
    assert separator_of(write(tmp_path / "a.csv", first)) == separator


def test_1_and_1_0_are_one_class_in_all_files(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "x,y\n1,0\n2,1\n3,10\n")
    write(tmp_path / "val.csv", "x,y\n1,0.0\n2,1.0\n3,10.00\n4,2,0\n".replace("2,0\n", "2.0\n"))
    train, val = (data_set(f"csv:{tmp_path}", split=split, task="classify") for split in ("train", "val"))
    assert train.labels == val.labels == ("0", "1", "2", "10") and split_used(val, "") == "val"
    assert [train[i].target for i in range(3)] == [val[i].target for i in range(3)] == [0, 1, 3]


@pytest.mark.parametrize(
    ("text", "name"), [("1.0", "1"), ("-3,00", "-3"), ("1.5", "1.5"), ("01", "01"), ("v1.0", "v1.0")]
)
def test_only_whole_floats_are_renamed(text: str, name: str) -> None:
    assert class_name(text) == name


@pytest.mark.parametrize(
    ("text", "number"), [("1,5", 1.5), ("-,5", -0.5), ("1,5e3", 1500), ("1,2,3", None), ("1_0", None)]
)
def test_numbers_have_a_point_or_a_comma(text: str, number: float | None) -> None:
    assert number_from_text(text) == number


# The Boston housing table of UCI: columns that are aligned by spaces, and a space before the first.
HOUSING = [" 0.00632  18.00   2.310  0  0.5380", " 0.02731   0.00   7.070  1  0.4690", "11.02985\t0.0   7.070  0  0.4"]


def test_white_space_separates_columns_where_nothing_else_does(tmp_path: Path) -> None:
    file = write(tmp_path / "housing.data", "\n".join(HOUSING * 10) + "\n")
    assert separator_of(file) == " "
    got = list(records(file, " "))
    assert [record.fields for record in got] == [line.split() for line in HOUSING * 10]
    assert next(records(file, " ", line=got[7].line, offset=got[7].offset)) == got[7]
    examples = data_set(str(file), split="train")
    expected = {tuple(np.array(line.split()[:-1], np.float32).tolist()) for line in HOUSING}
    assert examples.task == "regress" and {tuple(each.input.tolist()) for each in examples} == expected


def test_a_header_and_quoted_names_are_separated_by_white_space_too(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "width  height kind\n" + "1 2.5  'a'\n3   4 \"b c\"\n" * 20)
    examples = data_set(str(file), split="train", task="classify")
    assert examples.labels == ("'a'", "b c")


@pytest.mark.parametrize("content", ["1 2 3\t4 5 6\n", "1 2;3 4\n", "1,5 2;3 4\n"])
def test_spaces_within_columns_separate_none(tmp_path: Path, content: str) -> None:
    assert separator_of(write(tmp_path / "a.csv", content * 9)) != " "


def test_a_label_file_of_yolo_is_no_table(tmp_path: Path) -> None:
    content = "0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.25 0.75\n"
    with pytest.raises(DataError, match="a file in an unknown format"):
        data_set(str(write(tmp_path / "a.txt", content)))
    assert data_set(str(write(tmp_path / "a.dat", content * 20)), split="train").task == "regress"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("NA,1,x", "column 'a': expected a number", "fill in missing numbers"),
        (",1,x", "column 'a': expected a number", "fill in missing numbers"),
        ("2024-01-01,1,x", "column 'a': expected a number", "write features as numbers, without units"),
        ("5%,1,x", "column 'a': expected a number", "write features as numbers, without units"),
        ("1,2,3,x", "expected 3 columns, as in the first line, got 4", "put fields with separators in quotes"),
        ('"1,234",2,x', "column 'a': expected a number", "write it without separators of thousands"),
    ],
)
def test_a_row_that_is_not_read_says_how_to_write_it(tmp_path: Path, line: str, message: str, hint: str) -> None:
    file = write(tmp_path / "a.csv", "a,b,label\n" + "1.5,2,x\n" * 10 + f"{line}\n")
    with pytest.raises(DataError) as error:
        data_set(str(file), split="train", task="classify")
    assert message in error.value.message and hint in error.value.hint


def test_columns_that_nothing_separates_say_what_does(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least two columns") as error:
        data_set(str(write(tmp_path / "a.csv", "a|b|label\n1|2|x\n")), split="train")
    assert error.value.hint == "separate columns with commas, semicolons, tabs or spaces"


def test_a_target_that_is_no_number_is_named_as_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "a,b,y\n" + "1.5,2,x\n" * 10)
    with pytest.raises(DataError, match="column 'y': expected a number") as error:
        data_set(str(file), split="train", task="regress")
    assert error.value.hint == "the target of a regression is a number; column=NAME chooses another column"


@pytest.mark.parametrize(("number", "noted"), [("1.234", True), ("1,5", False)])
def test_decimal_points_beside_decimal_commas_are_noted(tmp_path: Path, number: str, noted: bool) -> None:
    file = write(tmp_path / "a.csv", "a;b;y\n" + "0,5;2;1\n" * 10 + f"{number};2;1\n")
    notes = data_set(str(file), split="train").notes
    assert any("a point is no separator of thousands" in note for note in notes) is noted
