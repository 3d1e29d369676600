import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.csv_table import csv_from_path
from edgekit.errors import DataError, UsageError

random = np.random.default_rng(0)


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def rows(table):
    return np.array([[*table[i].input, *table[i].target] for i in range(len(table))])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["", "a{0}b{0}c\n", '"a"{0} b {0}"c c"\r\n', "\ufeffa{0}b{0}c\n"])
def test_rows_are_those_that_numpy_reads(tmp_path, separator, header):
    numbers = random.normal(size=(30, 3))
    text = "".join(separator.join(map(repr, row)) + "\n" for row in numbers.tolist())
    file = write(tmp_path / "train.csv", header.format(separator) + text)
    table = csv_from_path(file, Choice("train"))
    expected = np.loadtxt(file, delimiter=separator, skiprows=int(bool(header)), encoding="utf-8-sig")
    np.testing.assert_array_equal(rows(table), expected.astype(np.float32))
    assert table.task == "regress" and table.labels == ()
    assert table[0].input.dtype == table[0].target.dtype == np.float32
    assert table[0].target.shape == (1,)


def test_the_target_is_the_column_with_its_header(tmp_path):
    file = write(tmp_path / "train.csv", "price,rooms,area\n100,2,30\n200,3,50\n")
    table = data_set(str(file), split="train", target="price")
    assert table[1].input.tolist() == [3, 50] and table[1].target.tolist() == [200]
    with pytest.raises(UsageError, match="expected a column 'prize', got none") as e:
        data_set(str(file), split="train", target="prize")
    assert "price" in e.value.hint
    (tmp_path / "twice.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(UsageError, match="expected one column 'a', got 2"):
        csv_from_path(tmp_path / "twice.csv", Choice("train", None, "a"))
    with pytest.raises(UsageError, match="expected a column 'x', got no header"):
        data_set(str(write(tmp_path / "train2.csv", "1,2\n3,4\n")), split="train", target="x")


def test_words_are_classes_where_the_task_is_to_classify(tmp_path):
    for header in ("", "a,b,kind\n"):
        file = write(tmp_path / "train.csv", f"{header}1,2,setosa\n3,4,virginica\n5,6,setosa\n")
        table = data_set(str(file), split="train", task="classify")
        assert table.labels == ("setosa", "virginica")
        assert [table[i].target for i in range(3)] == [0, 1, 0]
        assert table[2].input.tolist() == [5, 6]


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    file = write(tmp_path / "train.csv", "1,10\n1,9\n1,2\n")
    assert data_set(str(file), split="train", task="classify").labels == ("2", "9", "10")


def test_files_of_a_folder_are_the_splits(tmp_path):
    write(tmp_path / "train.csv", "1,2\n3,4\n")
    write(tmp_path / "test.csv", "5,6\n")
    for source in (tmp_path, tmp_path / "train.csv", tmp_path / "test.csv"):
        assert len(data_set(str(source), split="train")) == 2
        assert len(data_set(str(source), split="test")) == 1


def test_of_one_file_about_a_fifth_is_the_test_and_equal_rows_stay_together(tmp_path):
    lines = [f"{i},{i}\n" for i in range(500)]
    file = write(tmp_path / "a.csv", "".join(lines * 2))
    train, test = (rows(csv_from_path(file, Choice(split)))[:, 0].tolist() for split in ("train", "test"))
    assert len(train) + len(test) == 1000 and not set(train) & set(test)
    assert 140 < len(test) < 260


def test_a_class_has_the_same_number_in_both_files(tmp_path):
    write(tmp_path / "train.csv", "x,kind\n1,cat\n2,dog\n3,emu\n")
    write(tmp_path / "test.csv", "x,kind\n1,dog\n2,emu\n")
    learn, test = (data_set(str(tmp_path), split=split, task="classify") for split in ("train", "test"))
    assert learn.labels == test.labels == ("cat", "dog", "emu")
    assert [test[i].target for i in range(2)] == [1, 2]


def test_a_file_too_small_for_both_splits_is_an_error_that_says_how_they_are_drawn(tmp_path):
    # Equal rows are all of one split, whichever it is.
    file = write(tmp_path / "a.csv", "1,2\n" * 9)
    with pytest.raises(DataError, match="one row for the (train|test) split, got none") as caught:
        assert len(csv_from_path(file, Choice("train"))) == 9
        csv_from_path(file, Choice("test"))
    assert "write files train and test" in caught.value.hint


def test_rows_are_read_on_use(tmp_path):
    file = write(tmp_path / "train.csv", "1,2\n3,4\n")
    table = csv_from_path(file, Choice("train"))
    write(file, "1,2\n5,6\n")
    assert table[1].input.tolist() == [5]
    write(file, "1,2\n")
    with pytest.raises(DataError, match="train.csv, line 2: expected"):
        table[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected at least two columns"),
        ("1\n2\n", "line 1: expected at least two columns, got '1'"),
        ("a,b\n", "expected at least one row for the train split, got none"),
        ("a,b\n\n1,2\n3\n", "line 4: expected 2 columns, as in the first line, got 1"),
        ("1,2\n3,4,5\n", "line 2: expected 2 columns, as in the first line, got 3"),
        ("1,2\n3,x\n", "line 2, column 2: expected a number that is finite in float32, got 'x'"),
        ("1,2\nx,4\n", "line 2, column 1: expected a number that is finite in float32, got 'x'"),
        ("a,y\n3,4\n3,x\n", "line 3, column 'y': expected a number that is finite in float32, got 'x'"),
        ("1,2\n,4\n", "got ''"),
        ("1,2\nnan,4\n", "got 'nan'"),
        ("1,2\n1e39,4\n", "got '1e39'"),
        ("1,2\n1_0,4\n", "got '1_0'"),
        ('1,2\n"3,4\n', "line 2: expected fields separated by ','"),
        ("<!DOCTYPE html>\n", "got a web page"),
        ("1,2\n" + "3" * (2 << 20) + ",4\n", "line 2: expected at most 1,048,576 bytes in a line"),
    ],
)
def test_an_invalid_row_is_an_error_that_names_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=f"train.csv.*{message}"):
        csv_from_path(write(tmp_path / "train.csv", text), Choice("train"))


