"""The results of ``edgekit run`` on the terminal: a table for each picture, lines and a summary for a video."""

from __future__ import annotations

import time
from collections import Counter

from rich.text import Text

from edgekit.cli.run.items import Item
from edgekit.cli.terminal import console as terminal
from edgekit.cli.terminal import echo
from edgekit.data.video.source import Source
from edgekit.report.tables import FigureTable
from edgekit.runtime.detections import Detections
from edgekit.text import one_line

__all__ = ["Tables"]

LINE_INTERVAL_S = 1.0
"""Of a video, one frame in so many seconds is printed."""
_SHOWN_LABELS = 6


class Tables:
    """Prints each picture's result as a table; of a video, a line a second, and a summary."""

    def __init__(self) -> None:
        self._last_line_s = time.monotonic()
        self._start_video()

    def _start_video(self) -> None:
        self._frames = 0
        self._labels: Counter[str] = Counter()
        self._tracks: set[int] = set()

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        if item.is_picture:
            _print_table(item)
            return
        self._frames += 1
        labels = _labels(item)
        self._labels.update(labels)
        tracks = getattr(item.result, "tracks", None)
        if tracks is not None:
            self._tracks.update(tracks.tolist())
        now_s = time.monotonic()
        if now_s - self._last_line_s >= LINE_INTERVAL_S:
            self._last_line_s = now_s
            place = f"{item.frame.source}, frame {item.frame.index}, {item.frame.time_s:.1f} s"
            echo(one_line(f"{place}: {_counted(Counter(labels)) or item.shown.headline}"))

    def end(self, source: Source) -> None:
        """See `Output.end`."""
        if not self._frames:
            return
        plural = "" if self._frames == 1 else "s"
        found = _counted(self._labels) or "nothing found"
        tracks = len(self._tracks)
        followed = f"; {tracks} track{'' if tracks == 1 else 's'}" if tracks else ""
        echo(one_line(f"{source.name}: {self._frames} frame{plural}: {found}{followed}"))
        self._start_video()

    def close(self) -> None:
        """See `Output.close`."""


def _labels(item: Item) -> list[str]:
    """Returns what is counted in a video: the label of each object, or the most probable class."""
    if isinstance(item.result, Detections):
        return item.result.labels
    return [item.shown.headline]


def _counted(labels: Counter[str]) -> str:
    """Returns counts of labels as a text, such as ``3 car, 1 person``."""
    counts = [f"{count} {label}" for label, count in labels.most_common(_SHOWN_LABELS)]
    others = sum(labels.values()) - sum(count for _, count in labels.most_common(_SHOWN_LABELS))
    return ", ".join([*counts, *([f"{others} others"] if others else [])])


def _print_table(item: Item) -> None:
    console = terminal()
    milliseconds = f"{item.seconds * 1000:.0f}" if item.seconds >= 0.01 else f"{item.seconds * 1000:.1f}"
    title = Text.assemble((item.path.name, "bold"), f": {item.shown.headline}, in {milliseconds} ms")
    console.print(title, soft_wrap=True)
    if not item.shown.rows:
        return
    table = FigureTable()
    for index, column in enumerate(item.shown.columns):
        table.add_column(column, justify="right" if index else "left", style="" if index else "bold")
    for row in item.shown.rows:
        table.add_row(*map(Text, row))  # brackets in labels are not markup
    console.print(table)
