"""An INT8 engine whose answers are noise is no engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekit
from edgekit.errors import AccuracyError
from edgekit.report import side_by_side


class Difference(nn.Module):
    """Two large numbers whose small difference is all that counts: 8 bits cannot hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.one, self.other = nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for conv in (self.stem, self.one):
                conv.weight.normal_(generator=generator)
            self.other.weight.copy_(-self.one.weight * 1.002)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.one(x) + self.other(x)


def test_a_build_that_collapses_in_int8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(side_by_side, "MEASURE_S", 0.05)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32))
    output = tmp_path / "engine"
    with pytest.raises(AccuracyError, match="is lost in noise: expected a signal to noise of more than 0 dB") as error:
        # The last layers would stay in float by themselves; that this model's do not is what is wrong with it.
        edgekit.build(
            nn.Sequential(Difference(), nn.Flatten()),
            input={"": (1, 3, 16, 16)},
            calib=tmp_path,
            output=output,
        )
    assert "--keep-float" in error.value.hint
    assert error.value.exit_code == 4
    assert not output.exists()
