from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgekit.measure.latency import Disturbance
from edgekit.measure.relative import Ratio
from edgekit.measure.reports import LatencyReport, build_report_from_measurements
from edgekit.measure.slower_layers import RelativeSpeed
from edgekit.report.terminal import terminal_from_build, terminal_from_report
from edgekit.report.wording import bytes_in_words, milliseconds, rate

MakeReport = Callable[..., LatencyReport]


def printed(renderable: object, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("base_ms", [0.02, 25.0, 4321.0])
def test_no_figure_is_cut_off(make_report: MakeReport, width: int, base_ms: float) -> None:
    out = printed(terminal_from_report(make_report(base_ms=base_ms)), width)
    assert "…" not in out
    assert max(cell_len(line) for line in out.splitlines()) <= width
    assert out.count(milliseconds(make_report(base_ms=base_ms).latency_ms.max)) >= 1


def test_both_engines_and_the_gain_are_shown(make_report: MakeReport) -> None:
    reports = {"fp32": make_report("fp32", base_ms=50.0), "int8": make_report(base_ms=20.0)}
    out = printed(terminal_from_build(build_report_from_measurements(reports, {"export_error": 2.3e-6})))
    assert "FP32" in out
    assert "INT8" in out
    assert "2.50 ×" in out
    assert "largest export error" in out


def test_the_gain_of_runs_by_turns_stands_in_a_row_of_its_own(make_report: MakeReport) -> None:
    reports = {"fp32": make_report("fp32", base_ms=18.0), "int8": make_report(base_ms=20.0)}
    speed = RelativeSpeed(ratio=Ratio(value=0.5), precision="int8", reference="fp32")
    out = printed(terminal_from_build(build_report_from_measurements(reports, {}, None, speed)))
    median, by_turns = (next(line for line in out.splitlines() if name in line) for name in ("median", "by turns"))
    assert median.split()[-1] == "ms" and by_turns.split()[-2:] == ["2.00", "×"]


def test_one_engine_has_no_gain(make_report: MakeReport) -> None:
    out = printed(terminal_from_build(build_report_from_measurements({"fp32": make_report("fp32")}, {})))
    assert "gain" not in out


def test_notes_are_shown_once_and_disturbances_by_engine(make_report: MakeReport) -> None:
    caution = {"notes": ("Random weights.",), "disturbances": (Disturbance(kind="drift", text="It got slower."),)}
    reports = {"fp32": make_report("fp32", **caution), "int8": make_report(**caution)}
    out = printed(terminal_from_build(build_report_from_measurements(reports, {})))
    assert out.count("Random weights.") == 1
    assert "FP32: It got slower." in out
    assert "INT8: It got slower." in out


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.012"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (4321, "4321")],
)
def test_milliseconds_have_three_digits(value: float, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (8_852_366, "8.9 MB"),
        (248_007_048, "248 MB"),
        (25.28e9, "25.28 GB"),
    ],
)
def test_bytes_are_counted_in_powers_of_1000(value: int, text: str) -> None:
    assert bytes_in_words(value) == text


def test_rates_have_a_unit() -> None:
    assert rate(39.84, "images") == "39.8 images/s"
    assert rate(12345.6, "inputs") == "12,346 inputs/s"
