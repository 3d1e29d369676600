from __future__ import annotations

import json
import os
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.text import (
    html_text,
    is_one_line,
    json_bytes,
    json_value,
    one_line,
    shell_quoted,
    shell_words,
    visible,
)

RED = "\x1b[31mred\x1b[0m"
# A file name that is Latin-1, as Python represents it.
LATIN = os.fsdecode(b"caf\xe9.onnx")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RED, r"\x1b[31mred\x1b[0m"),
        ("title\x07\x9b31m", r"title\x07\u009b31m"),
        ("over\rwritten\x08", r"over\x0dwritten\x08"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        (LATIN, r"caf\udce9.onnx"),
        ("two\nlines\tand [b]é字🙂[/b]", "two\nlines\tand [b]é字🙂[/b]"),
    ],
)
def test_what_controls_a_terminal_is_written_as_escapes(text: str, expected: str) -> None:
    assert visible(text) == expected


@given(st.text())
def test_names_are_shown_on_one_line(text: str) -> None:
    shown = one_line(text)
    assert is_one_line(shown) and one_line(shown) == shown
    assert (shown == text) is is_one_line(text)


@given(st.text())
def test_visible_text_cannot_control_and_can_be_encoded(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert all(character.isprintable() or ord(character) > 0x9F or character in "\n\t" for character in shown)
    assert visible(shown) == shown


ENCODABLE = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(ENCODABLE, ENCODABLE))
def test_visible_json_means_the_same(value: dict[str, str]) -> None:
    assert json.loads(visible(msgspec.json.encode(value).decode())) == value


@given(st.lists(st.binary(min_size=1).filter(lambda word: b"\0" not in word), min_size=1))
def test_a_shell_splits_a_command_into_its_words_whatever_their_bytes(words: list[bytes]) -> None:
    command = shell_words(map(os.fsdecode, words))
    printed = subprocess.run(
        ["bash", "-c", f'printf "%s\\0" {command}'], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert printed.stdout.split(b"\0")[:-1] == words
    assert visible(command) == command and "\n" not in command


def test_plain_words_stay_readable() -> None:
    assert shell_words(["edgekit", "build", "a b", "é.onnx"]) == "edgekit build 'a b' 'é.onnx'"
    assert shell_quoted(LATIN) == r"$'caf\xe9.onnx'"


def test_json_of_names_that_are_not_utf8_has_escapes() -> None:
    value = {LATIN: [LATIN, 1, None]}
    assert json.loads(json_bytes(value)) == {r"caf\udce9.onnx": [r"caf\udce9.onnx", 1, None]}
    assert json_bytes({"a": "é"}, indent=1).decode() == '{\n "a": "é"\n}'


@pytest.mark.parametrize(
    ("content", "words"), [(b"[" * 100_000, "too deep"), (b'"\xff"', "UTF-8|utf-8"), (b"{", "truncated")]
)
def test_json_of_anybody_is_a_value_or_one_kind_of_error(content: bytes, words: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=words):
        json_value(content)
    with pytest.raises(msgspec.DecodeError, match="Expected `int`"):
        json_value(b'"a"', type=int)
    assert json_value(b"[1]", type=list[int]) == [1]


def test_pages_have_neither_markup_nor_control_characters() -> None:
    assert html_text(f"<script>'{RED}'</script>") == (r"&lt;script&gt;&#x27;\x1b[31mred\x1b[0m&#x27;&lt;/script&gt;")
