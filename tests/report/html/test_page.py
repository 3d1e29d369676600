from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from edgekit.measure.agreement import Accuracy, Agreement
from edgekit.measure.latency import Disturbance, statistics_ms
from edgekit.measure.reports import LatencyReport, build_report_from_measurements
from edgekit.report.html.build import html_from_build
from edgekit.report.html.charts import Curve, Line, Point, curves, intervals, scatter
from edgekit.report.html.elements import Bar, bars
from edgekit.report.html.latency_charts import Series, axis_note, distribution, time_line
from edgekit.report.html.page import html_from_report

MakeReport = Callable[..., LatencyReport]
VOID = {"meta", "img", "input", "wbr"}


class Strict(HTMLParser):
    """Fails on a tag that is not closed, or closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        links = [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.resources += [f"{tag} {value[:40]}" for value in links if not value.startswith("data:image/")]
        if tag in ("link", "iframe"):
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
    assert "<script>alert" not in page
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
    assert "disturbed: drift." in page
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
    assert "quiet" not in page


def test_a_build_page_has_the_speedup_and_the_facts(make_report: MakeReport) -> None:
    text = "".join(parsed(build_page(make_report)).text)
    assert "as fast as FP32" in text
    assert "largest export error" in text
    assert "2.3e-06" in text


@pytest.mark.parametrize(("extra", "rest"), [(0, ""), (1, ", and 1 that PyTorch does not find")])
def test_a_build_page_says_how_many_objects_are_found(make_report: MakeReport, extra: int, rest: str) -> None:
    agreement = Agreement(kind="detections", inputs=8, reference=9, same=7, extra=extra, mean_iou=0.99)
    accuracy = Accuracy(reference="PyTorch", noise=(), agreement=agreement)
    page = html_from_build(build_report_from_measurements({"int8": make_report()}, {}, accuracy))
    assert f"it finds 7 of the 9 objects that PyTorch finds in 8 calibration inputs (mean IoU 0.99){rest}." in page


def test_one_run_makes_a_page(make_report: MakeReport) -> None:
    assert parsed(html_from_report(make_report(runs=1))).text


def test_an_engine_without_stages_makes_a_page(make_report: MakeReport) -> None:
    samples = {"inference": [5.0] * 30}
    stages = {"inference": statistics_ms(samples["inference"])}
    page = html_from_report(make_report(task="tensor", samples_ms=samples, stages=stages, total_ms=None))
    assert "<h2>Stages</h2>" not in page
    parsed(page)


def counted(svg: str) -> int:
    return sum(int(count) for count in re.findall(r": (\d+) of \d+ runs", svg))


@pytest.mark.parametrize("width", [350, 720])
def test_a_distribution_counts_every_run_once(width: int) -> None:
    samples = (np.random.default_rng(0).gamma(2, 3, 500) + 10).tolist()
    assert counted(distribution([Series("x", "two", samples)], width)) == 500
    outlier = [10.0 + 0.01 * i for i in range(199)] + [500.0]
    assert counted(distribution([Series("x", "two", outlier), Series("y", "one", samples)], width)) == 700


def test_two_distributions_have_one_scale() -> None:
    svg = distribution([Series("a", "one", [10.0] * 50 + [20.0] * 50), Series("b", "two", [20.0] * 50)], 720)
    root = ElementTree.fromstring(svg)
    first, second = ([float(r.get("x", 0)) for r in group.iter("rect")] for group in root.findall("g")[1:])
    assert len(first) == 2 and first[1] == second[0]


def test_an_outlier_leaves_the_other_runs_their_room_and_the_page_says_so() -> None:
    samples = (0.05 * np.random.default_rng(0).lognormal(0, 0.08, 1000)).tolist() + [10.4]
    root = ElementTree.fromstring(distribution([Series("x", "two", samples)], 720))
    columns = [float(rect.get("x", 0)) for rect in root.iter("rect")]
    assert len(columns) > 15, "one outlier does not make a single column"
    assert columns[-1] > 560 > columns[-2], "it stands beyond the break"
    assert root.find(".//path[@class='break']") is not None
    assert "broken at 0.0" in axis_note([samples]) and "1 slower run is" in axis_note([samples])


def test_engines_that_are_far_apart_are_drawn_on_a_logarithmic_axis_that_says_so() -> None:
    both = [[0.05 + i / 1e4 for i in range(50)], [12 + i / 100 for i in range(50)]]
    assert axis_note(both) == "The axis is logarithmic."
    assert "ms, logarithmic" in distribution([Series("a", "one", both[0]), Series("b", "two", both[1])], 720)


@pytest.mark.parametrize("samples", [[1.0], [2.0] * 50, [1e-4, 2e-4], [1.0, 9e5]])
@pytest.mark.parametrize("width", [350, 720])
def test_charts_can_be_drawn_for_any_samples(samples: list[float], width: int) -> None:
    series = Series("x", "two", samples, (("p50", 1.0),))
    points = list(enumerate(samples))
    for svg in (
        distribution([series], width),
        time_line([series, series], width, steady_from=1),
        curves([Curve("x", "two", points)], width, x_label="x", y_label="y"),
        intervals([("x", samples[0], None, None, "two")], width),
        scatter(
            [Point(v, v, 4, "two", "t") for v in samples],
            [Line([(1.0, 2.0)], "l")],
            width,
            x_label="x",
            y_label="y",
            described="d",
        ),
    ):
        assert "nan" not in svg and "inf" not in svg
        ElementTree.fromstring(svg)


def test_time_line_draws_one_dot_per_run_in_order() -> None:
    svg = time_line([Series("x", "two", [1.0, 3.0, 2.0])], 720)
    dots = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", svg)]
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    # Down the page is faster.
    assert dots[0][1] > dots[2][1] > dots[1][1]


def test_the_slowest_of_very_many_runs_is_drawn() -> None:
    samples = [1.0] * 20_000
    samples[12_345] = 7.0
    svg = time_line([Series("x", "two", samples)], 720)
    assert svg.count("h0") <= 3000
    assert "run 12346: 7.00 ms" in svg


def test_bar_lengths_are_proportional_to_durations() -> None:
    drawn = bars([Bar("a", (("x", "one", 10.0), ("y", "two", 30.0)), "40"), Bar("b", (("x", "one", 20.0),), "20")])
    assert re.findall(r"width:([\d.]+)%", drawn) == ["100.00", "50.00"]
    assert re.findall(r"flex:([\d.]+)", drawn) == ["0.2500", "0.7500", "1.0000"]


def test_charts_have_text_alternatives(make_report: MakeReport) -> None:
    page = html_from_report(make_report())
    assert page.count("<svg") == page.count('role="img" aria-label="') > 2


def test_a_slower_engine_is_called_slower_and_has_the_colour_of_what_is_worse(make_report: MakeReport) -> None:
    reports = {"fp32": make_report("fp32", base_ms=20.0), "int8": make_report(base_ms=30.0)}
    page = html_from_build(build_report_from_measurements(reports, {}))
    assert "INT8 takes 1.50 × the time of FP32" in page
    assert 'class="verdict bad"' in page and '<div class="bad"><dt>slower</dt>' in page
    assert 'class="dots bad"' in page and 'class="dots two"' not in page


def test_layers_are_a_table_with_overhead_marked_and_totalled(full_report: MakeReport) -> None:
    report = full_report(layers=40)
    assert report.layer_times is not None
    page = html_from_report(report)
    overhead = [layer for layer in report.layer_times.layers if layer.overhead]
    assert page.count('data-words="converts types overhead"') == len(overhead)
    total = sum(layer.median_ms for layer in overhead)
    assert "overhead of quantization" in page and f"{total:.2f}" in page
    assert "a &lt;machine&gt; &amp; its peaks" in page
    parsed(page)
