"""Progress bars with rich, on terminals and in notebooks."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from edgekit.progress import BYTES, Progress, Warnings

__all__ = ["ShownToPython", "TerminalProgress", "amount_text", "counted_text", "live_bars", "progress_of_python"]

WIDE = 100
"""Minimum terminal width for a long bar next to the longest counts."""


def live_bars(console: Console, *, disable: bool = False) -> Bars:
    """Returns the live display of a `TerminalProgress`: title, bar, count and time of each stage.

    Args:
        console: where it is shown.
        disable: show finished stages only.
    """
    return Bars(
        SpinnerColumn(style="cyan"),
        TextColumn("{task.description}", markup=False),
        _Bar(24 if console.width >= WIDE else 12),
        _Count(),
        _Seconds(),
        console=console,
        transient=True,
        disable=disable,
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
            self._bars.console.print(_finished(mark, style, title, counted_text(done, unit, seconds), seconds))

    def note(self, text: str) -> None:
        line = Text.assemble(("! ", "bold yellow"), (text.replace("\n", "\n  "), "yellow"))
        self._bars.console.print(line, soft_wrap=True)  # a command in it is copied as one line


class ShownToPython(TerminalProgress):
    """A `TerminalProgress` of functions called from Python: notes are warnings, which a filter can silence."""

    def note(self, text: str) -> None:
        Warnings().note(text)


@contextmanager
def progress_of_python() -> Iterator[Progress]:
    """Yields a `Progress` for a function called from Python: bars on a terminal and in a notebook, else none."""
    console = Console(stderr=True)
    if not console.is_jupyter and (not console.is_terminal or console.is_dumb_terminal):
        yield Warnings()
        return
    # rich draws bars in a notebook with ipywidgets, and asks for the package with a warning if it is missing.
    finished_only = console.is_jupyter and importlib.util.find_spec("ipywidgets") is None
    with live_bars(console, disable=finished_only) as bars:
        yield ShownToPython(bars)


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
        return Text(counted_text(task.completed, unit, task.elapsed or 0, task.total), style="dim")


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.elapsed or 0:.1f} s", style="dim")


def _finished(mark: str, style: str, title: str, counted: str, seconds: float) -> Text:
    # The time stands first, because titles with names of files may have any length.
    return Text.assemble((mark, style), (f" {seconds:6.1f} s", "bold"), f"  {title}", (f"   {counted}", "dim"))


def counted_text(done: float, unit: str, seconds: float, total: float | None = None) -> str:
    """Formats a count and its rate, such as ``12 of 32 images, 4.1 images/s``; empty if nothing was counted."""
    if not done:
        return ""
    amount = amount_text(done, total, unit)
    if seconds <= 0.05 or not unit:
        return amount
    rate = _megabytes(done / seconds) if unit == BYTES else f"{done / seconds:.3g} {unit}"
    return f"{amount}, {rate}/s"


def amount_text(done: float, total: float | None, unit: str) -> str:
    """Formats a count, such as ``12 of 32 images`` or ``35 MB of 248 MB``."""
    if unit == BYTES:
        return _megabytes(done) if total is None else f"{_megabytes(done)} of {_megabytes(total)}"
    of = "" if total is None else f" of {total:g}"
    return f"{done:g}{of} {unit}".rstrip()


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"
