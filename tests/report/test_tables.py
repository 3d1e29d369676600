"""Tables in terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.text import Text

from edgekit.cli.console import SafeConsole
from edgekit.report.tables import FigureTable

FIGURES = [f"{1234.5 + i:,.1f} ms" for i in range(5)]


def printed(table: FigureTable, width: int) -> str:
    console = SafeConsole(stderr=False, width=width, plain=True)
    console.file = io.StringIO()
    console.print(table)
    return console.file.getvalue()


def five_figures(**options: object) -> FigureTable:
    table = FigureTable()
    table.add_column("label", style="bold")
    for index in range(5):
        table.add_column(f"figure{index}", justify="right", **options)
    table.add_row("a label of several words", *FIGURES[:3], *map(Text, FIGURES[3:]))
    return table


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_figures_are_whole_in_a_terminal_of_any_width(width: int) -> None:
    out = printed(five_figures(), width)
    assert "…" not in out
    assert all(figure.split()[0] in out for figure in FIGURES)
    assert all(figure in printed(five_figures(no_wrap=True), width) for figure in FIGURES)


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_is_as_wide_as_the_terminal_where_its_words_fit(width: int) -> None:
    assert max(cell_len(line) for line in printed(five_figures(), width).splitlines()) <= width


def test_a_heading_that_is_folded_gives_way() -> None:
    table = FigureTable()
    table.add_column("")
    table.add_column("engines/" + "a" * 100, justify="right", overflow="fold")
    table.add_row("latency", "12.5 ms")
    assert max(map(cell_len, printed(table, 80).splitlines())) <= 80
