"""The first models of the course, from recipe to engine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.onnxruntime.backend import OnnxRuntime
from edgekit.models.factory import module_from_recipe
from edgekit.recipe.schema import load_recipe
from tests.decibels import signal_to_noise_db

torch.set_num_threads(1)

SIGNAL_TO_NOISE_DB = {"linear-regression": 37.1, "softmax-regression": 43.5, "mlp": 38.1, "lenet": 35.7}
"""Measured on inputs outside of the calibration set, with 8-bit weights."""

# The noise of weights doubles with each bit that they lack.
SLACK_DB = 1 + 20 * math.log10(2) * (8 - OnnxRuntime().scheme().weight_bits)


@pytest.mark.parametrize(("name", "expected_db"), SIGNAL_TO_NOISE_DB.items())
def test_int8_engine_agrees_with_the_module(
    name: str, expected_db: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    bundle = edgekit.build(name, precision="int8", target="cpu", profile=False, output=tmp_path / "engine")
    onnx.checker.check_model(str(bundle / "graph.onnx"), full_check=True)
    recipe = load_recipe(name)
    manifest = read_manifest(bundle)
    assert (manifest.task, manifest.labels) == (recipe.task, recipe.labels.names)
    assert manifest.layers["int8"] > 0
    module = module_from_recipe(recipe)
    random = np.random.default_rng(7)
    spec = recipe.inputs[0]
    inputs = [random.random(spec.shape, dtype=np.float32) for _ in range(8)]
    with edgekit.load(bundle) as session, torch.inference_mode():
        got = [session.run({spec.name: array})[recipe.outputs[0]] for array in inputs]
        expected = [module(torch.from_numpy(array)).numpy() for array in inputs]
    ratio = signal_to_noise_db(expected, got)
    assert ratio is not None and ratio > expected_db - SLACK_DB
