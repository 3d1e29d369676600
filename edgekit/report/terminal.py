"""Renders reports as rich tables for terminals of 80 columns and up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgekit.measure.confidence import PercentileBound
from edgekit.measure.latency import Statistics
from edgekit.measure.reports import BuildReport, LatencyReport
from edgekit.measure.throughput import Throughput
from edgekit.report.tables import FigureTable
from edgekit.report.wording import (
    bytes_in_words,
    disturbances_of,
    engine_rows,
    environment_rows,
    fact_rows,
    milliseconds,
    percentile_name,
    percentile_note,
    rate,
    ratio,
    title,
    unit_of,
)

__all__ = ["caution_panels", "label_grid", "notes_panel", "terminal_from_build", "terminal_from_report"]

COLUMNS = ("mean", "std", "min", "p50")
NOT_CLAIMED = "–"


def terminal_from_report(report: LatencyReport) -> RenderableType:
    """Renders the latency of one engine: a table of stages, throughput, engine, machine and warnings."""
    return Group(
        Text.assemble("\n", (report.name, "bold"), "  ", title(report)),
        _statistics_table(report),
        *(Text(line, style="dim") for line in percentile_note(report)),
        Text(),
        _throughput(report),
        *([_streams_table(report.throughput, unit_of(report))] if report.throughput else []),
        Text(),
        label_grid(engine_rows(report)[1:]),
        Text(),
        label_grid(environment_rows(report)),
        *caution_panels(report.notes, [item.text for item in report.disturbances]),
    )


def terminal_from_build(report: BuildReport) -> RenderableType:
    """Renders the engines of a build side by side, and the other measurements of the build."""
    table = FigureTable()
    table.add_column(report.name, style="bold")
    for name in report.engines:
        table.add_column(name.upper(), justify="right")
    if report.speedup is not None:
        table.add_column("gain", justify="right", style="green")
    for label, cells, gain in _comparison(report):
        table.add_row(label, *cells, *([gain] if report.speedup is not None else []))
    return Group(table, label_grid(fact_rows(report)), *caution_panels(report.notes, disturbances_of(report)))


def _comparison(report: BuildReport) -> list[tuple[str, list[str], str]]:
    engines = list(report.engines.values())
    gain = _gain(report.speedup)
    # The medians are those of each engine alone, whose quotient may be another one on a busy machine.
    by_turns = [("speed by turns", [""] * len(engines), gain)] if report.speed is not None else []
    medians = [f"{milliseconds(e.latency_ms.p50)} ms" for e in engines]
    rows = [
        ("median latency", medians, "" if by_turns else gain),
        *by_turns,
        *_tail_rows(engines),
        ("throughput", [rate(e.throughput_per_s, unit_of(e)) for e in engines], ""),
        ("engine size", [bytes_in_words(e.engine_bytes) for e in engines], _gain(report.size_ratio)),
    ]
    if all(e.total_ms is not None for e in engines):
        totals = [f"{milliseconds(e.total_ms.p50)} ms" for e in engines if e.total_ms is not None]
        rows.insert(2, ("image to detections", totals, ""))
    return rows


def _tail_rows(engines: Sequence[LatencyReport]) -> list[tuple[str, list[str], str]]:
    """Returns the row of the highest percentile that can be claimed of every engine, if any."""
    claimed = [
        {bound.percentile: bound.upper_ms for bound in e.percentiles.get("inference", ()) if bound.upper_ms is not None}
        for e in engines
    ]
    common = set.intersection(*map(set, claimed))
    if not common:
        return []
    highest = max(common)
    cells = [f"<= {milliseconds(bounds[highest])} ms" for bounds in claimed]
    return [(f"{percentile_name(highest)} latency", cells, "")]


def _gain(value: float | None) -> str:
    return "" if value is None else ratio(value)


def _statistics_table(report: LatencyReport) -> Table:
    bounds = report.percentiles
    percentiles = [bound.percentile for bound in next(iter(bounds.values()), ())]
    table = FigureTable()
    table.add_column("ms", style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right", style="cyan" if column == "p50" else "")
    for percentile in percentiles:
        table.add_column(f"{percentile_name(percentile)} <=", justify="right")
    table.add_column("max", justify="right")
    for stage, statistics in report.stages.items():
        table.add_row(stage, *_cells(statistics, bounds.get(stage, ())))
    if report.total_ms is not None:
        table.add_section()
        table.add_row("total", *_cells(report.total_ms, bounds.get("total", ())))
    return table


def _cells(statistics: Statistics, bounds: Sequence[PercentileBound]) -> list[str]:
    return [
        *(milliseconds(getattr(statistics, column)) for column in COLUMNS),
        *(NOT_CLAIMED if bound.upper_ms is None else milliseconds(bound.upper_ms) for bound in bounds),
        milliseconds(statistics.max),
    ]


def _streams_table(throughput: Throughput, unit: str) -> Table:
    table = FigureTable(caption=throughput.how, caption_justify="left")
    table.add_column("streams", justify="right", style="bold")
    for column in ("threads each", f"{unit}/s", "mean ms", "p50 ms", "max ms"):
        table.add_column(column, justify="right")
    table.add_column()
    for point in throughput.points:
        marks = [
            text
            for text, streams in (("knee", throughput.knee), ("most", throughput.best))
            if streams == point.streams and len(throughput.points) > 1
        ]
        table.add_row(
            str(point.streams),
            str(point.threads or "–"),
            rate(point.per_s).split()[0],
            milliseconds(point.mean_ms),
            milliseconds(point.p50_ms),
            milliseconds(point.max_ms),
            ", ".join(marks),
        )
    return table


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


def caution_panels(notes: Sequence[str], disturbed: Sequence[str]) -> list[RenderableType]:
    """Renders notes, and what disturbed the measurement, in panels; an empty list without any."""
    panels: list[RenderableType] = [notes_panel(notes)] if notes else []
    return [*panels, _panel("these figures may be inaccurate", disturbed)] if disturbed else panels


def _panel(heading: str, lines: Iterable[str]) -> Panel:
    text = Text("\n".join(lines))
    return Panel(text, title=heading, title_align="left", border_style="yellow")
