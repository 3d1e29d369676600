"""Half precision from the model to the plan: types, errors, and models that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.LeakyReLU(0.1), nn.Conv2d(16, 8, 3)).eval()


@pytest.mark.parametrize(("precision", "layers"), [("fp16", {"float16": 2}), ("bf16", {"bfloat16": 2})])
def test_products_are_built_in_half_and_the_error_is_told(precision: str, layers: dict[str, int]) -> None:
    bundle = edgekit.build(
        convolutions(), precision=precision, target="tensorrt-rtx", input={"": (1, 3, 16, 16)}, output="made"
    )
    manifest = read_manifest(bundle)
    assert manifest.layers == layers
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {"float32"}
    stage = f"{precision.upper()} graph"
    assert manifest.verification is not None and manifest.verification.sqnr_db[stage] > 40


def test_inputs_and_outputs_are_half_where_that_is_asked() -> None:
    bundle = edgekit.build(
        convolutions(), precision="fp16", target="tensorrt-rtx", input={"": (1, 3, 16, 16)}, half_io=True, output="made"
    )
    manifest = read_manifest(bundle)
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {"float16"}


def test_what_is_kept_in_float_is_float32_in_half_precision_and_half_in_int8() -> None:
    options = {"target": "tensorrt-rtx", "input": {"": (1, 3, 16, 16)}, "keep_float": ["0"]}
    assert read_manifest(edgekit.build(convolutions(), precision="fp16", output="fp16", **options)).layers == {
        "float16": 1,
        "float32": 1,
    }
    int8 = edgekit.build(convolutions(), precision="int8", output="int8", **options | {"keep_float": ["2"]})
    assert read_manifest(int8).layers == {"int8": 1, "float16": 1}


def test_error_on_half_inputs_for_an_engine_that_has_no_half() -> None:
    for precision in ("fp32", "bf16"):
        with pytest.raises(
            UsageError,
            match=f"half_io goes with precision='fp16' and precision='int8', not with precision='{precision}'",
        ):
            edgekit.build("yolov3-tiny", precision=precision, target="tensorrt-rtx", half_io=True)
