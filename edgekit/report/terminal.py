"""Renders reports as rich tables for terminals of 80 columns and up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgekit.measure.latency import Statistics
from edgekit.measure.reports import BuildReport, LatencyReport
from edgekit.report.wording import (
    bytes_in_words,
    disturbances_of,
    engine_rows,
    fact_rows,
    machine_rows,
    milliseconds,
    rate,
    ratio,
    title,
    unit_of,
)

__all__ = ["label_grid", "notes_panel", "terminal_from_build", "terminal_from_report"]

COLUMNS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")


def terminal_from_report(report: LatencyReport) -> RenderableType:
    """Renders the latency of one engine: a table of stages, throughput, engine, machine and warnings."""
    return Group(
        Text.assemble("\n", (report.name, "bold"), "  ", title(report)),
        _statistics_table(report),
        _throughput(report),
        Text(),
        label_grid(engine_rows(report)[1:]),
        Text(),
        label_grid(machine_rows(report.machine)),
        *_cautions(report.notes, [item.text for item in report.disturbances]),
    )


def terminal_from_build(report: BuildReport) -> RenderableType:
    """Renders the engines of a build side by side, and the other measurements of the build."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(report.name, style="bold")
    for name in report.engines:
        table.add_column(name.upper(), justify="right")
    if report.speedup is not None:
        table.add_column("gain", justify="right", style="green")
    for label, cells, gain in _comparison(report):
        table.add_row(label, *cells, *([gain] if report.speedup is not None else []))
    return Group(table, label_grid(fact_rows(report)), *_cautions(report.notes, disturbances_of(report)))


def _comparison(report: BuildReport) -> list[tuple[str, list[str], str]]:
    engines = list(report.engines.values())
    rows = [
        ("median latency", [f"{milliseconds(e.latency_ms.p50)} ms" for e in engines], _gain(report.speedup)),
        ("p99 latency", [f"{milliseconds(e.latency_ms.p99)} ms" for e in engines], ""),
        ("throughput", [rate(e.throughput_per_s, unit_of(e)) for e in engines], ""),
        ("engine size", [bytes_in_words(e.engine_bytes) for e in engines], _gain(report.size_ratio)),
    ]
    if all(e.total_ms is not None for e in engines):
        totals = [f"{milliseconds(e.total_ms.p50)} ms" for e in engines if e.total_ms is not None]
        rows.insert(2, ("image to detections", totals, ""))
    return rows


def _gain(value: float | None) -> str:
    return "" if value is None else ratio(value)


def _statistics_table(report: LatencyReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ms", style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right", style="cyan" if column == "p50" else "")
    for stage, statistics in report.stages.items():
        table.add_row(stage, *_cells(statistics))
    if report.total_ms is not None:
        table.add_section()
        table.add_row("total", *_cells(report.total_ms))
    return table


def _cells(statistics: Statistics) -> list[str]:
    return [milliseconds(getattr(statistics, column)) for column in COLUMNS]


def _throughput(report: LatencyReport) -> Text:
    text = Text.assemble((rate(report.throughput_per_s, unit_of(report)), "bold"), " inference only")
    if report.total_ms is not None and report.total_ms.mean:
        text.append(f", {rate(1000 / report.total_ms.mean, unit_of(report))} from image to detections")
    return text


def label_grid(rows: Iterable[tuple[str, str]]) -> Table:
    """Renders labels in one column and their values in the other."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, Text(value))  # in a string, text in square brackets would be markup
    return grid


def notes_panel(notes: Iterable[str]) -> Panel:
    """Renders an engine's notes in a panel."""
    return _panel("please note", notes)


def _cautions(notes: Sequence[str], disturbed: Sequence[str]) -> list[RenderableType]:
    panels: list[RenderableType] = [notes_panel(notes)] if notes else []
    return [*panels, _panel("these figures may be inaccurate", disturbed)] if disturbed else panels


def _panel(heading: str, lines: Iterable[str]) -> Panel:
    text = Text("\n".join(lines))
    return Panel(text, title=heading, title_align="left", border_style="yellow")
