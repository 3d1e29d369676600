"""Renders evaluations as tables: one column per engine, and its difference from the first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.evaluation.evaluate import FIGURES, Evaluation
from edgekit.evaluation.evaluators.base import Figure
from edgekit.evaluation.evaluators.choose import measures
from edgekit.report.tables import FigureTable
from edgekit.report.terminal import notes_panel

__all__ = ["class_table", "differences", "headings", "print_summary"]

COARSE_POINTS = 0.1
"""If one example changes a figure by more than this number of points, a remark says so."""
UNKNOWN = "–"
# What is shown of a class is a share, of which more is better, whatever the task calls it.
CLASS_FIGURE = Figure("")


def differences(first: Evaluation, other: Evaluation) -> dict[str, float]:
    """Returns each figure of ``other`` minus that of ``first``; shares stay fractions, not percentage points."""
    return {name: value - first.figures[name] for name, value in other.figures.items() if name in first.figures}


def print_summary(console: Console, found: Sequence[Evaluation], names: Sequence[str]) -> None:
    """Prints all figures, the weight of one example, the skipped examples, and the notes.

    Args:
        console: the console to print to.
        found: one evaluation per engine, all on the same data set.
        names: names of the engines, used if nothing else distinguishes them.
    """
    first = found[0]
    table = _table("", headings(found, names))
    for name in first.figures:
        figure = FIGURES[name]
        values = [evaluation.figures.get(name, math.nan) for evaluation in found]
        table.add_row(figure.title, *_cells(values, figure))
    rates = [Text(_rate(evaluation.examples_per_s), style="dim") for evaluation in found]
    table.add_row(Text("examples per second", style="dim"), *rates)
    console.print()
    console.print(_title(found), soft_wrap=True)
    console.print(table)
    for remark in _remarks(found):
        console.print(Text(remark, style="dim"), soft_wrap=True)
    if notes := _notes(found, headings(found, names)):
        console.print(notes_panel(notes))


def class_table(found: Sequence[Evaluation], names: Sequence[str]) -> RenderableType:
    """Renders the figure of each class; a class without examples is shown as unknown."""
    table = _table(measures()[found[0].task].class_figure, ["count", *headings(found, names)])
    for rows in zip(*(evaluation.per_class for evaluation in found), strict=True):
        values = [row.value for row in rows]
        # With differences, three or more engines would need too many lines per class.
        few = len(rows) < 3
        cells = _cells(values, CLASS_FIGURE) if few else [Text(_value(value, CLASS_FIGURE)) for value in values]
        table.add_row(Text(rows[0].label), str(rows[0].count), *cells)
    return table


def headings(found: Sequence[Evaluation], names: Sequence[str]) -> list[str]:
    """Returns the column headings: those of name, precision and backend that differ, else the folder names."""
    columns = list(zip(*((e.name, e.precision.upper(), e.backend) for e in found), strict=True))
    differing = [column for column in columns if len(set(column)) > 1] or [columns[1]]
    texts = [" ".join(parts) for parts in zip(*differing, strict=True)]
    own = texts if len(set(texts)) == len(texts) else list(names)
    return [*own, "difference"] if len(found) == 2 else own


def _table(corner: str, columns: Sequence[str]) -> Table:
    table = FigureTable()
    table.add_column(corner, style="bold")
    for column in columns:
        table.add_column(Text(column), justify="right", overflow="fold")
    return table


def _title(found: Sequence[Evaluation]) -> Text:
    first = found[0]
    models = list(dict.fromkeys(evaluation.name for evaluation in found))
    counts = sorted({evaluation.examples for evaluation in found})
    count = " and ".join(f"{count:,}" for count in counts)
    examples = "example" if counts == [1] else "examples"
    what = f" on {first.data}, {first.split}: {count} {examples}"
    return Text.assemble((", ".join(models), "bold"), what)


def _cells(values: Sequence[float], figure: Figure) -> list[Text]:
    """Renders one cell per engine; the difference of two engines is a column, that of more is below each figure."""
    cells = [Text(_value(value, figure)) for value in values]
    changes = [_change(value - values[0], figure) for value in values[1:]]
    if len(values) == 2:
        return [*cells, *changes]
    return cells[:1] + [Text("\n").join([cell, change]) for cell, change in zip(cells[1:], changes, strict=True)]


def _value(value: float, figure: Figure) -> str:
    if math.isnan(value):
        return UNKNOWN
    return f"{100 * value:.2f} %" if figure.is_share else f"{value:.4g}"


def _change(change: float, figure: Figure) -> Text:
    if math.isnan(change):
        return Text(UNKNOWN, style="dim")
    text = f"{100 * change:+.2f} points" if figure.is_share else f"{change:+.2g}"
    if not float(text.split()[0]):
        return Text("none" if change == 0 else text.replace("-", "±").replace("+", "±"), style="dim")
    return Text(text, style="green" if (change > 0) == figure.more_is_better else "yellow")


def _rate(per_second: float) -> str:
    return f"{per_second:,.{2 if per_second < 10 else 0}f}"


def _notes(found: Sequence[Evaluation], columns: Sequence[str]) -> list[str]:
    """Returns the notes without duplicates; a note that is not for all engines is prefixed with its engines."""
    whose: dict[str, list[str]] = {}
    for evaluation, column in zip(found, columns, strict=False):
        for note in evaluation.notes:
            whose.setdefault(note, []).append(column)
    return [note if len(owners) == len(found) else f"{', '.join(owners)}: {note}" for note, owners in whose.items()]


def _remarks(found: Sequence[Evaluation]) -> list[str]:
    first, remarks = found[0], []
    weight = 100 / first.examples
    if weight > COARSE_POINTS and any(FIGURES[name].counts_examples for name in first.figures):
        remarks.append(f"one example is {weight:.2f} percentage points")
    skipped = list(dict.fromkeys(text for evaluation in found for text in evaluation.skipped))
    if skipped:
        rest = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        remarks.append(f"{len(skipped)} skipped, not counted: {skipped[0]}{rest}")
    return remarks
