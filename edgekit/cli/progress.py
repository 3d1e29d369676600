"""Shows the progress of a command: one line per stage, a bar for stages that count, notes in yellow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from edgekit.cli.terminal import SETTINGS, echo
from edgekit.cli.terminal import console as terminal
from edgekit.progress import BYTES, Progress, Silent

__all__ = ["PlainProgress", "TerminalProgress", "live_bars", "progress_on_stderr"]

WIDE = 100
"""Minimum terminal width for a long bar next to the longest counts."""
LOG_INTERVAL_S = 15.0
"""Interval at which a log shows a stage's count, to distinguish a slow stage from one that hangs."""


@contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Yields a `Progress` on standard error: live on a terminal, plain lines in a file or a pipe."""
    if SETTINGS.quiet:
        yield Silent()
        return
    console = terminal(stderr=True)
    # A dumb terminal cannot move its cursor, which live bars do.
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainProgress()
        return
    with live_bars(console) as bars:
        yield TerminalProgress(bars)


def live_bars(console: Console) -> Bars:
    """Returns the live display of a `TerminalProgress`: title, bar, count and time of each stage."""
    return Bars(
        SpinnerColumn(style="cyan"),
        TextColumn("{task.description}", markup=False),
        _Bar(24 if console.width >= WIDE else 12),
        _Count(),
        _Seconds(),
        console=console,
        transient=True,
    )


class TerminalProgress:
    """A `Progress` on a terminal: the running stage is live at the bottom; finished stages stay above it."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
        task = self._bars.add_task(title, total=total, unit=unit)
        start = time.monotonic()
        mark, style = "✗", "red"
        try:
            yield lambda amount: self._bars.advance(task, amount)
            mark, style = "✓", "green"
        finally:
            done = self._bars.tasks[self._bars.task_ids.index(task)].completed
            seconds = time.monotonic() - start
            self._bars.remove_task(task)
            self._bars.console.print(_finished(mark, style, title, _counted(done, unit, seconds), seconds))

    def note(self, text: str) -> None:
        self._bars.console.print(Text.assemble(("! ", "bold yellow"), (text, "yellow")))


class PlainProgress:
    """A `Progress` for logs: prints a line when a stage starts, when it ends, and at intervals in between."""

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
        start = logged = time.monotonic()
        done = 0.0

        def advance(amount: float) -> None:
            nonlocal done, logged
            done += amount
            if time.monotonic() - logged > LOG_INTERVAL_S:
                logged = time.monotonic()
                _log(f"  {_amount(done, total, unit)}, {logged - start:.0f} s")

        _log(f"{title} ...")
        ending = "failed after"
        try:
            yield advance
            ending = "done in"
        finally:
            seconds = time.monotonic() - start
            counted = _counted(done, unit, seconds)
            _log(f"  {ending} {seconds:.1f} s{', ' if counted else ''}{counted}")

    def note(self, text: str) -> None:
        _log(f"note: {text}")


class _Bar(ProgressColumn):
    """A bar for stages with a known total; empty for others, which have a spinner."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def render(self, task: Task) -> RenderableType:
        if task.total is None:
            return Text()
        return ProgressBar(total=task.total, completed=task.completed, width=self._width, complete_style="cyan")


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if not task.completed:
            return Text()
        return Text(_counted(task.completed, unit, task.elapsed or 0, task.total), style="dim")


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.elapsed or 0:.1f} s", style="dim")


def _finished(mark: str, style: str, title: str, counted: str, seconds: float) -> Text:
    return Text.assemble((mark, style), f" {title:<34} ", (f"{seconds:6.1f} s", "bold"), (f"   {counted}", "dim"))


def _counted(done: float, unit: str, seconds: float, total: float | None = None) -> str:
    """Formats a count and its rate, such as ``12 of 32 images, 4.1 images/s``; empty if nothing was counted."""
    if not done:
        return ""
    amount = _amount(done, total, unit)
    if seconds <= 0.05 or not unit:
        return amount
    rate = _megabytes(done / seconds) if unit == BYTES else f"{done / seconds:.3g} {unit}"
    return f"{amount}, {rate}/s"


def _amount(done: float, total: float | None, unit: str) -> str:
    """Formats a count, such as ``12 of 32 images`` or ``35 MB of 248 MB``."""
    if unit == BYTES:
        return _megabytes(done) if total is None else f"{_megabytes(done)} of {_megabytes(total)}"
    of = "" if total is None else f" of {total:g}"
    return f"{done:g}{of} {unit}".rstrip()


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"


def _log(line: str) -> None:
    echo(line, err=True)
