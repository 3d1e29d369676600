from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import RecipeError
from edgekit.models.cfg.text import Section, read_cfg

CFGS = sorted(Path(__file__).parent.glob("*.cfg"))


def sections(tmp_path: Path, text: str | bytes) -> list[Section]:
    path = tmp_path / "net.cfg"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_cfg(path)


def error(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(RecipeError) as caught:
        sections(tmp_path, text)
    return str(caught.value)


def test_white_space_and_comments_are_ignored(tmp_path: Path) -> None:
    text = "\ufeff# a comment\r\n; another\n\n[ net ]\t\r\n wi dth = 4 1 6 # px\n\n[conv]\nfilters=8;eight\n  size =\t3"
    net, convolution = sections(tmp_path, text)
    assert (net.name, net.line, net.integer("width", 0)) == ("net", 4, 416)
    assert (convolution.name, convolution.line) == ("convolutional", 7)
    assert (convolution.integer("filters", 1), convolution.integer("size", 1)) == (8, 3)
    assert convolution.options["size"].line == 9


def test_missing_options_have_their_default(tmp_path: Path) -> None:
    (net,) = sections(tmp_path, "[net]")
    assert (net.integer("stride", 7), net.text("activation", "logistic"), net.integers("mask")) == (7, "logistic", [])


def test_lists_are_comma_separated_with_an_optional_trailing_comma(tmp_path: Path) -> None:
    (net,) = sections(tmp_path, "[net]\nanchors = 10,13,  16.5,.3,\nlayers=-1, 36")
    assert net.numbers("anchors") == [10, 13, 16.5, 0.3]
    assert net.integers("layers") == [-1, 36]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "net.cfg: expected sections such as [net], got none"),
        ("width=3\n[net]", "net.cfg, line 1: expected a section such as [net] first, got 'width=3'"),
        ("\n[maxpool]\nsize=2", "net.cfg, line 2: [maxpool]: expected [net] as the first section"),
        ("[net]\nwidth", "net.cfg, line 2: expected key=value, got 'width'"),
        ("[net]\nwidth=", "net.cfg, line 2: expected key=value, got 'width='"),
        ("[net]\n=3", "net.cfg, line 2: expected key=value, got '=3'"),
        ("[net", "net.cfg, line 1: expected a section such as [net], got '[net'"),
        ("[net]\n[]", "net.cfg, line 2: expected a section such as [net], got '[]'"),
        (b"[net]\nwidth=\xff", "net.cfg: expected a text file in UTF-8, got another encoding"),
    ],
)
def test_error_on_invalid_text_names_the_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in error(tmp_path, text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3.5", "line 2: [net] size: expected an integer, got '3.5'"),
        ("three", "line 2: [net] size: expected an integer, got 'three'"),
        ("٣", "line 2: [net] size: expected an integer, got '٣'"),
        ("9" * 5000, "line 2: [net] size: expected an integer, got '9999"),
        ("4294967296", "line 2: [net] size: expected a number from 1 to 2147483647, got 4294967296"),
        ("0", "line 2: [net] size: expected a number from 1 to 2147483647, got 0"),
    ],
)
def test_error_on_an_invalid_number(tmp_path: Path, value: str, expected: str) -> None:
    (net,) = sections(tmp_path, f"[net]\nsize={value}")
    with pytest.raises(RecipeError) as caught:
        net.integer("size", 1, minimum=1)
    assert expected in str(caught.value)


@pytest.mark.parametrize("value", ["inf", "nan", "1,,2", "one"])
def test_error_on_an_invalid_number_in_a_list(tmp_path: Path, value: str) -> None:
    (net,) = sections(tmp_path, f"[net]\nanchors={value}")
    with pytest.raises(RecipeError, match=r"line 2: \[net\] anchors: expected a number, got '"):
        net.numbers("anchors")


def test_error_on_an_option_that_is_given_twice_names_both_lines(tmp_path: Path) -> None:
    (net,) = sections(tmp_path, "[net]\nbatch=1\nwidth=32\nwidth=64\nbatch=1")
    assert net.integer("batch", 0) == 1
    with pytest.raises(RecipeError, match="line 3: .net. width: expected one value, got '32' and, in line 4, '64'"):
        net.integer("width", 0)


def test_error_on_a_missing_file_and_on_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent.cfg: expected a Darknet cfg file, got: No such file"):
        read_cfg(tmp_path / "absent.cfg")
    with pytest.raises(RecipeError, match="expected a Darknet cfg file, got: Is a directory"):
        read_cfg(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="[]=,#; \n\tnetconv019.-", max_size=120).map(str.encode)))
def test_any_bytes_only_raise_recipe_error(tmp_path: Path, content: bytes) -> None:
    try:
        found = sections(tmp_path, content)
    except RecipeError as e:
        assert "net.cfg" in str(e)
    else:
        assert found[0].name == "net"
