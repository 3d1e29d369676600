from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.measure import peaks
from edgekit.measure.machine import this_machine
from edgekit.measure.peaks import BandwidthPeak, ComputePeak, MachinePeaks
from edgekit.measure.theoretical_peaks import TheoreticalPeak


@pytest.fixture
def classifier(tmp_path: Path, write_classifier: Callable[..., Path]) -> Path:
    return write_classifier(tmp_path / "net.onnx", shape=(1, 3, 256, 256))


@pytest.fixture
def known_peaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MachinePeaks:
    """Peaks of this machine that are not measured: 1 GMAC/s in FP32, 4 GMAC/s in INT8, and 1 GB/s."""
    found = MachinePeaks(
        fingerprint="f",
        machine=this_machine(),
        backends={"cpu": "1.32.0"},
        created="2026-01-01T00:00:00+00:00",
        seconds=5.0,
        compute=tuple(
            ComputePeak(precision=precision, threads=1, macs_per_s=rate, backend="cpu", kernel="convolution")
            for precision, rate in (("float32", 1e9), ("int8", 4e9))
        ),
        bandwidth=(BandwidthPeak(working_set_bytes=1024, threads=1, bytes_per_s=1e9, kernel="copy"),),
        theoretical=(
            TheoreticalPeak(precision="int8", instructions="AVX-VNNI", macs_per_s=9e9, formula="1 core x 1 MHz"),
        ),
        disturbance="Other processes kept 1.0 of 2 processors busy during the measurement.",
    )
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(peaks, "_measured", lambda progress: found)
    return found


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_and_shows_bound_estimate_and_how_it_was_checked(
    columns: int, classifier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["estimate", str(classifier), "--int8", "--board", "orin-nano"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    for text in ("lower bound", "estimate", "error bar (80 %)", "left out", "worst", "Jetson Orin Nano 8 GB", "INT8"):
        assert text in out
    assert "published latencies of 11 models" in " ".join(out.split())


def test_json_has_the_same_and_the_addresses_of_its_sources(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(classifier), "--fp16", "--board", "orin-nano", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["precision"], found["board"]) == ("fp16", "orin-nano")
    assert found["macs"] == edgekit.inspect(classifier).macs
    assert found["roofline"]["bound_ms"] <= found["low_ms"] < found["latency_ms"] < found["high_ms"]
    assert sum(found["layer_ms"]) == pytest.approx(found["latency_ms"])
    assert all(source["url"].startswith("https://") for source in found["sources"])
    assert {pair["model"] for pair in found["efficiency"]["held_out"]} >= {"resnet50", "yolo11x", "yolov8n"}
    # FP16: 10.24 TFLOPS dense are 5.12 TMAC/s.
    first = found["roofline"]["points"][0]
    assert first["bound_ms"] == pytest.approx(1e3 * first["macs"] / 5.12e12)


def test_a_board_with_few_published_latencies_shows_the_bound_alone_and_says_so(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(classifier), "--board", "rtx-4090"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "none: 3 latencies of such boards are published, 20 are needed" in out
    assert "lower bound" in out
    assert "error bar" not in out


def test_an_engine_is_estimated_in_the_precisions_that_it_has(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = edgekit.build(classifier, target="null", calib_images=2, profile=False, output=tmp_path / "engine")
    assert main(["estimate", str(engine), "--board", "orin-nano", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["precision"] == "as built"
    assert {point["precision"] for point in found["roofline"]["points"] if point["macs"]} == {"int8"}
    assert read_manifest(engine).precision == "int8"


def test_this_machine_has_its_measured_peaks(
    classifier: Path, known_peaks: MachinePeaks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(classifier), "--fp32", "--board", "this-machine", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["roofline"]["peaks"]["kind"] == "measured"
    assert found["latency_ms"] is None
    point = found["roofline"]["points"][0]
    assert point["bound_ms"] == pytest.approx(max(point["macs"] / 1e6, point["bytes"] / 1e6))


def test_boards_are_listed_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["estimate", "--boards", "--json", "--json-file", str(tmp_path / "boards.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["boards"]["orin-nano"]["class"] == "jetson-orin"
    assert json.loads((tmp_path / "boards.json").read_bytes()) == printed


def test_boards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--boards"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("orin-nano-super", "GeForce RTX 5090", "agx-thor"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "orin-nano"], "missing argument 'MODEL'"),
        (["lenet"], "missing option '--board'"),
        (["lenet", "--board", "orin-nono"], "did you mean orin-nano"),
        (["lenet", "--int8", "--board", "agx-thor"], "expected a precision with a published rate"),
    ],
)
def test_error_on_a_missing_or_wrong_argument(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_doctor_shows_the_peaks_with_their_origin(
    known_peaks: MachinePeaks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--peaks"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in ("int8 1 4.0 cpu: convolution", "theoretical", "AVX-VNNI", "1.0 kB", "--recalibrate", "cpu 1.32.0"):
        assert text in out
    assert main(["doctor", "--peaks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == "f"


def test_a_profile_with_roofline_tells_the_share_that_was_reached(
    classifier: Path, known_peaks: MachinePeaks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = edgekit.build(classifier, target="cpu", precision="fp32", profile=False, output=tmp_path / "engine")
    report = tmp_path / "report.json"
    assert main(["profile", str(engine), "--runs", "20", "--roofline", "--json-file", str(report)]) == 0
    found = json.loads(report.read_text())
    roofline = found["roofline"]
    assert roofline["measured_ms"] == found["latency_ms"]["p50"]
    assert roofline["reached"] == pytest.approx(roofline["bound_ms"] / found["latency_ms"]["p50"])
    assert sum(point["macs"] for point in roofline["points"]) == edgekit.inspect(classifier).macs
    assert "of the peaks reached" in " ".join(capsys.readouterr().out.split())


def test_the_precision_of_an_engine_is_fixed(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(detector), "--board", "nano", "--fp16"]) == 2
    assert "error: --fp16 goes with models, not with an engine" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["lenet"], ["--board", "orin-nano"], ["--int8"], ["--shape", "32x32"]])
def test_a_list_of_boards_takes_no_model_or_option_of_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--boards", *words]) == 2
    assert "--boards and " in capsys.readouterr().err