def test_a_target_of_words_is_a_class_unless_numbers_are_asked_for(tmp_path):
    file = write(tmp_path / "train.csv", "x,kind\n1,cat\n2,dog\n")
    assert (data_set(str(file), split="train").task, data_set(str(file), split="train").labels) == (
        "classify",
        ("cat", "dog"),
    )
    with pytest.raises(DataError, match="line 2, column 'kind': expected a number"):
        data_set(str(file), split="train", task="regress")


def test_an_empty_class_name_and_too_many_classes_are_errors(tmp_path):
    with pytest.raises(DataError, match="line 2: expected a class in the target column, got an empty field"):
        data_set(str(write(tmp_path / "train.csv", "1,a\n2,\n")), split="train", task="classify")
    text = "".join(f"1,{i}\n" for i in range(10_001))
    with pytest.raises(DataError, match="line 10001: expected at most 10,000 classes"):
        data_set(str(write(tmp_path / "train.csv", text)), split="train", task="classify")


@given(
    st.text(st.sampled_from("01.,;\"'\n\r\t -enaif_\0\ufeff"), max_size=40).map(str.encode) | st.binary(max_size=40),
    st.sampled_from([None, "regress", "classify"]),
)
def test_any_file_is_a_table_or_a_data_error(tmp_path_factory, content, task):
    file = tmp_path_factory.mktemp("csv") / "train.csv"
    file.write_bytes(content)
    try:
        table = data_set(str(file), split="train", task=task)
        for i in range(len(table)):
            assert np.isfinite(table[i].input).all()
    except DataError:
        pass


