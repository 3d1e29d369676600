"""An engine that is slower than FP32 is said to be, with the layers to blame, and refused on request."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

import edgekit
import edgekit.pipeline.measure_engines as measuring
from edgekit.cli.main import main
from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.errors import EdgeKitWarning, UsageError
from edgekit.measure.relative import Ratio
from edgekit.measure.reports import build_report_from_bundle
from edgekit.measure.slower_layers import RelativeSpeed, SlowerLayer
from tests.pipeline.networks import saved

LAYER = SlowerLayer(nodes=("l",), integers=("l",), ms=2.0, reference_ms=0.5)
NETWORK = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 32, 56, 56] x) => (float[1, 10] y) {
    a = Conv (x, w1)  r = Relu (a)  l = Conv <group = 32, kernel_shape = [3, 3]> (r, w2)  q = Relu (l)
    c = Conv (q, w3)  p = GlobalAveragePool (c)  f = Flatten (p)  y = Gemm (f, w4) }"""
SIZES = {"w1": (32, 32, 1, 1), "w2": (64, 1, 3, 3), "w3": (32, 64, 1, 1), "w4": (32, 10)}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return saved(NETWORK, SIZES, tmp_path / "network.onnx")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Engines are measured with few runs, and always by turns."""
    monkeypatch.setattr("edgekit.measure.compare.MEASURE_S", 0.0)
    monkeypatch.setattr(measuring, "CLEARLY_FASTER", 1e9)
    return measuring


def found(value: float, *layers: SlowerLayer) -> RelativeSpeed:
    ratio = Ratio(value=value, low=value - 0.1, high=value + 0.1)
    return RelativeSpeed(ratio=ratio, precision="int8", reference="fp32", layers=layers)


def test_a_slower_engine_is_noted_and_in_the_json(
    network: Path, measured: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "relative_speed", lambda *given, **options: found(1.2, LAYER))
    assert main(["build", str(network), "--target", "cpu", "-o", "out", "--json"]) == 0
    said = capsys.readouterr()
    assert "INT8 takes 1.20 × the time of FP32 on this machine. Most of it is lost in l (2.00 ms, not" in said.err
    assert "Try --keep-float l" in said.err
    speed = json.loads(said.out)["report"]["speed"]
    assert speed["ratio"]["value"] == 1.2 and speed["layers"][0]["nodes"] == ["l"]


def test_an_engine_that_has_to_be_faster_and_is_not_is_refused(
    network: Path, measured: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "relative_speed", lambda *given, **options: found(1.0))
    assert main(["build", str(network), "--target", "cpu", "-o", "out", "--require-faster"]) == 7
    assert "expected an engine that is faster than FP32" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "options",
    [{"profile": False}, {"precision": "fp32"}, {"target": "null"}, {"target": "tensorrt", "graph_only": True}],
    ids=str,
)
def test_error_on_an_engine_that_has_to_be_faster_and_is_not_measured(
    network: Path, options: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="require_faster"):
        edgekit.build(network, **{"target": "cpu", "output": "out", "require_faster": True, **options})  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_layer_that_is_slower_on_integers_is_named(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = msgspec.structs.replace(OnnxRuntime().scheme(), slow_convolutions=())
    monkeypatch.setattr(OnnxRuntime, "scheme", lambda self: scheme)
    with pytest.warns(EdgeKitWarning, match=r"INT8 takes [\d.]+ × the time of FP32 on this machine.* lost in l \("):
        place = edgekit.build(network, target="cpu", output="out", threads=1)
    report = build_report_from_bundle(place)
    assert report is not None and report.speed is not None and report.speed.layers[0].integers == ("l",)
