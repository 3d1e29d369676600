import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.examples import Choice, data_set
from edgekit.data.formats.parallel_text import text_from_path
from edgekit.data.vocabulary import SPECIAL_TOKENS
from edgekit.errors import DataError

PAIRS = [("good day", "guten Tag"), ("yes", "ja"), ("street", "Straße")]


def tabbed(path, pairs=PAIRS):
    path.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return path


def pair(folder, stem, sources, targets):
    (folder / f"{stem}.src").write_text(sources, encoding="utf-8")
    (folder / f"{stem}.tgt").write_text(targets, encoding="utf-8")
    return folder / f"{stem}.src"


def texts(found):
    return [(found[i].input, found[i].target) for i in range(len(found))]


def test_pairs_come_back(tmp_path):
    found = text_from_path(tabbed(tmp_path / "train.tsv"), Choice("train"))
    assert texts(found) == PAIRS and found.task == "translate"
    assert found[1].id.endswith("train.tsv, line 2")


def test_two_files_belong_together_by_either_name(tmp_path):
    pair(tmp_path, "train.de", "good day\n\nyes\n", "guten Tag\n\nja\n")
    for suffix in (".src", ".tgt"):
        assert texts(data_set(str(tmp_path / f"train.de{suffix}"), split="train")) == PAIRS[:2]


def test_the_vocabulary_is_all_characters_behind_the_special_tokens(tmp_path):
    found = text_from_path(tabbed(tmp_path / "train.tsv", [("ab", "ß"), ("b c", "a")]), Choice("train"))
    assert found.labels == (*SPECIAL_TOKENS, " ", "a", "b", "c", "ß")


def test_files_of_a_folder_are_the_splits(tmp_path):
    tabbed(tmp_path / "train.tsv")
    tabbed(tmp_path / "valid.tsv", PAIRS[:1])
    for source in (tmp_path, tmp_path / "train.tsv"):
        assert len(data_set(str(source), split="train")) == 3
        assert len(data_set(str(source), split="test")) == 1
    pair(tmp_path, "x", "a\n", "b\n")
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError, match="expected one called train or training"):
        data_set(str(tmp_path), split="train")


def test_of_one_file_a_fifth_is_the_test_and_a_source_stays_with_all_its_translations(tmp_path):
    file = tabbed(tmp_path / "a.tsv", [(f"{i}", f"{i} {k}") for k in range(2) for i in range(300)])
    train, test = (texts(text_from_path(file, Choice(split))) for split in ("train", "test"))
    assert len(train) + len(test) == 600 and 80 < len(test) < 160
    assert not {source for source, _ in train} & {source for source, _ in test}
    labels = {text_from_path(file, Choice(split)).labels for split in ("train", "test")}
    assert len(labels) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected at least one pair for the train split, got none"),
        ("a\tb\nc\n", "line 2: expected a text, a tab and its translation, got 0 tabs"),
        ("a\tb\nc\td\te\n", "line 2: expected a text, a tab and its translation, got 2 tabs"),
        ("a\t \n", "line 1: expected a text on both sides of the tab, got none on the right"),
        ("\n\tb\n", "line 2: expected a text on both sides of the tab, got none on the left"),
        ("<html>\t", "got a web page"),
    ],
)
def test_a_line_that_is_no_pair_is_an_error(tmp_path, content, message):
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(DataError, match=f"train.tsv.*{message}"):
        data_set(f"text:{tmp_path / 'train.tsv'}", split="train")


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ("a\nb\n", "c\n", "train.tgt, line 2: expected a text, as in the other file, got none"),
        ("a\n", "c\nd\n", "train.src, line 2: expected a text"),
        ("a\n\nb\n", "c\nd\n\n", "train.src, line 2: expected a text"),
        ("a\nb\n", "c\n\xff\n", "train.tgt, line 2: expected UTF-8 text, got the byte 0xff at 1"),
    ],
)
def test_two_files_that_do_not_fit_are_an_error(tmp_path, sources, targets, message):
    file = pair(tmp_path, "train", sources, "")
    file.with_suffix(".tgt").write_bytes(targets.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        text_from_path(file, Choice("train"))


def test_a_file_whose_partner_is_missing_is_an_error(tmp_path):
    pair(tmp_path, "train", "a\n", "b\n").with_suffix(".tgt").unlink()
    with pytest.raises(DataError, match="expected train.tgt next to it, got no such file"):
        data_set(str(tmp_path / "train.src"), split="train")


@given(
    st.lists(st.sampled_from(["a", "\t", "\n", "\r", " ", "\0", "\u2028", "é"])).map("".join).map(str.encode)
    | st.binary()
)
def test_any_bytes_are_texts_or_a_data_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("text")
    for name in ("train.tsv", "train.src"):
        (folder / name).write_bytes(content)
    (folder / "train.tgt").write_bytes(b"a\nb\n")
    for name in ("train.tsv", "train.src"):
        try:
            found = data_set(f"text:{folder / name}", split="train")
            assert all(source and target for source, target in texts(found))
        except DataError:
            pass
