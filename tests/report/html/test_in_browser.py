"""Pages in headless Chromium: what is seen, and what happens on a click."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium

from edgekit.evaluation.evaluate import Evaluation
from edgekit.evaluation.evaluators.base import ClassFigure, Details
from edgekit.measure.agreement import Accuracy, Agreement, ComparedPicture, OutputNoise
from edgekit.measure.confidence import percentile_bounds
from edgekit.measure.engine_estimate import EngineEstimate, EstimatedLayer
from edgekit.measure.estimate import estimate_from_layers
from edgekit.measure.fused_layers import fused_layers
from edgekit.measure.inspection import Inspection, LayerRow
from edgekit.measure.latency import statistics_ms
from edgekit.measure.relative import ChangedLayer, Compared, CompareReport, Ratio
from edgekit.measure.reports import LatencyReport, build_report_from_measurements
from edgekit.report.drawing.contents import drawing_from_inspection
from edgekit.report.drawing.page import part_from_drawing
from edgekit.report.html.build import html_from_build
from edgekit.report.html.compare import html_from_comparison
from edgekit.report.html.engine_estimate import html_from_engine_estimate
from edgekit.report.html.evaluation import html_from_evaluations
from edgekit.report.html.page import html_from_report
from edgekit.report.html.training import html_from_epochs
from edgekit.runtime.detections import Detections
from edgekit.specs import TensorSpec

pytestmark = needs_chromium

MakeReport = Callable[..., LatencyReport]

OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
CHARTS = """
[...document.querySelectorAll("svg:not(.edges)")].filter((svg) => svg.getClientRects().length).map((svg) =>
  [...svg.querySelectorAll("text")].map((text) => {
    const box = text.getBoundingClientRect(), scale = text.getScreenCTM().a;
    return { text: text.textContent, size: scale * parseFloat(getComputedStyle(text).fontSize),
             box: [box.left, box.top, box.right, box.bottom], out: box.left < -1 || box.right > innerWidth + 1 };
  }))
"""
# Tables that are cut at the right; only those that sort, and matrices, may scroll.
CUT = """
[...document.querySelectorAll(".scroll")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1 && !e.querySelector(".sorts, .matrix"))
  .map((e) => [e.getAttribute("aria-label"), e.scrollWidth, e.clientWidth])
"""
# Every element that holds text of its own; those of one row of a table must not overlap.
CELLS = """
[...document.querySelectorAll("tr, .hbar, .bar-top, .tools, .figures div")].filter((e) => e.getClientRects().length)
  .map((row) => [...row.children].filter((e) => e.getClientRects().length && e.textContent.trim()).map((e) => {
    const range = document.createRange(); range.selectNodeContents(e);
    const box = range.getBoundingClientRect(), own = e.getBoundingClientRect();
    const right = getComputedStyle(e).overflow === "visible" ? box.right : Math.min(box.right, own.right);
    return { text: e.textContent, box: [box.left, box.top, right, box.bottom] };
  }))
