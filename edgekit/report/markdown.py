"""Renders reports as Markdown, for the comment of a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.measure.reports import LatencyReport
from edgekit.report.wording import (
    bytes_in_words,
    environment_rows,
    milliseconds,
    percentile_name,
    percentile_note,
    rate,
    title,
    unit_of,
)

__all__ = ["markdown_from_report", "markdown_table", "plain", "quoted"]

SHOWN = frozenset({"CPU", "board", "load", "clock governor", "power", "energy", "verdict"})


def markdown_from_report(report: LatencyReport) -> str:
    """Renders the latency of one engine: a table of stages, what can be claimed, the machine and warnings."""
    bounds = report.percentiles
    names = [f"{percentile_name(bound.percentile)} ≤" for bound in next(iter(bounds.values()), ())]
    stages = {**report.stages, **({"total": report.total_ms} if report.total_ms is not None else {})}
    rows = [
        [
            stage,
            milliseconds(statistics.p50),
            *("–" if b.upper_ms is None else milliseconds(b.upper_ms) for b in bounds.get(stage, ())),
            milliseconds(statistics.max),
        ]
        for stage, statistics in stages.items()
    ]
    facts = [
        ("throughput", rate(report.throughput_per_s, unit_of(report))),
        ("engine size", bytes_in_words(report.engine_bytes)),
        *((label, value) for label, value in environment_rows(report) if label in SHOWN),
    ]
    parts = [
        f"### {plain(report.name)}: {plain(title(report))}",
        markdown_table(["ms", "p50", *names, "max"], rows),
        "\n".join(f"- {line}" for line in percentile_note(report)),
        "\n".join(f"- {label}: {plain(value)}" for label, value in facts),
        *quoted("These figures may be inaccurate:", [item.text for item in report.disturbances]),
        *quoted("Please note:", report.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders a table; the first column is text, the others are numbers."""
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(plain, line)) + " |" for line in lines)


def quoted(heading: str, lines: Sequence[str]) -> list[str]:
    """Renders lines as a block quote; an empty list without lines."""
    return ["\n".join([f"> **{heading}**", *(f"> {plain(line)}" for line in lines)])] if lines else []


def plain(text: str) -> str:
    """Escapes what Markdown would take for markup: names come from users' files."""
    for mark in "\\|<>*_`":
        text = text.replace(mark, f"\\{mark}")
    return text
