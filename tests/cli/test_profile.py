from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.specs import ShapeRange, TensorSpec


def test_json_and_html_are_written_and_the_table_is_printed(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, report = tmp_path / "a" / "report.html", tmp_path / "report.json"
    assert main(["profile", str(detector), "--runs", "20", "--html", str(html), "--json-file", str(report)]) == 0
    content = json.loads(report.read_text())
    assert list(content["latency_ms"]) == ["mean", "std", "min", "p50", "p90", "p95", "p99", "max"]
    assert content["runs"] == 20
    assert content["notes"] == ["The weights are random: latency is real, detections are not."]
    assert "The weights are random" in html.read_text()
    out = capsys.readouterr().out
    assert all(word in out for word in ("preprocess", "inference", "postprocess", "total", "please note"))


def test_progress_is_on_standard_error_alone(arrays_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(arrays_engine), "--runs", "20"]) == 0
    captured = capsys.readouterr()
    assert "Measure ..." in captured.err
    assert "Measure ..." not in captured.out


def test_error_on_a_report_that_cannot_be_written(
    arrays_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(arrays_engine), "--runs", "1", "--json-file", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--runs", "x"], ["--duration", "-1"], ["--warmup", "-1"]])
def test_error_on_lengths_out_of_range(
    arrays_engine: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(arrays_engine), *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_measured_size_must_be_in_the_range(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = TensorSpec("x", "float32", (1, "w")), TensorSpec("y", "float32", (1,))
    shapes = {"x": ShapeRange((1, 8), (1, 16), (1, 64))}
    wide = str(make_bundle("wide", kind={"inputs": (x,), "outputs": (y,), "task": "tensor"}, shapes=shapes))
    report = tmp_path / "report.json"
    assert main(["profile", wide, "--runs", "1", "--input", "x:1x64", "--json-file", str(report)]) == 0
    assert json.loads(report.read_text())["inputs"][0]["shape"] == [1, 64]
    assert "x: float32 (1, 8:16:64)" in capsys.readouterr().out
    assert main(["profile", wide, "--runs", "1", "--input", "x:1x65"]) == 2
    assert main(["profile", wide, "--runs", "1", "--input", "x:1x8:16:64"]) == 2
    assert "expected one size per dimension, got a range" in capsys.readouterr().err


def test_error_on_an_engine_that_was_changed(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (detector / "engine.json").write_bytes((detector / "engine.json").read_bytes().replace(b"head", b"haed"))
    assert main(["profile", str(detector)]) == 1
    assert "hint: rebuild it: edgekit build" in capsys.readouterr().err


def test_a_percentile_is_claimed_or_the_missing_runs_are_named(
    arrays_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(arrays_engine), "--runs", "20"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no p90:" in out and "more runs are needed (20 runs" in out
    assert "--claim p99" in out
    assert main(["profile", str(arrays_engine), "--claim", "p50", "--duration", "20"]) == 0
    assert "p50 <=" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--claim", "99"], ["--claim", "p0"], ["--claim", "p100"], ["--streams", "x"]])
def test_error_on_what_is_no_percentile_or_number_of_streams(
    arrays_engine: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(arrays_engine), *wrong]) == 2
    assert "expected a" in capsys.readouterr().err


def test_markdown_has_the_percentiles_the_machine_and_the_warnings(detector: Path, tmp_path: Path) -> None:
    assert main(["profile", str(detector), "--runs", "20", "--markdown", str(tmp_path / "summary.md")]) == 0
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("### detector: FP32 on null")
    assert (
        "| ms | p50 | p90 ≤ | p95 ≤ | p99 ≤ | max |\n| --- | ---: | ---: | ---: | ---: | ---: |\n| preprocess |" in text
    )
    assert "- verdict: " in text
    assert "> The weights are random: latency is real, detections are not." in text


def test_layers_and_a_time_line_of_a_real_engine(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    graph = write_classifier(tmp_path / "net.onnx")
    engine, trace, report = tmp_path / "engine", tmp_path / "trace.json", tmp_path / "report.json"
    build = ["build", str(graph), "--fp32", "--target", "cpu", "--no-profile", "-o", str(engine)]
    assert main(build) == 0
    capsys.readouterr()
    assert main(["profile", str(engine), "--runs", "5", "--trace", str(trace), "--json-file", str(report)]) == 0
    printed = capsys.readouterr()
    assert all(words in printed.out for words in ("sum of layers", "end to end", "operator"))
    assert f"wrote {trace}" in printed.err
    content = json.loads(report.read_text())["layer_times"]
    assert content["runs"] == 5 and sum(layer["macs"] > 0 for layer in content["layers"]) == 4
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"run 1", "run 5", "inference"} <= names


def test_error_for_layers_of_a_backend_that_does_not_time_them(
    arrays_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(arrays_engine), "--runs", "1", "--layers"]) == 1
    assert "expected a backend that reports the times of layers, got 'null'" in capsys.readouterr().err
