"""Dynamic quantization is chosen for token models where it measures better, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError
from edgekit.pipeline import choose_activations
from edgekit.pipeline.choose_activations import is_better
from tests.decibels import signal_to_noise_db

TOKENS = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 6, 32] x) => (float[1, 6, 32] y) { h = MatMul (x, w)  r = Tanh (h)  y = MatMul (r, v) }"""


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgekit.measure.compare.MEASURE_S", 0.01)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    proto, draw = onnx.parser.parse_model(TOKENS), np.random.default_rng(0)
    for name in ("w", "v"):
        weights = draw.normal(0, 0.2, (32, 32)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(proto, tmp_path / "tokens.onnx")
    (tmp_path / "data").mkdir()
    for index in range(4):
        np.save(tmp_path / "data" / f"{index}.npy", draw.normal(size=(1, 6, 32)).astype(np.float32))
    return tmp_path / "tokens.onnx"


@pytest.mark.parametrize(
    ("time_ratio", "gain_db", "better"),
    [
        (0.9, 0.0, True),
        (0.9, -0.4, True),
        (0.9, -0.6, False),
        (0.99, 0.0, False),
        (1.02, 1.5, True),
        (1.02, 0.5, False),
        (1.1, 20.0, False),
        (None, 20.0, False),
    ],
)
def test_faster_at_no_lower_ratio_or_clearer_in_no_more_time(
    time_ratio: float | None, gain_db: float, better: bool
) -> None:
    assert is_better(time_ratio, gain_db) is better


@pytest.mark.parametrize("better", [True, False])
def test_the_better_engine_of_a_token_model_is_kept(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    monkeypatch.setattr(choose_activations, "SAME_DB", 100.0)  # the time is measured in any case
    monkeypatch.setattr(choose_activations, "is_better", lambda *_: better)
    place = edgekit.build(tokens, target="cpu", calib="data", output="made", progress=False)
    manifest = read_manifest(place)
    assert manifest.activations is not None
    assert manifest.activations.time_ratio is not None
    assert manifest.layers == {"int8": 2}
    assert sum("calibrated ranges keep" in note for note in manifest.notes) == 1
    assert manifest.activations.how == ("dynamic" if better else "static")
    assert ("--dynamic" in manifest.build_command) is better
    assert (place / "calibration.json").exists() is not better and (manifest.calibration is None) is better
    assert "calibrated ranges keep" in (place / "report.json").read_text()
    assert not [path for path in place.iterdir() if path.is_dir()]
    feeds = [{"x": np.load(f"data/{index}.npy")} for index in range(4)]
    with edgekit.load(place) as session:
        got = [session.run(feed)["y"] for feed in feeds]
    plain = onnxruntime.InferenceSession(tokens, providers=["CPUExecutionProvider"])
    found = signal_to_noise_db([plain.run(None, feed)[0] for feed in feeds], got)
    said = manifest.activations.dynamic_db if better else manifest.activations.static_db
    assert said == pytest.approx(found, abs=0.1) and found > 25


@pytest.mark.parametrize("options", [{"static": True}, {"calib_method": "mse"}, {"profile": False}])
def test_nothing_is_tried_where_the_user_decides(tokens: Path, options: dict[str, object]) -> None:
    place = edgekit.build(tokens, target="cpu", calib="data", output="made", progress=False, **options)
    assert read_manifest(place).activations is None and (place / "calibration.json").exists()


@pytest.mark.parametrize(("db", "how"), [((20.0, 21.5), "dynamic"), ((20.0, 20.5), "static")])
def test_one_token_a_run_is_decided_by_its_noise_where_no_time_is_measured(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, db: tuple[float, float], how: str
) -> None:
    proto = onnx.load(tokens)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(proto, tokens)
    for index in range(4):
        np.save(f"data/{index}.npy", np.load(f"data/{index}.npy")[:, :1])
    static_db, dynamic_db = db
    found = iter((dynamic_db, static_db))
    monkeypatch.setattr(choose_activations, "_worst_db", lambda *_: next(found))
    place = edgekit.build(tokens, target="cpu", calib="data", output="made", profile=False, progress=False)
    chosen = read_manifest(place).activations
    assert chosen is not None and chosen.how == how and chosen.time_ratio is None
    assert ("--dynamic" in read_manifest(place).build_command) is (how == "dynamic")
    assert [name for name in ("report.html", "report.json") if (place / name).exists()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic": True}, "does not go with static=True"),
        ({"target": "null"}, "static=True goes with target cpu, got 'null'"),
        ({"precision": "fp32"}, "static=True goes with precision='int8', not with"),
    ],
)
def test_error_on_options_that_do_not_go_with_static(tokens: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edgekit.build(tokens, static=True, **{"target": "cpu", **options})


def test_a_network_of_lstms_alone_is_quantized_dynamically() -> None:
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.LSTM(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(x)[0]

    place = edgekit.build(
        Reader().eval(), target="cpu", input={"": (5, 2, 32)}, output="made", profile=False, progress=False
    )
    manifest = read_manifest(place)
    assert manifest.layers["int8"] == 1 and any("built as with dynamic=True" in note for note in manifest.notes)
    assert manifest.verification is not None and manifest.verification.sqnr_db["INT8 engine for cpu"] > 25
