"""Blocks of ConvNeXt, whose float convolutions have channels first, and whose products have them last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import edgekit
from tests.decibels import signal_to_noise_db


class Block(nn.Module):
    """``x + W2 gelu(W1 norm(depthwise(x)))``, as in "A ConvNet for the 2020s"."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)


class Norm(nn.LayerNorm):
    """A normalization over channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("size", [24, 40])
def test_int8_has_the_numbers_of_the_original(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), Norm(16), Block(16), Block(16), Norm(16), nn.Conv2d(16, 32, 2, 2), Block(32), Block(32)
    ).eval()
    path, shape = tmp_path / "blocks.onnx", (1, 3, size, size)
    torch.onnx.export(module, (torch.zeros(shape),), path, input_names=["x"], output_names=["y"], dynamo=False)
    random = np.random.default_rng(1)
    feeds = [random.standard_normal(shape, np.float32) for _ in range(4)]
    (tmp_path / "calib").mkdir()
    for index, feed in enumerate(feeds):
        np.savez(tmp_path / "calib" / f"{index}.npz", x=feed)
    place = edgekit.build(path, target="cpu", calib=tmp_path / "calib", profile=False, output=tmp_path / "engine")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    original = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with edgekit.load(place) as engine:
        got = [engine.run({"x": feed})["y"] for feed in feeds]
    assert signal_to_noise_db([original.run(None, {"x": feed})[0] for feed in feeds], got) > 25
