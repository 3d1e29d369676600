from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from edgekit.measure.latency import Disturbance, statistics_ms
from edgekit.measure.reports import LatencyReport, build_report_from_measurements
from edgekit.report.html.build import html_from_build
from edgekit.report.html.charts import Bar, Series, bars, histogram, time_line
from edgekit.report.html.page import html_from_report

MakeReport = Callable[..., LatencyReport]
VOID = {"meta"}


class Strict(HTMLParser):
    """Fails on a tag that is not closed, or closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.resources += [f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "xlink:href")]
        if tag in ("script", "link", "img", "iframe"):
            self.resources.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        return None

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    return parser


def build_page(make_report: MakeReport, **changes: object) -> str:
    reports = {"fp32": make_report("fp32", base_ms=50.0, **changes), "int8": make_report(**changes)}
    return html_from_build(build_report_from_measurements(reports, {"export_error": 2.3e-6, "calibration_images": 32}))


def test_the_page_is_well_formed_and_needs_no_other_file(make_report: MakeReport) -> None:
    for page in (html_from_report(make_report()), build_page(make_report)):
        assert parsed(page).resources == []
        assert not re.search(r"@import|url\(", page)


def test_names_and_notes_are_escaped(make_report: MakeReport) -> None:
    page = html_from_report(make_report(name="<b>&x", notes=("<script>alert(1)</script>",), input_source='"<i>"'))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;&amp;x" in page
    parsed(page)


def test_every_statistic_of_every_stage_is_on_the_page(make_report: MakeReport) -> None:
    report = make_report()
    text = "".join(parsed(html_from_report(report)).text)
    assert all(stage in text for stage in (*report.stages, "total"))
    assert report.latency_ms.p99 is None, "200 runs support no p99"
    p90, p95, p99 = report.percentiles["inference"]
    assert p90.upper_ms and p95.upper_ms and f"{p95.upper_ms:.1f}" in text
    assert f"p99: {p99.missing_runs} more" in text or f"no p99: {p99.missing_runs} more runs are needed" in text


def test_notes_and_disturbances_are_on_the_page(make_report: MakeReport) -> None:
    disturbed = (Disturbance(kind="drift", text="The last third was slower."),)
    page = html_from_report(make_report(notes=("Random weights.",), disturbances=disturbed))
    assert page.count("Random weights.") == 1
    assert page.count("The last third was slower.") == 1
    assert "<dt>verdict</dt><dd>disturbed: drift</dd>" in page


def test_a_build_page_says_notes_once_and_which_engine_was_disturbed(make_report: MakeReport) -> None:
    disturbed = (Disturbance(kind="drift", text="The last third was slower."),)
    page = build_page(make_report, notes=("Random weights.",), disturbances=disturbed)
    assert page.count("Random weights.") == 1
    assert "FP32: The last third was slower." in page
    assert "INT8: The last third was slower." in page


def test_a_quiet_machine_is_reported_as_quiet(make_report: MakeReport) -> None:
    assert "<dt>verdict</dt><dd>quiet" in html_from_report(make_report(disturbances=()))


def test_a_report_that_did_not_record_the_machine_is_not_called_quiet(make_report: MakeReport) -> None:
    page = html_from_report(make_report(disturbances=(), conditions=None, percentiles={}))
    assert "the state of the machine was not recorded" in page
    assert "quiet" not in page.replace("A quiet machine gives a single narrow peak.", "")


def test_a_build_page_has_the_speedup_and_the_facts(make_report: MakeReport) -> None:
    text = "".join(parsed(build_page(make_report)).text)
    assert "as fast as FP32" in text
    assert "largest export error" in text
    assert "2.3e-06" in text


def test_one_run_makes_a_page(make_report: MakeReport) -> None:
    assert parsed(html_from_report(make_report(runs=1))).text


def test_an_engine_without_stages_makes_a_page(make_report: MakeReport) -> None:
    samples = {"inference": [5.0] * 30}
    stages = {"inference": statistics_ms(samples["inference"])}
    page = html_from_report(make_report(task="tensor", samples_ms=samples, stages=stages, total_ms=None))
    assert "<h2>Stages</h2>" not in page
    parsed(page)


def heights(svg: str) -> list[float]:
    return [float(rect.get("height", 0)) for rect in ElementTree.fromstring(svg).iter("rect")]


def test_histogram_counts_every_run_once() -> None:
    samples = np.random.default_rng(0).gamma(2, 3, 500) + 10
    svg = histogram(Series("x", "two", samples.tolist()))
    counted = [int(count) for count in re.findall(r": (\d+) of 500 runs", svg)]
    assert sum(counted) == 500
    assert max(heights(svg)) == pytest.approx(126, abs=0.1)


def test_histogram_counts_an_outlier_in_its_last_bin() -> None:
    samples = [10.0 + 0.01 * i for i in range(199)] + [500.0]
    svg = histogram(Series("x", "two", samples))
    assert sum(int(count) for count in re.findall(r": (\d+) of 200 runs", svg)) == 200
    assert "slowest 500 ms" in svg


@pytest.mark.parametrize("samples", [[1.0], [2.0] * 50, [1e-4, 2e-4], [1.0, 9e5]])
def test_charts_can_be_drawn_for_any_samples(samples: list[float]) -> None:
    series = Series("x", "two", samples)
    for svg in (
        histogram(series, [("p50", 1.0)]),
        time_line([series, series]),
        bars([Bar("x", (("a", "two", samples[0]),))]),
    ):
        assert "nan" not in svg
        ElementTree.fromstring(svg)


def test_time_line_draws_one_dot_per_run_in_order() -> None:
    root = ElementTree.fromstring(time_line([Series("x", "two", [1.0, 3.0, 2.0])]))
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in root.iter("circle")]
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    # Down the page is faster.
    assert dots[0][1] > dots[2][1] > dots[1][1]


def test_bar_lengths_are_proportional_to_durations() -> None:
    svg = bars([Bar("a", (("x", "one", 10.0), ("y", "two", 30.0))), Bar("b", (("x", "one", 20.0),))])
    widths = [float(rect.get("width", 0)) for rect in ElementTree.fromstring(svg).iter("rect")]
    assert widths[1] == pytest.approx(3 * widths[0], rel=1e-3)
    assert widths[2] == pytest.approx(2 * widths[0], rel=1e-3)


def test_charts_have_text_alternatives() -> None:
    svg = bars([Bar("int8", (("inference", "two", 24.9),))])
    assert ElementTree.fromstring(svg).get("aria-label") == "Median durations. int8: inference 24.9 ms."