"""


def compared(name: str, base_ms: float, ratio: Ratio | None) -> Compared:
    random = np.random.default_rng(0)
    rounds = tuple(tuple((base_ms * (1 + 0.02 * random.gamma(2, 1, 30))).tolist()) for _ in range(6))
    samples = [value for each in rounds for value in each]
    return Compared(
        name=name, path=name, kind="engine", precision="int8", backend="cpu", backend_version="1", size_bytes=10**7,
        peak_bytes=10**8, engine_bytes=10**7, latency_ms=statistics_ms(samples),
        percentiles=percentile_bounds(samples), rounds_ms=rounds, ratios={"p50": ratio} if ratio else {},
    )  # fmt: skip


def comparison(ratio: Ratio) -> CompareReport:
    return CompareReport(
        edgekit="1", created="2026-01-02T03:04:05+00:00", interleaved=True, rounds=6, threads=0,
        contenders=(compared("before", 20.0, None), compared("after", 20.0 * ratio.value, ratio)),
        sentences=("after and before.",),
        layers=(ChangedLayer(contender="after", name="backbone.stage3", before_ms=3.0, after_ms=5.0),),
    )  # fmt: skip


def evaluation(precision: str) -> Evaluation:
    return Evaluation(
        name="net", task="classify", precision=precision, backend="cpu", backend_version="1", data="digits",
        split="test", examples=100, skipped=(), figures={"accuracy": 0.97, "top5": 1.0},
        per_class=tuple(ClassFigure(label=f"class {i}", count=10, value=0.9 + i / 100) for i in range(10)),
        examples_per_s=123.4, score_threshold=None, notes=(),
        details=Details(
            labels=tuple(f"class {i}" for i in range(10)),
            confusion=tuple((i, j, 9 if i == j else 1) for i in range(10) for j in (i, (i + 1) % 10)),
            curves={"IoU 0.50": tuple(1 - (i / 100) ** 4 for i in range(101))},
        ),
    )  # fmt: skip


def deep_net() -> Inspection:
    """Ten blocks of three layers each, one after the other."""
    rows = []
    for index in range(30):
        rows.append(
            LayerRow(
                name=f"backbone.stage{index // 3}.layer{index}",
                operator="Conv" if index % 3 else "Concat",
                output_shape=(1, 64, 32, 32),
                precision="int8",
                parameters=1000,
                macs=10**6,
                weight_bytes=1000,
                activation_bytes=10**5,
                reads=(f"v{index}",),
                writes=(f"v{index + 1}",),
                write_bytes=(65536,),
            )
        )
    return Inspection(
        name="net", parameters=30_000, macs=30 * 10**6, weight_bytes=30_000, activation_bytes=3 * 10**6, intensity=20.0,
        assumed_sizes={}, precision_from="graph", inputs=(TensorSpec("v0", "float32", (1, 64, 32, 32)),),
        outputs=(TensorSpec("v30", "float32", (1, 64, 32, 32)),), layers=tuple(rows),
    )  # fmt: skip


def estimate() -> EngineEstimate:
    """An engine on a board with published latencies: each layer has a bound and an estimate."""
    fused = fused_layers(deep_net())
    made = estimate_from_layers(fused, "orin-nano", name="net", precision="as built", inputs=("v0",))
    layers = tuple(
        EstimatedLayer(
            name=layer.name, operator=layer.operator, precision="int8", nodes=layer.layers, module=layer.name,
            output=(1, 64, 32, 32), macs=layer.macs, weight_bytes=layer.weight_bytes,
            activation_bytes=layer.activation_bytes, bound="memory", bound_ms=1e-3, estimate_ms=time_ms, share=0.05,
        )
        for layer, time_ms in zip(fused, made.layer_ms, strict=True)
    )  # fmt: skip
    return EngineEstimate(
        reason="there is no GPU", name="net", task="tensor", precision="int8", layer_counts={"int8": 20},
        backend="tensorrt-rtx", backend_version="1.7", compute_capabilities=("8.6", "8.9"), edgekit="1",
        created="2026-01-02T03:04:05+00:00", inputs=(), shapes={}, engine_bytes=10**6, layers_from="graph",
        layers=layers, estimate=made, notes=("A note.",),
    )  # fmt: skip


@pytest.fixture
def pages(full_report: MakeReport, make_report: MakeReport) -> dict[str, str]:
    """One page of each kind, with all its parts, long names, and an outlier far away."""
    report = full_report(name="a-model-with-quite-a-long-name-of-its-own")
    slow = [*report.samples_ms["inference"][:-1], 900.0]
    report = full_report(samples_ms={**report.samples_ms, "inference": slow}, name=report.name)
    box = Detections(np.array([[5, 5, 40, 30]], np.float32), np.array([0.9], np.float32), np.array([0]), ("dog",))
    picture = ComparedPicture(np.full((48, 64, 3), 120, np.uint8), box, box)
    accuracy = Accuracy(
        noise=tuple(OutputNoise(output="head", part=part, sqnr_db=25.0) for part in ("boxes", "scores")),
        agreement=Agreement(kind="detections", inputs=4, reference=9, same=8, extra=1, mean_iou=0.95),
    )
    reports = {"fp32": make_report("fp32", base_ms=50.0), "int8": make_report()}
    epochs = [
        SimpleNamespace(
            epoch=i, lr=0.1 / i, loss=3 / i, test_loss=3.3 / i, figures={"accuracy": 1 - 0.5 / i}, seconds=9
        )
        for i in range(1, 13)
    ]
    return {
        "profile": html_from_report(report),
        "build": html_from_build(build_report_from_measurements(reports, {"build_s": 3.0}, accuracy), [picture]),
        "estimate": html_from_engine_estimate(estimate(), part_from_drawing(drawing_from_inspection(deep_net()))),
        "compare": html_from_comparison(comparison(Ratio(value=1.3, low=1.2, high=1.4))),
        "eval": html_from_evaluations([evaluation("fp32"), evaluation("int8")], ["FP32", "INT8"], []),  # type: ignore[arg-type]
        "train": html_from_epochs(epochs, "net on digits", "net.safetensors"),
    }


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Callable[..., Tab]:
    def open_page(page: str, width: int = 1280, **options: Any) -> Tab:
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        return browser.open(file, width, **options)

    return open_page


def overlapping(groups: list[list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """Returns pairs of texts whose boxes overlap by more than a hair."""
    return [
        (a["text"], b["text"])
        for group in groups
        for a, b in combinations(group, 2)
        if min(a["box"][2], b["box"][2]) - max(a["box"][0], b["box"][0]) > 1
        and min(a["box"][3], b["box"][3]) - max(a["box"][1], b["box"][1]) > 3
    ]


@pytest.mark.parametrize("kind", ["profile", "build", "estimate", "compare", "eval", "train"])
def test_a_page_reads_well_at_every_width(pages: dict[str, str], opened: Callable[..., Tab], kind: str) -> None:
    tab = opened(pages[kind])
    for media, width in (("screen", 400), ("screen", 700), ("screen", 1280), ("print", 718)):
        tab.media(media, "dark" if width == 700 else "light")
        tab.resize(width)
        where = f"{kind}, {media} of {width} px"
        assert tab.run(OVERFLOW) <= 0, where
        charts = tab.run(CHARTS)
        assert charts and all(charts), where
        small = [text for chart in charts for text in chart if text["size"] < 11]
        assert not small, (where, small)
        assert not [text for chart in charts for text in chart if text["out"]], where
        assert overlapping(charts) == [], where
        assert overlapping(tab.run(CELLS)) == [], where
        assert tab.run("document.querySelector('.bar-top').getBoundingClientRect().right <= innerWidth"), where
        assert tab.run(CUT) == [], where
    assert tab.complaints() == []


def test_p50_and_p99_stay_in_sight_on_a_phone(pages: dict[str, str], opened: Callable[..., Tab]) -> None:
    tab = opened(pages["profile"], 400)
    for place in (0, 1000, 4000):
        tab.run(f"scrollTo(0, {place})")
        top, bottom, text = tab.run(
            "(() => { const e = document.querySelector('.bar-top'), b = e.getBoundingClientRect();"
            " return [b.top, b.bottom, e.textContent]; })()"
        )
        assert 0 <= top < bottom <= 900
        assert "p50" in text and "p99" in text


def rows(tab: Tab, column: int) -> list[str]:
    return list(
        tab.run(f"[...document.querySelectorAll('.layers tbody tr')].map((row) => row.cells[{column}].textContent)")
    )


def test_a_click_on_a_heading_sorts_both_ways_and_back(pages: dict[str, str], opened: Callable[..., Tab]) -> None:
    tab = opened(pages["profile"])
    original = rows(tab, 4)
    times = sorted(map(float, original))
    tab.click(".layers .c-ms")
    assert [float(each) for each in rows(tab, 4)] == times[::-1]
    tab.click(".layers .c-ms")
    assert [float(each) for each in rows(tab, 4)] == times
    tab.click(".layers .c-ms")
    assert rows(tab, 4) == original
    assert tab.complaints() == []


def test_the_filter_shows_matching_layers_and_their_sum(pages: dict[str, str], opened: Callable[..., Tab]) -> None:
    tab = opened(pages["profile"])
    tab.click(".tools input")
    tab.type("overhead")
    assert set(rows(tab, 1)) == {"QuantizeLinear"}
    shown = tab.run("document.querySelector('.tools output').textContent")
    assert shown.startswith(f"{len(rows(tab, 1))} of 40 layers, ")
    total = sum(float(each) for each in rows(tab, 4))
    assert float(re.search(r"layers, ([\d.]+) ms", shown)[1]) == pytest.approx(total, abs=0.06)  # type: ignore[index]


def test_layers_fold_into_modules_whose_times_add_up(pages: dict[str, str], opened: Callable[..., Tab]) -> None:
    tab = opened(pages["profile"])
    every = [float(each) for each in rows(tab, 4)]
    tab.click("[data-group=module]")
    groups = rows(tab, 4)
    assert 1 < len(groups) < 10
    assert sum(map(float, groups)) == pytest.approx(sum(every), abs=0.3)
    members = int(re.search(r"\((\d+)\)", rows(tab, 0)[0])[1])  # type: ignore[index]
    tab.click(".layers tr.group button")
    assert len(rows(tab, 4)) == len(groups) + members
    tab.click("[data-group='']")
    assert [float(each) for each in rows(tab, 4)] == every


def test_a_layer_of_the_roofline_tells_its_facts_under_the_pointer(
    pages: dict[str, str], opened: Callable[..., Tab]
) -> None:
    tab = opened(pages["profile"])
    tab.mouse("mouseMoved", *tab.middle("circle.layer", 39 - 6))
    told = tab.run("document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').textContent")
    assert told.startswith("backbone.stage")
    assert "% of its bound" in told and "operations per byte" in told
    tab.mouse("mouseMoved", 2, 2)
    assert tab.run("document.querySelector('#tip').hidden")


def test_without_scripts_everything_is_readable_and_nothing_can_be_pressed(
    pages: dict[str, str], browser: Browser, opened: Callable[..., Tab]
) -> None:
    page = re.sub(r"<script>.*</script>", "", pages["profile"], flags=re.DOTALL)
    tab = opened(page)
    assert len(rows(tab, 4)) == 40
    assert (
        tab.run("[...document.querySelectorAll('button, input')].filter((e) => e.getClientRects().length).length") == 0
    )


def test_a_printed_page_has_no_buttons_and_keeps_colours(pages: dict[str, str], opened: Callable[..., Tab]) -> None:
    tab = opened(pages["build"])
    tab.media("print")
    shown = "[...document.querySelectorAll('button, input, #tip')].filter((e) => e.getClientRects().length).length"
    assert tab.run(shown) == 0
    assert tab.run("getComputedStyle(document.querySelector('.legend i')).printColorAdjust") == "exact"
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", tab.pdf())) <= 6


def test_what_is_slower_is_not_in_the_colour_of_the_winner(opened: Callable[..., Tab]) -> None:
    colours = {}
    for name, ratio in {
        "faster": Ratio(value=0.7, low=0.6, high=0.8),
        "slower": Ratio(value=1.3, low=1.2, high=1.4),
        "undecided": Ratio(value=1.0, low=0.9, high=1.1),
    }.items():
        tab = opened(html_from_comparison(comparison(ratio)))
        colours[name] = tab.run("getComputedStyle(document.querySelector('.verdict')).borderLeftColor")
        colours[f"{name} runs"] = tab.run("getComputedStyle(document.querySelectorAll('svg g:has(rect)')[1]).fill")
    assert len(set(colours.values())) == len(colours) - 2, "only faster and slower have one colour for both"
    assert colours["faster"] == colours["faster runs"] and colours["slower"] == colours["slower runs"]


def test_the_graph_in_a_page_zooms_fits_and_searches_and_the_wheel_scrolls_the_page(
    pages: dict[str, str], opened: Callable[..., Tab]
) -> None:
    tab = opened(pages["estimate"])
    view = "(() => { const b = document.querySelector('.view').getBoundingClientRect(); return [b.x, b.width]; })()"
    at = tab.middle(".graph")
    before, top = tab.run(view), tab.run("scrollY")
    tab.mouse("mouseWheel", *at, deltaX=0, deltaY=100)
    tab.run("new Promise((done) => setTimeout(done, 300))")
    assert tab.run("scrollY") > top
    tab.mouse("mouseWheel", *tab.middle(".graph"), deltaX=0, deltaY=-120, modifiers=2)  # with Ctrl
    assert tab.run(view)[1] > before[1]
    tab.click("[data-do=fit]")
    assert tab.run(view)[1] <= tab.run("document.querySelector('.graph').clientWidth")
    tab.click(".graph-view [type=search]")
    tab.type("stage7 layer22")
    tab.press("Enter", 13)
    assert "stage7" in tab.run("document.querySelector('.graph-facts').textContent")
    assert tab.run("document.querySelector('.graph-view .tools output').textContent").startswith("1 of ")
    tab.click("[data-do=all]")
    assert tab.run("document.querySelectorAll('details:not([open])').length") == 0
    assert tab.complaints() == []


@pytest.mark.slow
def test_a_page_of_many_layers_opens_in_a_second(full_report: MakeReport, opened: Callable[..., Tab]) -> None:
    tab = opened(html_from_report(full_report(layers=300, runs=2000)))
    assert tab.run("performance.getEntriesByType('navigation')[0].loadEventEnd") < 1000
