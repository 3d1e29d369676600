"""Renders a comparison of engines for terminals of 80 columns and up, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.measure.relative import ChangedLayer, Compared, CompareReport, Ratio
from edgekit.report.markdown import markdown_table, quoted
from edgekit.report.terminal import caution_panels
from edgekit.report.wording import BACKEND_NAMES, bytes_in_words, milliseconds, milliseconds_change, percentile_name

__all__ = [
    "comparison_rows",
    "how_compared",
    "limit_lines",
    "markdown_from_comparison",
    "ratio_in_words",
    "terminal_from_comparison",
]

RATIOS = ("p50", "p90", "p95", "p99")


def ratio_in_words(ratio: Ratio) -> str:
    """Formats a ratio with its interval: ``1.05 x (1.02 to 1.08)``."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f} x (no interval)"
    return f"{ratio.value:.2f} x ({ratio.low:.2f} to {ratio.high:.2f})"


def terminal_from_comparison(report: CompareReport) -> RenderableType:
    """Renders a comparison: a column for each contender, the sentences, and the results of the limits."""
    several = len(report.contenders) > 3
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows = comparison_rows(report)
    if several:  # more columns than a terminal has: a contender a row
        for index, (label, _) in enumerate([("", []), *rows]):
            table.add_column(
                label, justify="right" if index else "left", style="" if index else "bold", overflow="fold"
            )
        for index, each in enumerate(report.contenders):
            table.add_row(each.name, *(cells[index] for _, cells in rows))
    else:
        table.add_column("", style="bold")
        for each in report.contenders:
            table.add_column(each.name, justify="right", overflow="fold")
        for label, cells in rows:
            table.add_row(label, *cells)
    return Group(
        table,
        *(Text(line, style="bold") for line in report.sentences),
        *([_layer_table(report.layers)] if report.layers else []),
        *(Text(line) for line in limit_lines(report)),
        Text(how_compared(report), style="dim"),
        *caution_panels(report.notes, [item.text for item in report.disturbances]),
    )


def markdown_from_comparison(report: CompareReport) -> str:
    """Renders a comparison for the comment of a pull request."""
    names = [each.name for each in report.contenders]
    parts = [
        "\n".join(f"**{line}**" for line in report.sentences),
        markdown_table(["", *names], [[label, *cells] for label, cells in comparison_rows(report)]),
        "\n".join(f"- {line}" for line in limit_lines(report)),
        "" if not report.layers else markdown_table(LAYER_HEADING, _layer_rows(report.layers)),
        how_compared(report),
        *quoted("These figures may be inaccurate:", [item.text for item in report.disturbances]),
        *quoted("Please note:", report.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


LAYER_HEADING = ("module or operator", "contender", "before", "after", "change")


def _layer_rows(layers: Sequence[ChangedLayer]) -> list[list[str]]:
    return [
        [
            layer.name,
            layer.contender,
            f"{milliseconds(layer.before_ms)} ms",
            f"{milliseconds(layer.after_ms)} ms",
            milliseconds_change(layer.after_ms - layer.before_ms),
        ]
        for layer in layers
    ]


def _layer_table(layers: Sequence[ChangedLayer]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(LAYER_HEADING):
        table.add_column(column, justify="left" if index < 2 else "right", overflow="fold")
    for row in _layer_rows(layers):
        table.add_row(*map(Text, row))
    return table


def comparison_rows(report: CompareReport) -> list[tuple[str, list[str]]]:
    """Returns labels, and a cell for each contender; a row without any value is left out."""
    contenders = report.contenders
    rows = [
        ("runs by", [_runtime(each) for each in contenders]),
        ("p50", [f"{milliseconds(each.latency_ms.p50)} ms" for each in contenders]),
        *_bound_rows(contenders),
        ("slowest", [f"{milliseconds(each.latency_ms.max)} ms" for each in contenders]),
        *_ratio_rows(contenders),
        ("size", ["" if each.size_bytes is None else bytes_in_words(each.size_bytes) for each in contenders]),
        ("memory", ["" if each.engine_bytes is None else bytes_in_words(each.engine_bytes) for each in contenders]),
        ("runs", [f"{sum(map(len, each.rounds_ms)):,}" for each in contenders]),
        *_accuracy_rows(contenders),
    ]
    return [(label, cells) for label, cells in rows if any(cells)]


def _runtime(each: Compared) -> str:
    return " ".join(part for part in (each.precision.upper(), BACKEND_NAMES.get(each.backend, each.backend)) if part)


def _bound_rows(contenders: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    return [
        (
            f"{percentile_name(bounds[0].percentile)} <=",
            ["–" if bound.upper_ms is None else f"{milliseconds(bound.upper_ms)} ms" for bound in bounds],
        )
        for bounds in zip(*(each.percentiles for each in contenders), strict=True)
        if any(bound.upper_ms is not None for bound in bounds)
    ]


def _ratio_rows(contenders: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    rows = []
    for name in RATIOS:
        found = [each.ratios.get(name) for each in contenders]
        if any(found):
            rows.append((f"{name} ratio", ["" if ratio is None else ratio_in_words(ratio) for ratio in found]))
    return rows


def _accuracy_rows(contenders: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for each in contenders for name in each.accuracy)
    return [
        (name, [f"{each.accuracy[name]:.4g}" if name in each.accuracy else "" for each in contenders]) for name in names
    ]


def limit_lines(report: CompareReport) -> list[str]:
    """Returns the result of each limit as a line."""
    return [
        f"{each.limit}: {each.result} for {each.contender}"
        + (f", {ratio_in_words(each.ratio)}" if each.ratio else "")
        + (f"; {each.reason}" if each.reason else "")
        for each in report.limits
    ]


def how_compared(report: CompareReport) -> str:
    """Returns how the ratios were measured."""
    if not report.interleaved:
        return "Ratios are to the first, with 95 % confidence intervals; of runs that were measured earlier."
    return (
        "Ratios are to the first, with 95 % confidence intervals: the mean of the ratios of each round, over "
        f"{report.rounds} {'rounds' if report.rounds > 1 else 'round'} in random order, each turn in a new process."
    )
