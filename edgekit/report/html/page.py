"""Renders reports as one self-contained HTML file: style and charts are inline, without scripts or network access."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgekit.measure.confidence import PercentileBound
from edgekit.measure.latency import Statistics
from edgekit.measure.reports import (
    BUILD_REPORT_FILE,
    BuildReport,
    LatencyReport,
    build_report_from_measurements,
    json_from_report,
)
from edgekit.report.assets import asset
from edgekit.report.html.charts import Bar, Series, bars, histogram, time_line
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

__all__ = ["html_from_build", "html_from_report", "write_build_report"]

COLUMNS = ("mean", "std", "min", "p50")
TAIL = "slow runs"
STAGE_COLOURS = {"preprocess": "pre", "inference": "two", "postprocess": "post"}


def html_from_report(report: LatencyReport) -> str:
    """Renders the latency report of one engine."""
    inference = Series("inference", "two", report.samples_ms["inference"])
    body = [
        _header(report.name, title(report), report.created),
        _notes(report.notes),
        _figures(_figures_of(report)),
        _disturbed([item.text for item in report.disturbances]),
        _stages({"median": report}),
        _section("Latency histogram", _HISTOGRAM_TEXT, histogram(inference, _marks(report))),
        _section("Run by run", _TIME_LINE_TEXT, time_line([inference])),
        _section("All figures", ". ".join(percentile_note(report)), _statistics(report)),
        _section("The engine", "", _facts(engine_rows(report))),
        _section("The machine", "", _facts(environment_rows(report))),
        _footer(report, "edgekit profile"),
    ]
    return _page(f"{report.name}: latency", body)


def html_from_build(report: BuildReport) -> str:
    """Renders the report of a build, with its engines side by side."""
    engines = report.engines
    last = list(engines.values())[-1]
    # The engine that was built has the strong colour; its reference is pale.
    colours = ["one"] * (len(engines) - 1) + ["two"]
    series = [
        Series(name.upper(), colour, engine.samples_ms["inference"])
        for (name, engine), colour in zip(engines.items(), colours, strict=True)
    ]
    histograms = "".join(
        f"<h3>{escape(one.name)}</h3>{histogram(one, _marks(engine))}"
        for one, engine in zip(series, engines.values(), strict=True)
    )
    body = [
        _header(report.name, title(last), report.created),
        _notes(report.notes),
        _figures(_figures_of_build(report)),
        _disturbed(disturbances_of(report)),
        _stages({name.upper(): engine for name, engine in engines.items()}),
        _section("Latency histogram", _HISTOGRAM_TEXT, histograms),
        _section("Run by run", _TIME_LINE_TEXT, time_line(series) + _legend([(s.colour, s.name) for s in series])),
        *(_section(f"All figures, {name.upper()}", "", _statistics(engine)) for name, engine in engines.items()),
        _section("The build", "", _facts(fact_rows(report))) if report.facts else "",
        _section("The engine", "", _facts(engine_rows(last))),
        _section("The machine", "", _facts(environment_rows(last))),
        _footer(last, "edgekit build"),
    ]
    return _page(f"{report.name}: build report", body)


_HISTOGRAM_TEXT = "The engine alone, from input arrays to output arrays. A quiet machine gives a single narrow peak."
_TIME_LINE_TEXT = (
    "Each dot is a run, in order; the dashed line is the median. A slope indicates heat, steps indicate clock changes."
)


def _marks(report: LatencyReport) -> list[tuple[str, float]]:
    bound = _highest(report)
    return [
        ("p50", report.latency_ms.p50),
        *([(percentile_name(bound.percentile), bound.upper_ms)] if bound and bound.upper_ms is not None else []),
    ]


def _highest(report: LatencyReport) -> PercentileBound | None:
    """Returns the bound of the highest percentile that can be claimed of the engine."""
    bounds = report.percentiles.get("inference", ())
    return next((bound for bound in reversed(bounds) if bound.upper_ms is not None), None)


def _tail_figure(report: LatencyReport) -> tuple[str, str, str]:
    latency, bound = report.latency_ms, _highest(report)
    if bound is None or bound.upper_ms is None:
        return TAIL, f"{milliseconds(latency.max)} <small>ms</small>", f"of {report.runs:,} runs"
    return (
        TAIL,
        f"{milliseconds(bound.upper_ms)} <small>ms</small>",
        f"{percentile_name(bound.percentile)} or less; slowest {milliseconds(latency.max)} ms",
    )


def _figures_of(report: LatencyReport) -> list[tuple[str, str, str]]:
    """Returns the figures at the top of the page: label, value as HTML, and a line below."""
    latency = report.latency_ms
    figures = [
        ("median latency", f"{milliseconds(latency.p50)} <small>ms</small>", "the engine alone"),
        _tail_figure(report),
        ("throughput", _with_unit(rate(report.throughput_per_s, unit_of(report))), "one run after the other"),
        ("engine size", _with_unit(bytes_in_words(report.engine_bytes)), f"built in {report.precision.upper()}"),
        ("peak memory", _with_unit(bytes_in_words(report.memory.peak_bytes)), "of the whole process"),
    ]
    if report.total_ms is not None:
        total = f"{milliseconds(report.total_ms.p50)} <small>ms</small>"
        figures.insert(1, ("image to detections", total, "median of all three stages"))
    return figures


def _figures_of_build(report: BuildReport) -> list[tuple[str, str, str]]:
    last = list(report.engines.values())[-1]
    figures = _figures_of(last)
    if report.speedup is not None and report.size_ratio is not None:
        first = list(report.engines)[0].upper()
        verb = "as fast as" if report.speedup >= 1 else "the speed of"
        figures.insert(0, ("speed", _with_unit(ratio(report.speedup)), f"{verb} {first}"))
        figures = [f for f in figures if f[0] not in (TAIL, "peak memory")]
        figures.append(("size", _with_unit(ratio(report.size_ratio)), f"smaller than {first}"))
    return figures


def _with_unit(text: str) -> str:
    number, _, unit = text.partition(" ")
    return f"{escape(number)} <small>{escape(unit)}</small>"


def _figures(figures: Sequence[tuple[str, str, str]]) -> str:
    # The style sheet colours the first one.
    cards = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{value}</dd><dd>{escape(below)}</dd></div>"
        for label, value, below in figures
    )
    return f'<dl class="figures">{cards}</dl>'


def _stages(reports: dict[str, LatencyReport]) -> str:
    rows = [
        Bar(name, tuple((stage, STAGE_COLOURS[stage], stats.p50) for stage, stats in report.stages.items()))
        for name, report in reports.items()
    ]
    stages = next(iter(reports.values())).stages
    if len(stages) == len(rows) == 1:
        return ""
    content = bars(rows) + _legend([(STAGE_COLOURS[stage], stage) for stage in stages])
    return _section("Stages", "Medians, in the order of execution.", content)


def _statistics(report: LatencyReport) -> str:
    percentiles = [percentile_name(bound.percentile) for bound in next(iter(report.percentiles.values()), ())]
    names = [*COLUMNS, *(f"{name} ≤" for name in percentiles), "max"]
    head = "".join(f'<th scope="col">{column}</th>' for column in names)
    bounds = report.percentiles
    rows = "".join(_statistics_row(stage, each, bounds.get(stage, ()), "") for stage, each in report.stages.items())
    if report.total_ms is not None:
        rows += _statistics_row("total", report.total_ms, bounds.get("total", ()), ' class="total"')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All figures"><table>'
        f'<thead><tr><th scope="col">ms</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _statistics_row(name: str, statistics: Statistics, bounds: Sequence[PercentileBound], attributes: str) -> str:
    values = [
        *(milliseconds(getattr(statistics, column)) for column in COLUMNS),
        *("–" if bound.upper_ms is None else milliseconds(bound.upper_ms) for bound in bounds),
        milliseconds(statistics.max),
    ]
    cells = "".join(f"<td>{value}</td>" for value in values)
    return f'<tr{attributes}><th scope="row">{escape(name)}</th>{cells}</tr>'


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in rows)
    return f'<dl class="facts">{items}</dl>'


def _legend(items: Iterable[tuple[str, str]]) -> str:
    entries = "".join(f'<li><i class="{colour}"></i>{escape(name)}</li>' for colour, name in items)
    return f'<ul class="legend">{entries}</ul>'


def _notes(notes: Sequence[str]) -> str:
    return _caution("Please note", notes) if notes else ""


def _disturbed(texts: Sequence[str]) -> str:
    return _caution("These figures may be inaccurate", texts) if texts else ""


def _caution(heading: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines) if len(lines) > 1 else ""
    text = f"<ul>{items}</ul>" if items else f"<p>{escape(lines[0])}</p>"
    return f'<section class="caution" role="note"><h2>{escape(heading)}</h2>{text}</section>'


def _header(name: str, subtitle: str, created: str) -> str:
    when = escape(created.replace("T", " ").replace("+00:00", " UTC"))
    return f"<header><h1>{escape(name)}</h1><p>{escape(subtitle)} · {when}</p></header>"


def _section(heading: str, text: str, content: str) -> str:
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(heading)}</h2>{paragraph}{content}</section>"


def _footer(report: LatencyReport, command: str) -> str:
    return f"<footer>Measured by {command}, EdgeKit {escape(report.edgekit)}. Warm-up runs are not counted.</footer>"


def _page(page_title: str, body: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page_title)}</title>\n<style>\n{asset('page.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_build_report(folder: Path, reports: dict[str, LatencyReport], extra: dict[str, Any]) -> BuildReport:
    """Writes both files into ``folder`` and returns the report.

    Args:
        folder: the bundle, which must exist.
        reports: measurements by precision, the reference first: ``{"fp32": …, "int8": …}``.
        extra: further measurements; a name that ends in ``_s``, ``_ms`` or ``_bytes`` is shown with that unit.
    """
    report = build_report_from_measurements(reports, extra)
    (folder / BUILD_REPORT_FILE).write_bytes(json_from_report(report))
    (folder / "report.html").write_text(html_from_build(report), encoding="utf-8")
    return report
