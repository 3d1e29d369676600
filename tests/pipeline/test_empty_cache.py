"""A decoder's cache, which is empty before the first step: a range of sizes that begins at 0."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import edgekit

HEADS, SIZE = 2, 8
RANGE = (0, 4, 12)


class Step(nn.Module):
    """Attention of new vectors to those in a cache and to themselves; returns the longer cache too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.last = (nn.Linear(HEADS * SIZE, HEADS * SIZE) for _ in range(4))

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = [part(x).reshape(1, -1, HEADS, SIZE).transpose(1, 2) for part in (self.query, self.key, self.value)]
        keys, values = torch.cat([keys, heads[1]], 2), torch.cat([values, heads[2]], 2)
        shares = torch.softmax(heads[0] @ keys.transpose(2, 3) / SIZE**0.5, -1)
        return self.last((shares @ values).transpose(1, 2).reshape(1, -1, HEADS * SIZE)), keys, values


def inputs(past: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(past)
    shapes = {"x": (1, 1, HEADS * SIZE), "keys": (1, HEADS, past, SIZE), "values": (1, HEADS, past, SIZE)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The step as an exporter with a dynamic length writes it."""
    path = tmp_path_factory.mktemp("step") / "step.onnx"
    names = {"input_names": ["x", "keys", "values"], "output_names": ["y", "keys_out", "values_out"]}
    lengths = {name: {2: name} for name in ("keys", "values", "keys_out", "values_out")}
    given = tuple(map(torch.from_numpy, inputs(3).values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter is the one that many files are from
        torch.onnx.export(Step().eval(), given, path, dynamo=False, dynamic_axes=lengths, **names)
    return path


@pytest.mark.parametrize(("precision", "least_db"), [("fp32", 90.0), ("int8", 20.0)])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("kind", ["file", "module"])
def test_an_engine_runs_with_an_empty_cache(
    kind: str,
    target: Literal["cpu", "openvino"],
    precision: Literal["fp32", "int8"],
    least_db: float,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    cache = (1, HEADS, RANGE, SIZE)
    engine = edgekit.build(
        file if kind == "file" else Step().eval(),
        input={"x": (1, 1, HEADS * SIZE), "keys": cache, "values": cache},
        precision=precision,
        target=target,
        profile=False,
        output=tmp_path / "engine",
        progress=False,
    )
    original = onnxruntime.InferenceSession(onnx.load(file).SerializeToString(), providers=["CPUExecutionProvider"])
    with edgekit.load(engine) as session:
        for past in (0, 1, 12):
            expected = original.run(None, inputs(past))
            found = list(session.run(inputs(past)).values())
            for exact, other in zip(expected, found, strict=True):
                assert exact.shape == other.shape
                noise = np.square(exact - other).sum() + 1e-30
                assert 10 * np.log10(np.square(exact).sum() / noise) > least_db
