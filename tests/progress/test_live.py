"""What functions that are called from Python show: bars on a terminal and in a notebook, and notes as warnings."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from edgekit.errors import EdgeKitWarning, UsageError
from edgekit.progress import Advance, Silent, Warnings, shown_progress
from edgekit.progress import live as module


class Screen:
    """Replaces the console on standard error by one of a chosen kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **kind: Any) -> None:
        self.text = io.StringIO()
        jupyter = kind.pop("jupyter", False)

        def console(**given: Any) -> Console:
            assert given == {"stderr": True}
            made = Console(file=self.text, width=100, color_system=None, **kind)
            made.is_jupyter = jupyter
            return made

        monkeypatch.setattr(module, "Console", console)


def run(progress: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with shown_progress(progress) as shown:
            with shown.stage("Calibrate", total=2, unit="images") as advance:
                advance(2)
            shown.note("the weights are random")
    return caught


@pytest.mark.parametrize("progress", [True, None])
def test_a_terminal_shows_stages_and_notes_are_warnings(progress: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, force_terminal=True)
    (caught,) = run(progress)
    assert caught.category is EdgeKitWarning
    assert str(caught.message) == "the weights are random"
    assert re.search(r"✓ +0\.\d s  Calibrate   2 images", screen.text.getvalue())
    assert "random" not in screen.text.getvalue()


@pytest.mark.parametrize("kind", [{"force_terminal": False}, {"force_terminal": True, "dumb": True}])
def test_a_file_and_a_dumb_terminal_show_nothing(kind: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    if kind.pop("dumb", False):
        monkeypatch.setenv("TERM", "dumb")
    screen = Screen(monkeypatch, **kind)
    assert len(run(True)) == 1
    assert screen.text.getvalue() == ""


def test_false_is_silent_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, force_terminal=True)
    assert len(run(False)) == 1
    assert screen.text.getvalue() == ""


def test_a_notebook_without_ipywidgets_shows_finished_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: shown.append(text))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    Screen(monkeypatch, jupyter=True, force_jupyter=True)
    # Without the package, rich would warn that it cannot draw a live display.
    (caught,) = run(True)
    assert str(caught.message) == "the weights are random"
    assert any(re.search(r"✓ +0\.\d s  Calibrate", text) for text in shown)


def test_an_object_of_the_caller_receives_stages_and_notes() -> None:
    class Own(Silent):
        def __init__(self) -> None:
            self.heard: list[str] = []

        @contextmanager
        def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Advance]:
            self.heard.append(title)
            yield lambda amount: self.heard.append(f"{amount:g} {unit}")

        def note(self, text: str) -> None:
            self.heard.append(text)

    own = Own()
    assert run(own) == []
    assert own.heard == ["Calibrate", "2 images", "the weights are random"]


@pytest.mark.parametrize("progress", ["yes", 1, 0, print])
def test_another_value_is_a_usage_error(progress: Any) -> None:
    with pytest.raises(UsageError, match="progress: expected True, False or an object"), shown_progress(progress):
        pass


def test_notes_of_functions_without_bars_are_warnings_at_the_callers_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Warnings().note("short")
    assert [(str(each.message), each.filename) for each in caught] == [("short", __file__)]


def test_times_stand_below_each_other_however_long_titles_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, force_terminal=True)
    titles = ["reading weights", "looking for layers that make most of the noise", "reading " + 5 * "a_long_name_"]
    with shown_progress(True) as shown:
        for title in titles:
            with shown.stage(title):
                pass
    lines = [line for line in re.split(r"[\r\n]", screen.text.getvalue()) if "✓" in line]
    assert len(lines) == len(titles)
    assert {re.search(r" s(?= |$)", line[line.index("✓") :]).start() for line in lines} == {8}
