"""Shows the progress of a command: one line per stage, a bar for stages that count, notes in yellow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.cli.terminal import SETTINGS, echo
from edgekit.cli.terminal import console as terminal
from edgekit.progress import Progress, Silent
from edgekit.progress.live import TerminalProgress, amount_text, counted_text, live_bars

__all__ = ["PlainProgress", "progress_on_stderr"]

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
                _log(f"  {amount_text(done, total, unit)}, {logged - start:.0f} s")

        _log(f"{title} ...")
        ending = "failed after"
        try:
            yield advance
            ending = "done in"
        finally:
            seconds = time.monotonic() - start
            counted = counted_text(done, unit, seconds)
            _log(f"  {ending} {seconds:.1f} s{', ' if counted else ''}{counted}")

    def note(self, text: str) -> None:
        _log(f"note: {text}")


def _log(line: str) -> None:
    echo(line, err=True)
