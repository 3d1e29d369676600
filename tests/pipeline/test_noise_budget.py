"""The layers that make most of the noise stay in float, within their share of the work."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import edgekit
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.pipeline import noise_budget

SHAPE = (1, 8, 24, 24)
NOTE = "stays in FP16, since most of the noise of the worst output comes from there: noisy"
BODY = """g (float[1, 8, 24, 24] x) => (float[1, 8, 24, 24] y) {
    [noisy] a = Conv (x, w0)  t = Tanh (a)
    [b] b = Conv <pads = [1, 1, 1, 1]> (t, w1)  u = Tanh (b)
    [c] y = Conv <pads = [1, 1, 1, 1]> (u, w2) }"""
SHARE = 100 * 64 / (64 + 2 * 576)
"""Percent of the multiply-accumulates of the first convolution."""


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def built(large: float, **options: object) -> Manifest:
    """Builds a model for which one large number of an input hardly matters behind the first convolution."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{BODY}')
    random = np.random.default_rng(0)
    for name, size in (("w0", 1), ("w1", 3), ("w2", 3)):
        kernel = random.normal(0, 1 / np.sqrt(8 * size**2), (8, 8, size, size)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(kernel, name))
    onnx.save(proto, "m.onnx")
    inputs = [random.normal(size=SHAPE).astype(np.float32) for _ in range(4)]
    for array in inputs:
        array[0, 0, 5, 5] = large
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = edgekit.build(
            "m.onnx",
            target="tensorrt-rtx",
            graph_only=True,
            calib=inputs,
            calib_method="minmax",
            quantize_heads=True,
            output="made",
            progress=False,
            **options,
        )
    return read_manifest(bundle)


def kept_db(manifest: Manifest) -> float:
    assert manifest.verification is not None
    return manifest.verification.sqnr_db["INT8 graph"]


def test_the_noisy_layer_stays_in_float_and_is_named() -> None:
    without = built(200.0, noise_budget=0)
    assert without.layers == {"int8": 3} and not any(NOTE in note for note in without.notes)
    manifest = built(200.0)
    assert manifest.layers == {"int8": 2, "float16": 1}
    assert any(NOTE in note for note in manifest.notes)
    assert kept_db(without) < 15 and kept_db(manifest) > kept_db(without) + 10


@pytest.fixture
def without_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers cost their multiply-accumulates alone, and a collapse has no room of its own."""
    scheme = msgspec.structs.replace(backend("tensorrt-rtx").scheme(), launch_macs=0)
    monkeypatch.setattr(noise_budget, "scheme_of", lambda target: scheme)
    monkeypatch.setattr(noise_budget, "COLLAPSED_PERCENT", 0)


@pytest.mark.parametrize("percent", [int(SHARE), int(SHARE) + 1])
def test_layers_beyond_the_budget_stay_on_integers(percent: int, without_launches: None) -> None:
    assert ("float16" in built(200.0, noise_budget=percent).layers) == (percent > SHARE)


def test_small_layers_cost_no_more_than_their_start(without_launches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = msgspec.structs.replace(backend("tensorrt-rtx").scheme(), launch_macs=1_000_000)
    monkeypatch.setattr(noise_budget, "scheme_of", lambda target: scheme)
    assert built(200.0, noise_budget=5).layers == {"int8": 2, "float16": 1}


def test_an_output_that_collapses_gets_more_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = msgspec.structs.replace(backend("tensorrt-rtx").scheme(), launch_macs=0)
    monkeypatch.setattr(noise_budget, "scheme_of", lambda target: scheme)
    manifest = built(2000.0, noise_budget=1)
    assert manifest.layers == {"int8": 2, "float16": 1}
    assert kept_db(built(2000.0, noise_budget=0)) < 5 and kept_db(manifest) > 14


def test_a_graph_that_keeps_enough_stays_as_it_is() -> None:
    manifest = built(0.0)
    assert kept_db(manifest) > 22 and manifest.layers == {"int8": 3}


def test_inputs_of_one_sign_are_shifted_where_much_is_lost() -> None:
    """One row of each input is large, and half of the integers are negative, which a ReLU never is."""
    text = "g (float[1, 64, 32] x) => (float[1, 64, 32] y) { r = Relu (x)  p = MatMul (r, w)  y = Tanh (p) }"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    random = np.random.default_rng(0)
    weights = random.normal(0, 1 / np.sqrt(32), (32, 32)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(proto, "m.onnx")
    inputs = [random.normal(0, 0.5, (1, 64, 32)).astype(np.float32) for _ in range(4)]
    for array in inputs:
        array[0, 0] = 60
    found = {}
    for percent in (0, 10):
        options = {"calib_method": "minmax", "quantize_heads": True, "noise_budget": percent}
        bundle = edgekit.build(
            "m.onnx", target="tensorrt-rtx", graph_only=True, calib=inputs, output="made", progress=False, **options
        )
        found[percent] = read_manifest(bundle)
    assert found[0].layers == found[10].layers == {"int8": 1}
    assert not any("are shifted" in note for note in found[0].notes)
    assert any("inputs of one sign are shifted" in note for note in found[10].notes)
    assert any(node.op_type == "Sub" for node in onnx.load(bundle / "graph.onnx").graph.node)
    assert kept_db(found[10]) > kept_db(found[0]) + 4
