"""Tables whose figures are never cut."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

__all__ = ["FigureTable"]

LEAST_TEXT = 12
"""Columns of terminal that a text keeps of its longest word."""


class FigureTable(Table):
    """A table that never cuts what stands in its columns on the right side, which are figures.

    A figure that is cut looks like another one. In a narrow terminal the texts give way, and where that is not enough,
    lines are longer than the terminal, which continues them in its next line.

    Args:
        options: those of rich's table.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich's table."""
        for column in self.columns:
            column.min_width = _least_width(console, options, column)
        yield from super().__rich_console__(console, options)


def _least_width(console: Console, options: ConsoleOptions, column: Column) -> int:
    is_figure, is_folded = column.justify == "right", column.overflow == "fold"
    if is_folded and not is_figure:
        return 0
    # A heading that is folded is a name of any length.
    cells = [*column.cells, *([] if is_folded else [column.header])]
    widths = [Measurement.get(console, options.update(width=1000), cell) for cell in cells]
    # Between words, a cell may be continued in the next line.
    least = max((each.maximum if column.no_wrap and is_figure else each.minimum for each in widths), default=0)
    return least if is_figure else min(least, LEAST_TEXT)
