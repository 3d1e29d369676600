"""Lines of text files as editors, spreadsheets and shells write them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from edgekit.data.formats.text_lines import raw_lines, text_line_at, text_lines, utf8_bytes
from edgekit.errors import DataError

TEXTS = ["red", "", "", "blue Ċ 語 🙂 ਊ", "end"]
"""Blank lines, and characters whose UTF-16 has the byte of a line feed."""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_lines_of_any_encoding_and_end_are_those_of_python(tmp_path: Path, encoding: str, end: str) -> None:
    file = tmp_path / "a.txt"
    marks = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
    file.write_bytes(marks.get(encoding, b"") + end.join(TEXTS).encode(encoding))

    lines = list(raw_lines(file))

    with file.open(encoding="utf-16" if encoding in marks else encoding) as expected:
        assert [line.text for line in lines] == expected.read().split("\n") == TEXTS
    assert [text_line_at(file, line.number, line.offset) for line in lines] == TEXTS
    assert [line.number for line in text_lines(file)] == [1, 4, 5]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_across_blocks_are_whole(tmp_path: Path, encoding: str, end: str) -> None:
    file, texts = tmp_path / "a.txt", ["x" * (i % 7) + str(i) for i in range(5000)]
    file.write_bytes((end.join(texts) + end).encode(encoding))

    assert [line.text for line in raw_lines(file)] == texts


def test_a_line_that_is_too_long_is_an_error_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"a\nb\n" + b"x" * (2 << 20))

    with pytest.raises(DataError, match=r"line 3: expected at most 1,048,576 bytes"):
        list(raw_lines(file))


@pytest.mark.parametrize("content", [codecs.BOM_UTF16_LE + b"\0\xd8a\0", b"a\xff"])
def test_other_bytes_are_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)

    with pytest.raises(DataError, match="line 1: expected UTF-"):
        list(raw_lines(tmp_path / "a.txt"))


def test_a_whole_file_is_returned_as_utf_8() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert utf8_bytes('{"a": "é"}'.encode(encoding)) == '{"a": "é"}'.encode()
