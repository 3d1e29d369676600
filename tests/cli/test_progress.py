from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from edgekit.cli import progress as module
from edgekit.cli.progress import PlainProgress, progress_on_stderr
from edgekit.progress import BYTES
from edgekit.progress.live import TerminalProgress, live_bars


def test_a_log_has_a_line_when_a_stage_starts_and_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().stage("Export the graph"):
        assert capsys.readouterr().err == "Export the graph ...\n"
    assert capsys.readouterr().err.startswith("  done in 0.0 s")


def test_a_log_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().stage("Calibrate", total=3, unit="images") as advance:
        for _ in range(3):
            advance(1)
    assert "3 images" in capsys.readouterr().err


def test_a_log_says_that_a_slow_stage_is_alive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LOG_INTERVAL_S", 0.0)
    with PlainProgress().stage("Calibrate", total=8, unit="images") as advance:
        advance(2)
        assert "  2 of 8 images, 0 s" in capsys.readouterr().err


def test_a_stage_that_fails_is_said_to_have_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), PlainProgress().stage("Compile"):
        raise RuntimeError
    assert "failed after" in capsys.readouterr().err


def terminal() -> tuple[TerminalProgress, Bars, io.StringIO]:
    text = io.StringIO()
    bars = Bars(console=Console(file=text, force_terminal=True, width=80, color_system=None), transient=True)
    return TerminalProgress(bars), bars, text


def test_a_terminal_keeps_a_line_of_every_stage_and_note_in_order() -> None:
    progress, bars, text = terminal()
    with bars:
        with progress.stage("Export the graph"):
            pass
        progress.note("The weights are random.")
        with pytest.raises(RuntimeError), progress.stage("Compile"):
            raise RuntimeError
    out = text.getvalue()
    found = [
        re.search(text, out)
        for text in (r"✓ +0\.\d s  Export the graph", "! The weights are random.", r"✗ +0\.\d s  Compile")
    ]
    starts = [match.start() for match in found if match]
    assert len(starts) == 3 and starts == sorted(starts)


def test_a_command_in_a_note_is_not_broken_into_lines() -> None:
    progress, bars, text = terminal()
    command = "pip install " + " ".join(f"'package-{i}>=1.0'" for i in range(12))
    with bars:
        progress.note(f"it needs {command}")
    assert command in text.getvalue()


def test_a_terminal_has_nothing_live_after_a_stage() -> None:
    progress, bars, _ = terminal()
    with bars:
        with progress.stage("Calibrate", total=4, unit="images") as advance:
            advance(3)
            assert [task.completed for task in bars.tasks] == [3]
        assert bars.tasks == []


def test_stages_may_stand_inside_each_other() -> None:
    progress, bars, text = terminal()
    with bars, progress.stage("Outer"), progress.stage("Inner", total=1, unit="images") as advance:
        advance(1)
    assert text.getvalue().index("s  Inner") < text.getvalue().index("s  Outer")


def test_bytes_are_shown_in_megabytes() -> None:
    progress, bars, text = terminal()
    with bars, progress.stage("Download", total=8e6, unit=BYTES) as advance:
        advance(8e6)
    assert "8.0 MB" in text.getvalue()


@pytest.mark.parametrize(
    ("total", "unit", "shown"),
    [
        (248e6, BYTES, "35 MB of 248 MB"),
        (None, BYTES, "35 MB"),
        (248e6, "images", "3.5e+07 of 2.48e+08 images"),
    ],
)
def test_a_bar_counts_in_the_unit_of_its_stage(total: float | None, unit: str, shown: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    bars = live_bars(console)
    with TerminalProgress(bars).stage("Download", total=total, unit=unit) as advance:
        advance(35e6)
        with console.capture() as captured:
            console.print(bars.get_renderable())
    assert shown in captured.get()


def test_a_log_counts_bytes_in_megabytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "LOG_INTERVAL_S", -1.0)
    with PlainProgress().stage("Download", total=248e6, unit=BYTES) as advance:
        advance(35e6)
        assert "  35 MB of 248 MB, 0 s" in capsys.readouterr().err


def test_what_is_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr() as progress, progress.stage("Export the graph"):
        pass
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.startswith("Export the graph ...")
