"""Renders the latency report of one engine as an HTML page that needs no other file."""

from __future__ import annotations

import math

import numpy as np

from edgekit.measure.confidence import PercentileBound
from edgekit.measure.latency import Statistics
from edgekit.measure.power import Power
from edgekit.measure.reports import LatencyReport
from edgekit.measure.throughput import Throughput
from edgekit.report.html.charts import Curve, curves
from edgekit.report.html.elements import (
    Bar,
    Card,
    Cell,
    bars,
    both_widths,
    cards,
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
from edgekit.report.html.layers import STAGE_COLOURS, layers_section, roofline_section, run_section
from edgekit.report.wording import (
    bound_in_words,
    bytes_in_words,
    engine_rows,
    environment_rows,
    milliseconds,
    percentile_name,
    percentile_note,
    power_rows,
    rate,
    title,
    unit_of,
    verdict,
)

__all__ = [
    "engine_cards",
    "graph_section",
    "highest_bound",
    "html_from_report",
    "latency_figures",
    "latency_series",
    "stages_section",
    "statistics_table",
    "verdict_sentence",
]

STATISTICS = ("mean", "std", "min", "p50")
DISTRIBUTION_TEXT = "The engine alone, from input arrays to output arrays; no run is left out."
RUNS_TEXT = "Each dot is a run, in order; the dashed line is the median. A slope indicates heat, steps clock changes."


def html_from_report(report: LatencyReport, graph: str = "") -> str:
    """Renders the latency report of one engine.

    Args:
        report: the report.
        graph: `edgekit.report.drawing.page.part_from_drawing` of the engine's graph, coloured by the times of its
            layers; empty for none.
    """
    series = latency_series(report, "", "two")
    steady_from = report.steady.first_run if report.steady else None
    body = [
        header(report.name, title(report), report.created),
        summary_bar(report.name, latency_figures(report)),
        verdict_box(
            verdict_sentence(report),
            _further_claims(report),
            kind="unsure" if report.disturbances or report.conditions is None else "good",
        ),
        caution("Please note", report.notes),
        cards(engine_cards(report)),
        caution("These figures may be inaccurate", [item.text for item in report.disturbances]),
        section(
            "Distribution",
            f"{DISTRIBUTION_TEXT} {axis_note([series.samples_ms])}",
            both_widths(lambda width: distribution([series], width)),
        ),
        stages_section({"median": report}),
        section("All figures", _statistics_text(report), statistics_table(report)),
        layers_section(report.layer_times, report.roofline),
        roofline_section(report.roofline),
        run_section(report.layer_times),
        graph_section(graph, "Layers coloured by time."),
        section(
            "Run by run",
            f"{RUNS_TEXT} {_steady_in_words(report)}",
            both_widths(lambda width: time_line([series], width, steady_from=steady_from)),
        ),
        _throughput_section(report.throughput, unit_of(report)),
        _power_section(report.power),
        section("The engine", "", facts(engine_rows(report)), kind="long"),
        section("The machine", "", facts(environment_rows(report)), kind="long"),
        footer(f"Measured by edgekit profile, EdgeKit {report.edgekit}. Warm-up runs are not counted."),
    ]
    return page(f"{report.name}: latency", body, graph=bool(graph))


def graph_section(graph: str, text: str) -> str:
    """Renders the drawing of a graph as a section, which is not printed; empty without a drawing."""
    how = "Drag to move; Ctrl and the wheel, or two fingers, zoom; a click unfolds a block and shows its facts."
    return section("Graph", f"{text} {how}", graph, kind="screen")


def verdict_sentence(report: LatencyReport) -> str:
    """Returns the result in one sentence: the median, the percentile that can be claimed, and whether it was quiet."""
    bound = highest_bound(report)
    bounds = report.percentiles.get("inference", ())
    if bound is not None:
        claimed = bound_in_words(bound)
    elif bounds:
        claimed = bound_in_words(bounds[0])
    else:
        claimed = "no percentile is claimed"
    return f"Median {milliseconds(report.latency_ms.p50)} ms; {claimed}; {verdict(report)}."


def _further_claims(report: LatencyReport) -> list[str]:
    """Returns what `percentile_note` says besides what the verdict says."""
    notes = percentile_note(report)
    if not notes or highest_bound(report) is not None:
        return notes[1:]
    return [part for part in (notes[0].partition("; ")[2], *notes[1:]) if part]


def highest_bound(report: LatencyReport) -> PercentileBound | None:
    """Returns the bound of the highest percentile that can be claimed of the engine."""
    bounds = report.percentiles.get("inference", ())
    return next((bound for bound in reversed(bounds) if bound.upper_ms is not None), None)


def latency_figures(report: LatencyReport) -> list[tuple[str, str]]:
    """Returns the figures that stay in sight: the median, and p99 or how many runs it needs."""
    figures = [("p50", f"{milliseconds(report.latency_ms.p50)} ms")]
    p99 = next((bound for bound in report.percentiles.get("inference", ()) if bound.percentile == 99), None)
    if p99 is not None and p99.upper_ms is not None:
        figures.append(("p99 ≤", f"{milliseconds(p99.upper_ms)} ms"))
    elif p99 is not None:
        figures.append(("p99", f"needs {p99.missing_runs:,} more runs"))
    return [*figures, ("max", f"{milliseconds(report.latency_ms.max)} ms")]


def latency_series(report: LatencyReport, name: str, colour: str) -> Series:
    """Returns the runs of the engine alone, marked at the median and at the percentile that can be claimed."""
    bound = highest_bound(report)
    marks = [("p50", report.latency_ms.p50)]
    if bound is not None and bound.upper_ms is not None:
        marks.append((f"{percentile_name(bound.percentile)} ≤", bound.upper_ms))
    return Series(name, colour, report.samples_ms["inference"], tuple(marks))


def engine_cards(report: LatencyReport) -> list[Card]:
    """Returns the figures at the top of the page."""
    latency, bound = report.latency_ms, highest_bound(report)
    slow = Card("slowest run", f"{milliseconds(latency.max)} ms", f"of {report.runs:,} runs")
    if bound is not None and bound.upper_ms is not None:
        below = f"{100 * bound.confidence:g} % confidence; slowest {milliseconds(latency.max)} ms"
        slow = Card(f"{percentile_name(bound.percentile)} at most", f"{milliseconds(bound.upper_ms)} ms", below)
    found = [
        Card("median latency", f"{milliseconds(latency.p50)} ms", "the engine alone", "main"),
        slow,
        Card("throughput", rate(report.throughput_per_s, unit_of(report)), "one run after the other"),
        Card("engine size", bytes_in_words(report.engine_bytes), f"built in {report.precision.upper()}"),
        Card("peak memory", bytes_in_words(report.memory.peak_bytes), "of the whole process"),
    ]
    if report.total_ms is not None:
        total = f"{milliseconds(report.total_ms.p50)} ms"
        found.insert(2, Card("image to detections", total, "median of all three stages"))
    return found


def stages_section(reports: dict[str, LatencyReport]) -> str:
    """Renders the medians of the stages of engines, which have the same ones; empty for one engine of one stage."""
    rows = [
        Bar(
            name,
            tuple(
                (f"{stage}: {milliseconds(stats.p50)} ms", STAGE_COLOURS.get(stage, "two"), stats.p50)
                for stage, stats in report.stages.items()
            ),
            " + ".join(milliseconds(stats.p50) for stats in report.stages.values()) + " ms",
        )
        for name, report in reports.items()
    ]
    stages = next(iter(reports.values())).stages
    if len(stages) == 1:
        return ""
    names = legend([(STAGE_COLOURS.get(stage, "two"), stage) for stage in stages])
    return section("Stages", "Medians, in the order of execution.", bars(rows) + names)


def _statistics_text(report: LatencyReport) -> str:
    return "In ms. A percentile with ≤ is an upper bound with 99 % confidence; – where the runs do not support it."


def statistics_table(report: LatencyReport) -> str:
    """Renders all statistics: a column for each stage, so that percentiles are in sight on a phone too."""
    stages: dict[str, Statistics] = dict(report.stages)
    if report.total_ms is not None:
        stages["total"] = report.total_ms
    rows = [
        [Cell(name), *(Cell(milliseconds(getattr(stats, name))) for stats in stages.values())] for name in STATISTICS
    ]
    bounds = report.percentiles
    for index, bound in enumerate(next(iter(bounds.values()), ())):
        found = [bounds[stage][index] if stage in bounds else None for stage in stages]
        uppers = [None if each is None else each.upper_ms for each in found]
        cells = [Cell("–" if upper is None else milliseconds(upper)) for upper in uppers]
        rows.append([Cell(f"{percentile_name(bound.percentile)} ≤"), *cells])
    rows.append([Cell("max"), *(Cell(milliseconds(stats.max)) for stats in stages.values())])
    strong = ["strong" if row[0].text.startswith(("p50", "p99")) else "" for row in rows]
    return table(["ms", *stages], rows, "All figures", row_classes=strong, sorts=False)


def _steady_in_words(report: LatencyReport) -> str:
    steady = report.steady
    if steady is None:
        return ""
    if steady.first_run is None:
        return "No steady state was found: the runs do not settle, or are too few to tell."
    if not steady.first_run or steady.before_ms is None or steady.after_ms is None:
        return "The steady state holds from the first run on: no warm-up is left in the runs."
    return (
        f"The steady state begins with run {steady.first_run + 1}: the median is {milliseconds(steady.before_ms)} ms "
        f"before and {milliseconds(steady.after_ms)} ms after it."
    )


def _throughput_section(found: Throughput | None, unit: str) -> str:
    if found is None:
        return ""
    tips = [
        f"{point.streams} streams: {rate(point.per_s, unit)}, mean {milliseconds(point.mean_ms)} ms"
        for point in found.points
    ]
    texts = [f"{point.streams}{' (knee)' if point.streams == found.knee else ''}" for point in found.points]
    line = Curve("streams", "two", [(point.mean_ms, point.per_s) for point in found.points], tips, texts)
    knee = next(point for point in found.points if point.streams == found.knee)
    marked = Curve("knee", "post", [(knee.mean_ms, knee.per_s)], [f"knee: {knee.streams} streams"])
    rows = [
        [
            Cell(str(point.streams), point.streams),
            Cell(rate(point.per_s).split()[0], point.per_s),
            Cell(milliseconds(point.p50_ms), point.p50_ms),
            Cell(milliseconds(point.max_ms), point.max_ms),
            Cell(", ".join(w for w, s in (("knee", found.knee), ("most", found.best)) if s == point.streams)),
        ]
        for point in found.points
    ]
    chart = (
        both_widths(
            lambda width: curves(
                [line, marked], width, x_label="mean latency in ms", y_label=f"{unit} per second, by streams"
            )
        )
        if len(found.points) > 1
        else ""
    )
    text = (
        f"{found.how[:1].upper()}{found.how[1:]}. The knee, {found.knee} "
        f"stream{'' if found.knee == 1 else 's'}, has the most throughput per latency; {found.best} gives the most."
    )
    heading = ["streams", f"{unit}/s", "p50 ms", "max ms", ""]
    return section("Throughput", text, chart + table(heading, rows, "Throughput by streams"))


def _power_section(power: Power | None) -> str:
    if power is None:
        return ""
    shown = facts(power_rows(power))
    if not power.samples_w:
        return section("Power", "", shown)
    step = math.ceil(len(power.samples_w) / 400)
    times, watts = np.asarray(power.samples_s)[::step], np.asarray(power.samples_w)[::step]
    lines = [Curve("power", "post", list(zip(times.tolist(), watts.tolist(), strict=True)))]
    if power.idle_w is not None:
        ends = (float(times[0]), float(times[-1]))
        lines.append(Curve("idle", "soft", [(ends[0], power.idle_w), (ends[1], power.idle_w)], dashed=True))
    chart = both_widths(
        lambda width: curves(lines, width, x_label="seconds since the first run", y_label="watts", zero=False)
    )
    return section("Power", "Before the first run: idle, then warm-up. The dashed line is idle.", chart + shown)
