"""Builds of modules and ONNX files with example inputs and calibration data that are objects of Python."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import edgekit
from edgekit.engine.bundle.manifest import read_manifest

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def build(model: Any, **options: Any) -> Path:
    pytest.importorskip("onnxruntime")
    return edgekit.build(model, **{"target": "cpu", "profile": False, "progress": False, **options})


class Scores(nn.Module):
    """Two inputs, the second of which is often left out, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(8, 16)
        self.hidden = nn.Linear(16, 16)
        self.out = nn.Linear(16, 3)

    def forward(
        self, ids: torch.Tensor, kinds: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        values = self.hidden(self.embed(ids)).relu()
        if mask is not None:
            values = values * mask[..., None]
        return {"scores": self.out(values), "pooled": values.mean(dim=1)}


def test_a_module_is_called_by_name_and_keeps_the_keys_of_its_outputs() -> None:
    module = Scores()
    examples = {"mask": torch.ones(1, 5), "ids": torch.zeros(1, 5, dtype=torch.int64)}
    random = np.random.default_rng(0)
    samples = [
        {"ids": random.integers(0, 2, (1, 5)), "mask": np.ones((1, 5), np.float32), "labels": 3} for _ in range(4)
    ]
    place = build(module, input=examples, precision="fp32", calib=samples)
    with edgekit.load(place) as session:
        assert [(spec.name, spec.dtype) for spec in session.inputs] == [("ids", "int64"), ("mask", "float32")]
        assert [spec.name for spec in session.outputs] == ["scores", "pooled"]
        found = session.run({"ids": samples[0]["ids"], "mask": samples[0]["mask"]})
    with torch.no_grad():
        expected = module(torch.from_numpy(samples[0]["ids"]), mask=torch.from_numpy(samples[0]["mask"]))
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-4, atol=1e-5)
    manifest = read_manifest(place)
    assert manifest.build_command == ""
    assert manifest.options["input"] == "{mask: float32 (1, 5), ids: int64 (1, 5)}"
    assert manifest.options["calib"] == "<list>"


def convolutions() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))


def test_a_loader_is_read_once_and_leaves_no_files() -> None:
    taken = []

    class Counted(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            taken.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Counted(torch.rand(12, 4, 16, 16), torch.arange(12)), batch_size=4, shuffle=True)
    place = build(convolutions(), input=torch.zeros(1, 4, 16, 16), calib=loader, target="null", output="engine")
    assert sorted(taken) == list(range(12))
    table = json.loads((place / "calibration.json").read_bytes())
    assert (table["images"], table["set"]) == (12, "DataLoader")
    assert [path.name for path in Path().iterdir() if path.name not in ("engine", "cache")] == []
    assert not list(place.glob("**/*.npz"))


def test_ranges_are_those_of_the_data_and_the_cache_knows_it() -> None:
    def ranges(scale: float) -> dict[str, Any]:
        data = (scale * array for array in np.random.default_rng(0).random((8, 4, 16, 16), dtype=np.float32))
        place = build(
            convolutions(), input=np.zeros((1, 4, 16, 16), np.float32), calib=data, target="null", output="engine"
        )
        found: dict[str, Any] = json.loads((place / "calibration.json").read_bytes())["ranges"]
        return found

    first, other = ranges(1.0), ranges(3.0)
    assert first["input"] == pytest.approx([0, 1], abs=0.01)
    assert other["input"] == pytest.approx([0, 3], abs=0.03)


def test_a_function_of_batches_calibrates_an_onnx_file(tmp_path: Path, write_classifier: Callable[..., Path]) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    shape = edgekit.inspect(model).inputs[0].shape

    def batches() -> Iterator[np.ndarray]:
        for seed in range(3):
            yield np.random.default_rng(seed).random((2, *shape[1:]))

    place = build(model, calib=batches, input=torch.zeros(*map(int, shape)), target="null", output="engine")
    assert json.loads((place / "calibration.json").read_bytes())["images"] == 6


def test_an_example_of_another_type_or_name_is_refused(tmp_path: Path, write_classifier: Callable[..., Path]) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    shape = tuple(map(int, edgekit.inspect(model).inputs[0].shape))
    for given, message in (
        (np.zeros(shape), "got a tensor of float64"),
        ((np.zeros(shape, np.float32),) * 2, "expected tensors for x, got 2"),
        ({"y": np.zeros(shape, np.float32)}, "'y'"),
    ):
        with pytest.raises(edgekit.UsageError, match="input") as caught:
            build(model, input=given)
        assert message in str(caught.value)


def test_a_batch_range_opens_the_batch_of_an_example() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    data = np.random.default_rng(0).random((10, 4), dtype=np.float32)
    place = build(module, input=torch.zeros(1, 4), batch=(1, 2, 8), precision="fp32", calib=data)
    with edgekit.load(place) as session:
        (found,) = session.run({session.inputs[0].name: data[:7]}).values()
    with torch.no_grad():
        np.testing.assert_allclose(found, module(torch.from_numpy(data[:7])).numpy(), rtol=1e-4, atol=1e-5)


def test_a_value_inside_of_examples_is_for_onnx_files_alone() -> None:
    with pytest.raises(edgekit.UsageError, match="expected a tensor for 'mask', got the value 3"):
        build(Scores(), input={"ids": torch.zeros(1, 5, dtype=torch.int64), "mask": 3})


def test_data_that_does_not_fit_fails_before_anything_is_written() -> None:
    with pytest.raises(edgekit.CalibrationError, match="calib: input 0: expected input: float32"):
        build(convolutions(), input=torch.zeros(1, 4, 16, 16), calib=[np.zeros((4, 4))], target="null", output="engine")
    assert not Path("engine").exists()


def test_debug_takes_the_same_objects() -> None:
    data = np.random.default_rng(0).random((4, 4, 16, 16), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = edgekit.debug(convolutions(), target="cpu", input=torch.zeros(1, 4, 16, 16), calib=data)
    assert report.layers
