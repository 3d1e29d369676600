"""An engine that cannot run here: its layers and their bounds on a board."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.arguments import on_command_line
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import UsageError
from edgekit.measure import engine_estimate as module
from edgekit.measure.boards import board_from_name, peaks_from_board
from edgekit.measure.engine_estimate import EngineEstimate, estimate_of_bundle, why_not_measurable
from edgekit.measure.reports import json_from_report

WriteClassifier = Callable[..., Path]
REASON = "there is no GPU"
BUILT_FOR = ("8.6", "8.9")


@pytest.fixture
def engine(tmp_path: Path, write_classifier: WriteClassifier) -> Path:
    """The graph of a classifier in FP16, as an engine for two generations of GPUs that was built without one."""
    model = write_classifier(tmp_path / "net.onnx", shape=(1, 3, 32, 32))
    path = edgekit.build(model, precision="fp32", target="cpu", output=tmp_path / "engine", profile=False)
    _change(path, backend="tensorrt-rtx", compute_capabilities=BUILT_FOR, notes=("A note.", f"Not measured: {REASON}"))
    return path


def _change(path: Path, **changes: object) -> Manifest:
    changed = msgspec.structs.replace(read_manifest(path), **changes)
    seal(path, changed)
    return changed


def test_bounds_are_those_of_the_peaks_of_the_board(engine: Path) -> None:
    made = estimate_of_bundle(engine, reason=REASON, board="rtx-4060")
    peaks = peaks_from_board(board_from_name("rtx-4060"))
    assert made.measured is False and made.reason == REASON
    assert made.layers_from == "graph"
    assert sum(layer.macs for layer in made.layers) == made.estimate.macs > 0
    for layer in made.layers:
        compute_ms = 1000 * layer.macs / peaks.macs_per_s["float32"]
        assert layer.bound_ms >= compute_ms * (1 - 1e-9)
        assert layer.estimate_ms is None  # too few latencies of such boards are published
    assert sum(layer.share for layer in made.layers) == pytest.approx(1)
    assert made.estimate.roofline.bound_ms == pytest.approx(sum(layer.bound_ms for layer in made.layers))
    assert made.estimate.latency_ms is None


def test_the_json_claims_no_latency(engine: Path) -> None:
    content = json.loads(json_from_report(estimate_of_bundle(engine, reason=REASON, board="orin-nano")))
    assert content["measured"] is False
    assert {"latency_ms", "stages", "samples_ms", "percentiles", "throughput_per_s"}.isdisjoint(content)
    assert msgspec.convert(content, EngineEstimate).estimate.board == "orin-nano"


def test_layers_add_up_to_the_estimate_where_there_is_one(engine: Path) -> None:
    made = estimate_of_bundle(engine, reason=REASON, board="orin-nano")
    assert made.estimate.latency_ms == pytest.approx(sum(layer.estimate_ms or 0 for layer in made.layers))
    assert "does not run on Jetson Orin Nano 8 GB: it was built for compute capability 8.6, 8.9" in made.notes[0]


def test_the_first_board_that_it_was_built_for_is_the_default(engine: Path) -> None:
    made = estimate_of_bundle(engine, reason=REASON)
    assert made.estimate.board == "rtx-3060"
    assert "No board was named: the estimate is for GeForce RTX 3060 12 GB" in made.notes[0]
    assert made.notes[1:] == ("A note.",), "the reason is not repeated"
    _change(engine, compute_capabilities=("12.0",))
    assert estimate_of_bundle(engine, reason=REASON).estimate.board == "rtx-5060"
    _change(engine, compute_capabilities=("99.0",))
    with on_command_line(), pytest.raises(UsageError, match="expected --board, got none"):
        estimate_of_bundle(engine, reason=REASON)


def test_the_fusions_that_the_engine_reports_are_its_layers(engine: Path) -> None:
    names = [row.name for row in edgekit.inspect(engine).layers]
    entries = [
        {"name": "fused", "type": "kgen", "precision": "float16", "nodes": names[:4]},
        *({"name": name, "type": "kgen", "precision": "float16", "nodes": [name]} for name in names[4:]),
    ]
    (engine / "layers.json").write_text(json.dumps(entries))
    made = estimate_of_bundle(engine, reason=REASON, board="rtx-3060")
    assert made.layers_from == "engine"
    assert [layer.nodes for layer in made.layers] == [tuple(names[:4]), *((name,) for name in names[4:])]


def test_an_engine_for_the_cpu_can_always_be_measured(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        on_gpu = True

        def require_device(self, compute_capabilities: tuple[str, ...]) -> None:
            assert compute_capabilities == BUILT_FOR
            raise edgekit.errors.BackendUnavailable(REASON, hint="buy one")

    monkeypatch.setattr(module, "backend", lambda name: Missing())
    assert why_not_measurable(engine) == REASON
    monkeypatch.undo()
    _change(engine, backend="cpu")
    assert why_not_measurable(engine) == ""
