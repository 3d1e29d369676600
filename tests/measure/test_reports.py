from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import DataError
from edgekit.measure.relative import Ratio
from edgekit.measure.reports import (
    LatencyReport,
    build_report_from_bundle,
    build_report_from_measurements,
    json_from_report,
)
from edgekit.measure.slower_layers import RelativeSpeed
from edgekit.report.html.build import html_from_build, write_build_report

MakeReport = Callable[..., LatencyReport]


def test_json_holds_the_statistics_by_their_names(make_report: MakeReport) -> None:
    content = json.loads(json_from_report(make_report()))
    assert list(content["latency_ms"]) == ["mean", "std", "min", "p50", "p90", "p95", "p99", "max"]
    assert list(content["stages"]["preprocess"]) == list(content["latency_ms"])
    assert len(content["samples_ms"]["inference"]) == 200


def test_a_build_compares_its_last_engine_with_its_first(make_report: MakeReport) -> None:
    fp32, int8 = make_report("fp32", base_ms=50.0), make_report("int8", base_ms=20.0)
    report = build_report_from_measurements({"fp32": fp32, "int8": int8}, {})
    assert report.speedup == pytest.approx(2.5)
    assert report.size_ratio == pytest.approx(2.5)


def test_a_gain_is_that_of_runs_by_turns_if_there_are_such(make_report: MakeReport) -> None:
    reports = {"fp32": make_report("fp32", base_ms=18.0), "int8": make_report("int8", base_ms=20.0)}
    speed = RelativeSpeed(ratio=Ratio(value=0.5, low=0.48, high=0.52), precision="int8", reference="fp32")
    report = build_report_from_measurements(reports, {}, None, speed)
    assert report.speedup == pytest.approx(2)
    page = html_from_build(report)
    assert "2.00 × as fast as" in page and "the factor is that of runs by turns" in page


def test_a_build_of_one_engine_compares_nothing(make_report: MakeReport) -> None:
    report = build_report_from_measurements({"fp32": make_report("fp32")}, {})
    assert report.speedup is None
    assert report.size_ratio is None


def test_notes_of_both_engines_are_kept_once(make_report: MakeReport) -> None:
    reports = {"fp32": make_report("fp32", notes=("a", "b")), "int8": make_report(notes=("b", "c"))}
    assert build_report_from_measurements(reports, {}).notes == ("a", "b", "c")


def test_error_on_a_build_without_measurements() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build_report_from_measurements({}, {})


def test_what_a_build_writes_is_read_back(make_report: MakeReport, tmp_path: Path) -> None:
    reports = {"fp32": make_report("fp32", base_ms=50.0), "int8": make_report()}
    written = write_build_report(tmp_path, reports, {"export_error": 2e-6, "stages_s": {"export": 6.1}})
    assert build_report_from_bundle(tmp_path) == written
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_bundle_without_a_report_has_none(tmp_path: Path) -> None:
    assert build_report_from_bundle(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1', b"[]"])
def test_error_on_a_report_that_is_not_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match=r"report\.json"):
        build_report_from_bundle(tmp_path)
