"""Renders a comparison of engines as an HTML page: the sentences, ratios with intervals, distributions, layers."""

from __future__ import annotations

from itertools import chain

from edgekit.measure.relative import Compared, CompareReport
from edgekit.report.comparison import comparison_rows, how_compared, limit_lines
from edgekit.report.html.charts import intervals
from edgekit.report.html.elements import (
    Bar,
    Cell,
    bars,
    both_widths,
    caution,
    facts,
    footer,
    header,
    legend,
    page,
    section,
    summary_bar,
    table,
    verdict_box,
)
from edgekit.report.html.latency_charts import Series, axis_note, distribution, time_line
from edgekit.report.wording import machine_rows, milliseconds, milliseconds_change, percentile_name

__all__ = ["html_from_comparison"]

KINDS = {"good": "good", "bad": "bad", "three": "unsure"}


def html_from_comparison(report: CompareReport) -> str:
    """Renders a comparison of engines with the first of them."""
    contenders, names = report.contenders, [each.name for each in report.contenders]
    colours = ["one", *map(_colour, contenders[1:])]
    series = [
        Series(each.name, colour, list(chain.from_iterable(each.rounds_ms)), _marks(each))
        for each, colour in zip(contenders, colours, strict=True)
    ]
    rows = [[Cell(label), *(Cell(text) for text in cells)] for label, cells in comparison_rows(report)]
    kind = KINDS[colours[1]] if len(contenders) == 2 else "plain"
    body = [
        header("Comparison", ", ".join(names), report.created),
        summary_bar("p50", [(each.name, f"{milliseconds(each.latency_ms.p50)} ms") for each in contenders]),
        verdict_box(" ".join(report.sentences), [*limit_lines(report), how_compared(report)], kind=kind),
        caution("Please note", report.notes),
        caution("These figures may be inaccurate", [item.text for item in report.disturbances]),
        section(
            "Ratio of medians",
            f"To {names[0]}, with 95 % confidence intervals. An interval on both sides of 1 tells no difference.",
            both_widths(lambda width: intervals(_ratios(report, colours), width)),
        ),
        section(
            "Distribution",
            f"All runs of all, on one scale. {axis_note([one.samples_ms for one in series])}",
            both_widths(lambda width: distribution(series, width)),
        ),
        section("Figures", "", table(["", *names], rows, "Figures", sorts=False)),
        _layers_section(report),
        section(
            "Run by run",
            "Each dot is a run, in the order of each engine; the dashed lines are medians.",
            both_widths(lambda width: time_line(series, width)) + legend([(one.colour, one.name) for one in series]),
        ),
        section("The machine", "", facts(machine_rows(report.machine)) if report.machine else "", kind="long"),
        footer(f"Compared by edgekit compare, EdgeKit {report.edgekit}."),
    ]
    return page(f"{' and '.join(names[:2])}: comparison", body)


def _colour(other: Compared) -> str:
    """Returns green for what is faster, orange for what is slower, and neither where it cannot be told."""
    ratio = other.ratios.get("p50")
    if ratio is None or ratio.low is None or ratio.high is None:
        return "three"
    return "good" if ratio.high < 1 else "bad" if ratio.low > 1 else "three"


def _marks(each: Compared) -> tuple[tuple[str, float], ...]:
    claimed = [bound for bound in each.percentiles if bound.upper_ms is not None]
    marks = [("p50", each.latency_ms.p50)]
    if claimed and claimed[-1].upper_ms is not None:
        marks.append((f"{percentile_name(claimed[-1].percentile)} ≤", claimed[-1].upper_ms))
    return tuple(marks)


def _ratios(report: CompareReport, colours: list[str]) -> list[tuple[str, float, float | None, float | None, str]]:
    return [
        (other.name, ratio.value, ratio.low, ratio.high, colour)
        for other, colour in zip(report.contenders[1:], colours[1:], strict=True)
        if (ratio := other.ratios.get("p50")) is not None
    ]


def _layers_section(report: CompareReport) -> str:
    first = report.contenders[0].name
    rows = []
    for layer in report.layers:
        change = layer.after_ms - layer.before_ms
        where = layer.name if len(report.contenders) == 2 else f"{layer.name} in {layer.contender}"
        before, after = f"{milliseconds(layer.before_ms)} ms", f"{milliseconds(layer.after_ms)} ms"
        rows.append(Bar(f"{where}, {first}", ((before, "one", layer.before_ms),), before))
        tip, colour = f"{after} ({milliseconds_change(change)})", "good" if change < 0 else "bad"
        rows.append(Bar(f"{where}, {layer.contender}", ((tip, colour, layer.after_ms),), tip))
    return section("Layers that changed most", "Medians, by module or operator.", bars(rows) if rows else "")
