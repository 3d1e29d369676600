from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.measure.reports import LatencyReport, json_from_report


@pytest.fixture
def reports(make_report: Callable[..., LatencyReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name, base_ms in (("before", 50.0), ("after", 20.0), ("same", 50.0)):
        Path(f"{name}.json").write_bytes(json_from_report(make_report(base_ms=base_ms)))
    return ["before.json", "after.json"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [2, 5])
def test_a_comparison_fits_the_terminal(
    reports: list[str], width: int, count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["compare", *(reports * 3)[:count]]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    assert "2.50 x as fast as before" in " ".join(out.split())


def test_markdown_has_the_sentence_and_a_table(reports: list[str]) -> None:
    assert main(["compare", *reports, "--markdown", "comment.md", "--fail-if", "p50>1.05x"]) == 0
    text = Path("comment.md").read_text()
    assert text.startswith("**after is 2.50 x as fast as before (95 %:")
    assert "|  | before | after |\n| --- | ---: | ---: |\n" in text
    assert "| p50 |" in text and "p50>1.05x: passed for after" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["before.json", "after.json", "--fail-if", "p50>1.05x"], 0, ""),
        (["after.json", "before.json", "--fail-if", "p50>1.05x"], 5, "before: p50>1.05x failed, got 2.50 x"),
        (["before.json", "same.json", "--fail-if", "p50>1x"], 6, "same: p50>1x undecided"),
        (["before.json", "after.json", "--fail-if", "p99>1.05x"], 6, "after: p99>1.05x undecided"),
        (["after.json", "before.json", "--fail-if", "p99>2x", "--fail-if", "p50>2x"], 5, "p50>2x failed"),
        (["before.json", "after.json", "--fail-if", "size>1x"], 0, ""),
    ],
)
def test_the_exit_code_says_whether_a_limit_is_broken_for_certain(
    reports: list[str], arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    limits = json.loads(captured.out)["limits"]
    expected = {0: "passed", 5: "failed", 6: "undecided"}[code]
    assert expected in {limit["result"] for limit in limits}


def test_engines_are_measured_in_turns(make_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(make_bundle("a")), str(make_bundle("b")), "--rounds", "1", "--seconds", "0.01"]
    assert main(["compare", *words]) == 0
    captured = capsys.readouterr()
    assert "over 1 round in random order, each turn in a new process" in " ".join(captured.out.split())
    assert "measuring by turns ..." in captured.err


def test_the_page_has_the_sentence_and_every_engine(reports: list[str], tmp_path: Path) -> None:
    page = tmp_path / "a" / "page.html"
    assert main(["compare", "before.json", "after.json", "same.json", "--html", str(page)]) == 0
    text = page.read_text()
    assert "after is 2.50 x as fast as before" in text
    assert all(f"{name}, 200 runs" in text for name in ("before", "after", "same"))


@pytest.mark.parametrize("wrong", [["--fail-if", "p50>1.05"], ["--rounds", "0"], ["--seconds", "0"]])
def test_error_on_wrong_options(reports: list[str], wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *reports, *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ")
