"""Renders the noise of each layer as a rich table for terminals of 80 columns and up."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, JustifyMethod, RenderableType
from rich.text import Text

from edgekit.measure.noise_report import NoiseReport, SmallestGraph
from edgekit.quantize.compare import LayerNoise
from edgekit.report.layer_table import cut_start
from edgekit.report.tables import FigureTable
from edgekit.report.terminal import label_grid, notes_panel
from edgekit.report.wording import decibels
from edgekit.specs import EXACT_DB

__all__ = ["terminal_from_noise"]

HEADINGS = ("\noperator", "on\nintegers", "signal\nto noise", "\nlost")
JUSTIFY: tuple[JustifyMethod, ...] = ("left", "left", "right", "right")
GAP = 2
"""Columns of terminal between two of the table."""
LEAST_ROOM = 12
"""Minimum width of the names of layers."""
DOUBLED_DB = 3.0
"""A layer that loses this much doubles the noise."""


def terminal_from_noise(report: NoiseReport, width: int) -> RenderableType:
    """Renders the layers, the first that is lost, and the smallest graph that fails.

    Args:
        report: the report to show.
        width: width of the terminal in columns.
    """
    rows = [
        (layer.op_type, "yes" if layer.quantized else "", decibels(layer.sqnr_db), _lost(layer))
        for layer in report.layers
    ]
    # Names get the remaining width: figures are never cut.
    columns = [[heading, *texts] for heading, texts in zip(HEADINGS, zip(*rows, strict=True), strict=False)]
    taken = sum(max(len(line) for text in column for line in text.split("\n")) + GAP for column in columns)
    table = FigureTable(padding=(0, GAP - 1, 0, 0), show_edge=False)
    table.add_column("\nlayer", style="bold", no_wrap=True)
    for heading, justify in zip(HEADINGS, JUSTIFY, strict=True):
        table.add_column(heading, justify=justify, no_wrap=True)
    for layer, cells in zip(report.layers, rows, strict=True):
        name = Text(cut_start(layer.node, max(width - taken, LEAST_ROOM)))
        table.add_row(name, *map(Text, cells), style=_style(layer, report.limit_db))
    parts: list[RenderableType] = [table, Text(), label_grid(_rows(report))]
    if report.notes:
        parts += [Text(), notes_panel(report.notes)]
    return Group(*parts)


def _lost(layer: LayerNoise) -> str:
    shown = abs(layer.lost_db) >= DOUBLED_DB and abs(layer.sqnr_db) < EXACT_DB
    return f"{layer.lost_db:.1f} dB" if shown else ""


def _style(layer: LayerNoise, limit_db: float) -> str:
    return "red" if layer.sqnr_db < limit_db else "yellow" if layer.sqnr_db < limit_db + 10 else ""


def _rows(report: NoiseReport) -> Iterator[tuple[str, str]]:
    what = f"{str(report.precision).upper()} {report.compared} for {report.target}"
    yield "compared", f"{what}, with {report.reference}"
    for stage, ratio_db in report.outputs_db.items():
        yield stage, f"{decibels(ratio_db)} against the original model"
    if report.first is None:
        yield "first lost", f"none: every layer keeps {report.limit_db:.0f} dB or more"
        return
    first = report.first
    yield (
        "first lost",
        f"{first.op_type} '{first.node}': {decibels(first.sqnr_db)}, {first.lost_db:.1f} dB less than its inputs",
    )
    if report.smallest is not None:
        yield "smallest graph", _smallest(report.smallest, report.limit_db)
        if report.smallest.folder:
            yield "saved to", report.smallest.folder


def _smallest(found: SmallestGraph, limit_db: float) -> str:
    nodes, kept = len(found.nodes), decibels(found.sqnr_db)
    if found.sqnr_db >= limit_db:
        return f"none: all {nodes} nodes up to this layer keep {kept} on one input"
    names, more = ", ".join(found.nodes[:4]), ", …" if nodes > 4 else ""
    return f"{nodes} node{'' if nodes == 1 else 's'} ({names}{more}): {kept} by itself"
