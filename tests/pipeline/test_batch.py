"""Batches: fixed, or dynamic between a min and a max."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError
from edgekit.specs import ShapeRange


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


def model_file(path: Path, batch: int | str) -> Path:
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    text = f'<ir_version: 10, opset_import: ["" : 20]> g (float[{batch}, 3, 8, 8] x) => (float[n, 8, 6, 6] y) '
    model = onnx.parser.parse_model(text + "{ y = Conv (x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_batch_of_any_size_gives_what_each_input_gives_alone(precision: str) -> None:
    bundle = edgekit.build(
        network(), precision=precision, input={"": (1, 3, 8, 8)}, batch=(1, 2, 6), target="cpu", profile=False
    )
    assert read_manifest(bundle).shapes == {"input": ShapeRange((1, 3, 8, 8), (2, 3, 8, 8), (6, 3, 8, 8))}
    arrays = np.random.default_rng(0).random((6, 3, 8, 8), np.float32)
    with edgekit.load(bundle) as session:
        name, output = session.inputs[0].name, session.outputs[0].name
        assert session.inputs[0].shape == ("batch", 3, 8, 8)
        together = session.run({name: arrays})[output]
        alone = [session.run({name: arrays[i : i + 1]})[output][0] for i in range(6)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_fixed_batch_is_the_shape_of_the_input() -> None:
    bundle = edgekit.build(network(), precision="fp32", input={"": (1, 3, 8, 8)}, batch=4, target="cpu", profile=False)
    manifest = read_manifest(bundle)
    assert manifest.inputs[0].shape == (4, 3, 8, 8)
    assert manifest.shapes == {}
    assert "--batch 4" in manifest.rebuild or manifest.rebuild == ""


@pytest.mark.slow
def test_a_recipe_takes_a_range() -> None:
    bundle = edgekit.build(
        "yolov3-tiny", precision="fp32", shape=(96, 96), batch=(1, 2, 4), target="cpu", profile=False, output="t"
    )
    assert "--batch 1:2:4" in read_manifest(bundle).rebuild
    with edgekit.load(bundle) as session:
        outputs = session.run({"images": np.zeros((3, 3, 96, 96), np.float32)})
    assert {array.shape[0] for array in outputs.values()} == {3}


@pytest.mark.parametrize(("batch", "shape"), [((1, 1, 8), ("n", 3, 8, 8)), (2, (2, 3, 8, 8))])
def test_a_file_with_an_open_batch_takes_either(tmp_path: Path, batch: object, shape: tuple[object, ...]) -> None:
    model = model_file(tmp_path / "m.onnx", "n")
    bundle = edgekit.build(model, precision="fp32", batch=batch, target="cpu", profile=False)  # type: ignore[arg-type]
    assert read_manifest(bundle).inputs[0].shape == shape


def test_error_on_a_file_whose_batch_is_fixed(tmp_path: Path) -> None:
    model = model_file(tmp_path / "m.onnx", 1)
    with pytest.raises(
        UsageError, match=r"batch: expected an input with a dynamic batch dimension, got x: float32 \(1, 3"
    ) as e:
        edgekit.build(model, precision="fp32", batch=(1, 2, 4), target="cpu")
    assert "dynamic" in e.value.hint
    edgekit.build(model, precision="fp32", batch=1, target="cpu", profile=False)


@pytest.mark.parametrize("batch", [0, (2, 1, 4), (1, 2), (0, 1, 1)])
def test_error_on_a_range_that_falls(batch: object) -> None:
    with pytest.raises(UsageError, match=r"batch: expected a number of 1 or more, or a range \(MIN, OPT, MAX\) with"):
        edgekit.build("yolov3-tiny", batch=batch, target="cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"engine": {"sm": (86,)}}, {"graph_only": True}, {"half_io": True}])
def test_error_on_a_gpus_options_for_the_processor(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"target 'cpu' (runs on the CPU|does not have the option engine\['sm'\])"):
        edgekit.build("yolov3-tiny", target="cpu", **options)  # type: ignore[arg-type]


def test_error_on_a_precision_that_the_target_does_not_build() -> None:
    with pytest.raises(
        UsageError, match="target 'cpu' does not build fp16: expected precision='fp32', precision='int8'"
    ) as caught:
        edgekit.build("yolov3-tiny", precision="fp16", target="cpu")
    assert caught.value.hint == "these targets build it: target='tensorrt', target='tensorrt-rtx'"
