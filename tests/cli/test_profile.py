from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import BackendUnavailable
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
    assert "measuring ..." in captured.err
    assert "measuring ..." not in captured.out


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


@pytest.fixture
def elsewhere(tmp_path: Path, write_classifier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine for a GPU that is not here."""
    model = write_classifier(tmp_path / "net.onnx", shape=(1, 3, 32, 32))
    engine = edgekit.build(model, precision="fp32", target="cpu", output=tmp_path / "gpu", profile=False)
    manifest = read_manifest(engine)
    seal(engine, msgspec.structs.replace(manifest, backend="tensorrt-rtx", compute_capabilities=("8.6",)))

    def missing(self: object, compute_capabilities: object) -> None:
        raise BackendUnavailable("there is no GPU", hint="run it where there is one")

    monkeypatch.setattr("edgekit.engine.tensorrt.backend.TensorRt.require_device", missing)
    return engine


@pytest.mark.parametrize("columns", [80, 120])
def test_an_engine_that_cannot_run_here_is_estimated_and_marked_as_such(
    elsewhere: Path, tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    html, markdown, report = (tmp_path / name for name in ("r.html", "r.md", "r.json"))
    files = ["--html", str(html), "--markdown", str(markdown), "--json-file", str(report)]
    assert main(["profile", str(elsewhere), "--layers", *files]) == 0
    out = capsys.readouterr().out
    assert "estimate, not measured" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= columns
    content = json.loads(report.read_text())
    assert content["measured"] is False and content["reason"] == "there is no GPU"
    assert "latency_ms" not in content and "samples_ms" not in content
    assert "estimate, not measured" in markdown.read_text()
    page = html.read_text()
    assert (
        page.count("ot measured") >= 5
        and "median latency" not in page
        and "Medians of" not in page
        and "graph-view" in page
    )


def test_what_only_a_measurement_answers_is_an_error_without_the_gpu(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--runs", "5"], ["--claim", "p99"], ["--streams", "2"], ["--power"], ["--trace", "t.json"]):
        assert main(["profile", str(elsewhere), *option]) != 0, option
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and "estimate" not in said.out


def test_the_graph_in_the_page_is_that_of_inspect(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "net.onnx", shape=(1, 3, 32, 32))
    engine = edgekit.build(model, precision="fp32", output=tmp_path / "engine", profile=False)
    page, graph = tmp_path / "page.html", tmp_path / "graph.html"
    assert main(["profile", str(engine), "--runs", "20", "--layers", "--html", str(page)]) == 0
    assert main(["inspect", str(engine), "--graph", str(graph)]) == 0
    assert page.read_text().count('data-do="all"') == graph.read_text().count('data-do="all"') == 1
    assert page.read_text().count('class="card"') == graph.read_text().count('class="card"') > 3
