"""Builds of INT8 engines without calibration."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError

INPUT = {"": (5, 2, 32)}


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.mix = nn.LSTM(32, 32), nn.Linear(32, 64)
        self.tag = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tag(torch.tanh(self.mix(self.read(x)[0]))).mean((0, 2))


@pytest.mark.parametrize(("how", "layers", "operator"), [("dynamic", 3, "LSTM"), ("weights_only", 2, "MatMulNBits")])
def test_an_engine_without_calibration_is_checked_against_the_original(how: str, layers: int, operator: str) -> None:
    bundle = edgekit.build(Tagger().eval(), target="cpu", input=INPUT, output="made", profile=False, **{how: True})
    manifest = read_manifest(bundle)
    assert manifest.layers["int8"] == layers and manifest.calibration is None and manifest.options[how] is True
    assert manifest.verification is not None and manifest.verification.sqnr_db["INT8 engine for cpu"] > 25
    assert any(operator in node.op_type for node in onnx.load(bundle / "engine.onnx").graph.node)
    assert not (bundle / "calibration.json").exists()


def test_openvino_keeps_weights_in_8_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).eval()
    options = {"target": "openvino", "input": {"": (1, 4, 256)}, "profile": False, "progress": False}
    bundle = edgekit.build(model, weights_only=True, output="made", **options)
    manifest = read_manifest(bundle)
    assert manifest.layers == {"int8": 2} and manifest.calibration is None
    assert manifest.verification is not None and manifest.verification.sqnr_db["INT8 engine for openvino"] > 25
    weights = 2 * 256 * 512
    assert weights < sum(file.stat().st_size for file in bundle.glob("engine.*")) < 1.3 * weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "openvino"}, "goes with target cpu, got 'openvino'"),
        ({"target": "cpu", "precision": "fp32"}, "goes with precision='int8'"),
        ({"target": "cpu", "weights_only": True}, "does not go with weights_only=True"),
        ({"target": "cpu", "calib_method": "mse"}, "calib_method does not go with dynamic=True"),
    ],
)
def test_error_on_options_that_do_not_go_with_it(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edgekit.build(Tagger(), input=INPUT, dynamic=True, **options)