@pytest.mark.parametrize("header", ["label,a,b", "a,Label,b", "a,b,label"])
def test_a_column_called_label_is_the_target_wherever_it_is(tmp_path, header):
    place = header.lower().split(",").index("label")
    (tmp_path / "mnist_train.csv").write_text(f"{header}\n1,2,3\n4,5,6\n")
    examples = csv_from_path(tmp_path / "mnist_train.csv", Choice("train", "classify"))
    row = [1.0, 2.0, 3.0]
    assert examples.labels == tuple(str(int(value)) for value in (row[place], row[place] + 3))
    assert examples[0].input.tolist() == row[:place] + row[place + 1 :]
    assert any("the target is column" in note for note in examples.notes) == (place != 2)


def test_a_test_file_without_the_target_is_an_error(tmp_path):
    (tmp_path / "train.csv").write_text("Id,a,b,price\n1,2,3,4\n")
    (tmp_path / "test.csv").write_text("Id,a,b\n1,2,3\n")
    with pytest.raises(DataError, match="expected the columns of train.csv, got none called price") as error:
        csv_from_path(tmp_path, Choice("test"))
    assert "table.csv" in error.value.hint
    assert len(csv_from_path(tmp_path, Choice("train"))) == 1


@pytest.mark.parametrize("name", ["", "id", "Unnamed: 0"])
def test_a_note_names_a_feature_that_may_only_number_the_rows(tmp_path, name):
    file = tmp_path / "table.csv"
    file.write_text(f"{name},size,label\n" + "".join(f"{i},{i}.5,{i % 2}\n" for i in range(10)))
    found = data_set(str(file), split="train")
    note = f"{f'column {name!r}' if name else 'column 1'} is read as a feature: remove it if it only numbers the rows"
    assert note in found.notes
    file.write_text("height,size,label\n" + "".join(f"{i},{i}.5,{i % 2}\n" for i in range(10)))
    assert not any("numbers the rows" in note for note in data_set(str(file), split="train").notes)


@pytest.mark.parametrize("header", ["a;b;c;\n", ""])
def test_a_separator_at_the_end_of_the_lines_is_no_column(tmp_path, header):
    numbers = random.normal(size=(30, 3)).round(3)
    body = "".join(";".join(map(repr, row)) + ";\n" for row in numbers.tolist())
    table = data_set(str(write(tmp_path / "train.csv", header + body)), split="train")
    np.testing.assert_array_equal(rows(table), numbers.astype(np.float32))


def test_a_separator_at_the_end_of_single_lines_is_no_column(tmp_path):
    file = write(tmp_path / "train.csv", "a,b,c\n1,2,3\n4,5,6,\n")
    assert rows(data_set(str(file), split="train")).tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(DataError, match="line 3: expected 3 columns, as in the first line, got 4"):
        data_set(str(write(tmp_path / "train.csv", "a,b,c\n1,2,3\n4,5,6,7\n")), split="train")


def test_a_table_without_names_of_columns_says_which_one_is_the_target(tmp_path):
    file = write(tmp_path / "mnist_train.csv", "".join(f"{i % 3},{i},7,0\n" for i in range(6)))
    table = data_set(str(file), split="train", task="classify")
    assert table.labels == ("0",)
    assert table.notes == ["the first line has no names of columns: the target is column 4, the last one"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a.jpg,1,2,3,4,cat\nb.jpg,1,2,3,4,dog\n", "tables that name images are not read"),
        ("cat,1,2,3,4,a.JPG,9,9\ndog,1,2,3,4,b.jpg,9,9\n", "tables that name images are not read"),
        ("a;b\n1.234,5;2\n", "write it without separators of thousands"),
        ('a,b\n"1,234.5",2\n', "write it without separators of thousands"),
        ("a;b\n1 234.5;2\n", "write it without separators of thousands"),
    ],
)
def test_a_field_that_is_no_number_has_a_hint(tmp_path, text, hint):
    with pytest.raises(DataError, match="expected a number") as error:
        data_set(str(write(tmp_path / "t.csv", text)), split="train")
    assert hint in error.value.hint


def test_tables_of_images_without_splits_are_named(tmp_path):
    for name in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        write(tmp_path / name, "image_id,Smiling\n000001.jpg,1\n")
    with pytest.raises(DataError, match="expected a table of numbers, got a table that names images") as error:
        data_set(str(tmp_path), split="train")
    assert "folder for each class" in error.value.hint
