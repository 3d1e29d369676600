"""Renders the report of a build: its engines beside each other, speed beside accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.measure.agreement import Accuracy, Agreement, ComparedPicture
from edgekit.measure.reports import (
    BUILD_REPORT_FILE,
    BuildReport,
    LatencyReport,
    build_report_from_measurements,
    json_from_report,
)
from edgekit.measure.slower_layers import RelativeSpeed
from edgekit.quantize.compare import OutputNoise
from edgekit.report.html.elements import (
    Bar,
    Card,
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
    verdict_box,
)
from edgekit.report.html.latency_charts import axis_note, distribution, time_line
from edgekit.report.html.layers import layers_section, roofline_section
from edgekit.report.html.page import (
    DISTRIBUTION_TEXT,
    RUNS_TEXT,
    engine_cards,
    latency_figures,
    latency_series,
    stages_section,
    statistics_table,
)
from edgekit.report.html.pictures import picture, pictures
from edgekit.report.wording import (
    bytes_in_words,
    decibels,
    disturbances_of,
    engine_rows,
    environment_rows,
    fact_rows,
    milliseconds,
    ratio,
    title,
    verdict,
)

__all__ = ["html_from_build", "write_build_report"]

BEST_DB = 60.0
"""Signal to noise at the right end of its bars; more is not visible in the results."""


def html_from_build(report: BuildReport, shown: Sequence[ComparedPicture] = ()) -> str:
    """Renders the report of a build.

    Args:
        report: the report.
        shown: pictures with the detections of the first and the last engine.
    """
    engines = report.engines
    names = [name.upper() for name in engines]
    last = list(engines.values())[-1]
    slower = report.speedup is not None and report.speedup < 1
    # The engine that was built has the strong colour, and another where it is slower than its reference.
    colours = ["one"] * (len(engines) - 1) + ["bad" if slower else "two"]
    series = [
        latency_series(engine, name, colour)
        for name, engine, colour in zip(names, engines.values(), colours, strict=True)
    ]
    disturbed = disturbances_of(report)
    body = [
        header(report.name, title(last), report.created),
        summary_bar(f"{report.name} {names[-1]}", latency_figures(last)),
        verdict_box(_sentence(report), [f"The machine: {verdict(last)}."], kind=_kind(report)),
        caution("Please note", report.notes),
        cards(_cards(report)),
        caution("These figures may be inaccurate", disturbed),
        _accuracy_section(report.accuracy, names, shown),
        section(
            "Distribution",
            f"{DISTRIBUTION_TEXT} {axis_note([one.samples_ms for one in series])}",
            both_widths(lambda width: distribution(series, width)),
        ),
        stages_section(dict(zip(names, engines.values(), strict=True))),
        *(
            section(f"All figures, {name}", "In ms; – where the runs do not support it.", statistics_table(engine))
            for name, engine in zip(names, engines.values(), strict=True)
        ),
        layers_section(last.layer_times, last.roofline),
        roofline_section(last.roofline),
        section(
            "Run by run",
            RUNS_TEXT,
            both_widths(lambda width: time_line(series, width)) + legend([(one.colour, one.name) for one in series]),
        ),
        section("The build", "", facts(fact_rows(report)), kind="long"),
        section("The engine", "", facts(engine_rows(last)), kind="long"),
        section("The machine", "", facts(environment_rows(last)), kind="long"),
        footer(f"Measured by edgekit build, EdgeKit {last.edgekit}. Warm-up runs are not counted."),
    ]
    return page(f"{report.name}: build report", body)


def _sentence(report: BuildReport) -> str:
    names, engines = [name.upper() for name in report.engines], list(report.engines.values())
    p50 = f"{milliseconds(engines[-1].latency_ms.p50)} ms"
    if report.speedup is None:
        return f"{names[-1]} takes {p50} (median)."
    before = f"{milliseconds(engines[0].latency_ms.p50)} ms"
    faster = report.speedup >= 1
    factor = f"is {report.speedup:.2f} × as fast as" if faster else f"takes {1 / report.speedup:.2f} × the time of"
    apart = "" if report.speed is None else " of each alone; the factor is that of runs by turns"
    text = f"{names[-1]} {factor} {names[0]} ({p50} against {before}, medians{apart})"
    if report.size_ratio is not None:
        sizes = [bytes_in_words(engine.engine_bytes) for engine in engines]
        text += f", {sizes[-1]} instead of {sizes[0]}"
    if report.accuracy is None or report.accuracy.agreement is None:
        return f"{text}."
    return f"{text}; {_agreement_in_words(report.accuracy.agreement, report.accuracy.reference)}."


def _kind(report: BuildReport) -> str:
    if report.speedup is None:
        return "plain"
    return "bad" if report.speedup < 1 else "unsure" if disturbances_of(report) else "good"


def _cards(report: BuildReport) -> list[Card]:
    engines = list(report.engines.values())
    found = engine_cards(engines[-1])
    if report.speedup is None:
        return found
    first = list(report.engines)[0].upper()
    faster = report.speedup >= 1
    speed = ratio(report.speedup if faster else 1 / report.speedup)
    below = f"{'as fast as' if faster else 'the time of'} {first}"
    compared = [Card("speed" if faster else "slower", speed, below, "good" if faster else "bad")]
    if report.size_ratio is not None:
        size = report.size_ratio
        words = f"smaller than {first}" if size >= 1 else f"larger than {first}"
        compared.append(Card("size", ratio(max(size, 1 / size)), words))
    if report.accuracy is not None and report.accuracy.agreement is not None:
        agreed = report.accuracy.agreement
        share = f"{100 * agreed.same / agreed.reference:.0f} %" if agreed.reference else "–"
        compared.append(Card("agreement", share, f"{agreed.same} of {agreed.reference}, with the original"))
    return [*compared, *(card for card in found if card.label != "peak memory")]


def _agreement_in_words(found: Agreement, reference: str) -> str:
    count = f"{found.inputs} calibration input{'' if found.inputs == 1 else 's'}"
    if found.kind == "top1":
        return f"the best class is that of {reference} in {found.same} of {count}"
    if not found.reference and not found.extra:
        return f"neither detects anything in {count}"
    overlap = f" (mean IoU {found.mean_iou:.2f})" if found.mean_iou is not None else ""
    more = f", and {found.extra} that {reference} does not find" if found.extra else ""
    return f"it finds {found.same} of the {found.reference} objects that {reference} finds in {count}{overlap}{more}"


def _accuracy_section(accuracy: Accuracy | None, names: Sequence[str], shown: Sequence[ComparedPicture]) -> str:
    if accuracy is None:
        return ""
    rows = [
        Bar(
            f"{each.output} {each.part}".strip(),
            ((decibels(each.sqnr_db), "pre" if each.part == "scores" else "two", min(each.sqnr_db, BEST_DB)),),
            decibels(each.sqnr_db),
        )
        for each in accuracy.noise
        if each.sqnr_db is not None and each.sqnr_db > 0
    ]
    lost = [
        (f"{each.output} {each.part}".strip(), _other_noise(each))
        for each in accuracy.noise
        if each.sqnr_db is None or each.sqnr_db <= 0
    ]
    text = f"Compared with the outputs of {accuracy.reference} on some of the calibration inputs."
    if accuracy.agreement is not None:
        words = _agreement_in_words(accuracy.agreement, accuracy.reference)
        text = f"{text} {names[-1]}: {words}."
        if accuracy.agreement.kind == "detections":
            text += " An object is the same if its class is, and the IoU of the boxes is 0.5 or more."
    content = f"<h3>Signal to quantization noise</h3>{bars(rows)}" if rows else ""
    content += facts(lost)
    figures = [
        picture(each.pixels, found, f"{name}: {len(found)} object{'' if len(found) == 1 else 's'}")
        for each in shown
        for name, found in (("original", each.reference), (names[-1], each.got))
    ]
    if figures:
        content += f"<h3>The original beside {names[-1]}</h3>{pictures(figures)}"
    return section("Accuracy", text, content or facts([("noise", "none: the outputs are equal")]), kind="long")


def _other_noise(noise: OutputNoise) -> str:
    """Describes an output without a ratio above zero: one of integers, or one that is lost."""
    if noise.sqnr_db is not None:
        return decibels(noise.sqnr_db)
    return "no signal" if noise.agreement is None else f"{100 * noise.agreement:.1f} % of the values are equal"


def write_build_report(
    folder: Path,
    reports: dict[str, LatencyReport],
    extra: dict[str, Any],
    accuracy: Accuracy | None = None,
    shown: Sequence[ComparedPicture] = (),
    speed: RelativeSpeed | None = None,
) -> BuildReport:
    """Writes both files into ``folder`` and returns the report.

    Args:
        folder: the bundle, which must exist.
        reports: measurements by precision, the reference first: ``{"fp32": …, "int8": …}``.
        extra: further measurements; a name that ends in ``_s``, ``_ms`` or ``_bytes`` is shown with that unit.
        accuracy: how far the last engine agrees with the first.
        shown: pictures for the page.
        speed: the speed of the last engine beside the first, if both were measured by turns.
    """
    report = build_report_from_measurements(reports, extra, accuracy, speed)
    (folder / BUILD_REPORT_FILE).write_bytes(json_from_report(report))
    (folder / "report.html").write_text(html_from_build(report, shown), encoding="utf-8")
    return report
