"""Noise by layer, and the smallest graph that fails, on a network with one layer that INT8 cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.errors import UsageError
from edgekit.pipeline.debug import debug
from tests.decibels import signal_to_noise_db
from tests.pipeline.networks import saved, topk_text

RANDOM = np.random.default_rng(1)
SHAPE = (1, 16, 16, 16)


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Five convolutions; the output of the third has one channel 3,000 times as large as the others."""
    weights = {f"w{i}": RANDOM.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 for i in range(5)}
    weights["w2"][5] *= 3000
    weights["w3"][:, 5] /= 3000
    nodes, value = [], "x"
    for i in range(5):
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], pads=[1] * 4, name=f"conv{i}"))
        value = f"c{i}"
        if i in (0, 1, 3):
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"], name=f"relu{i}"))
            value = f"r{i}"
        if i == 2:  # between two convolutions, so that no channel can be scaled through it
            nodes.append(helper.make_node("Abs", [value], ["s"], name="size"))
            nodes.append(helper.make_node("Add", ["s", "c2"], ["r2"], name="sum"))
            value = "r2"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, SHAPE)],
        [info("c4", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    folder = tmp_path / "calib"
    folder.mkdir()
    for i in range(4):
        np.savez(folder / f"{i}.npz", x=RANDOM.standard_normal(SHAPE).astype(np.float32))
    return path


def test_the_first_layer_that_is_lost_is_named_and_cut_out(network: Path, tmp_path: Path) -> None:
    found = debug(
        network, target="tensorrt-rtx", graph_only=True, calib="calib", save=tmp_path / "small", noise_budget=0
    )
    assert found.compared == "graph" and found.outputs_db["optimized graph"] > 90
    by_node = {each.node: each for each in found.layers}
    assert by_node["conv1"].sqnr_db > 20
    assert found.first is not None and found.first.node in ("conv3", "relu3")
    assert found.smallest is not None and "conv3" in found.smallest.nodes
    assert not {"conv0", "conv1", "conv4"}.intersection(found.smallest.nodes)
    assert found.smallest.sqnr_db < found.limit_db


def test_what_is_saved_can_be_run_and_fails_by_itself(network: Path, tmp_path: Path) -> None:
    found = debug(
        network, target="tensorrt-rtx", graph_only=True, calib="calib", save=tmp_path / "small", noise_budget=0
    )
    assert found.smallest is not None
    session = onnxruntime.InferenceSession(tmp_path / "small" / "model.onnx", providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "small" / "inputs.npz") as inputs, np.load(tmp_path / "small" / "expected.npz") as right:
        types = {each.name: np.float16 if "float16" in each.type else np.float32 for each in session.get_inputs()}
        got = session.run(None, {name: inputs[name].astype(types[name]) for name in inputs.files})
        (expected,) = (right[name] for name in right.files)
    measured = signal_to_noise_db([expected], [got[0].astype(np.float32)])
    assert measured == pytest.approx(found.smallest.sqnr_db, abs=1.5)


def test_an_engine_is_compared_layer_by_layer(network: Path) -> None:
    found = debug(network, precision="fp32", target="openvino")
    assert found.compared == "engine" and found.first is None and found.smallest is None
    assert {each.node for each in found.layers} >= {f"conv{i}" for i in range(5)}
    assert min(each.sqnr_db for each in found.layers) > 60


def test_a_bundle_is_compared_with_the_file_that_it_was_built_from(network: Path) -> None:
    place = edgekit.build(network, target="cpu", calib="calib", profile=False, allow_noise=True)
    found = debug(place, against=network, calib="calib")
    assert found.compared == "engine" and "network.onnx" in found.reference
    assert any(each.quantized for each in found.layers)
    assert found.outputs_db.keys() == {"optimized graph", "INT8 engine for cpu"}
    own = debug(place, calib="calib")
    assert min(each.sqnr_db for each in own.layers) > 25  # the kernels round as the graph says


@pytest.mark.parametrize(
    "given",
    [
        {"precision": "fp32"},
        {"target": "openvino"},
        {"weights": "coco"},
        {"calib_images": 3},
        {"no_head": True},
        {"threads": 1},
        {"half_io": True},
    ],
)
def test_options_of_a_build_are_refused_for_an_engine(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(given))}.*expected a model, got an engine"):
        debug(tmp_path, **given)


def test_options_of_a_backend_are_refused_for_an_engine_by_their_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^engine\['dla'\]: expected a model, got an engine"):
        debug(tmp_path, target="tensorrt", engine={"dla": 0}, precision="int8")


def test_the_error_on_a_folder_that_is_missing_names_the_engine_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines/reader-int8-cpu").mkdir(parents=True)
    (tmp_path / "engines/reader-int8-cpu/manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="unknown engine or model 'engines/reader-int8'") as caught:
        debug("engines/reader-int8")
    assert caught.value.hint == "did you mean engines/reader-int8-cpu?"


def test_a_bundles_graph_is_not_compared_with_itself(network: Path) -> None:
    place = edgekit.build(network, precision="fp32", target="cpu", profile=False)
    with pytest.raises(UsageError, match="compared with itself"):
        debug(place, graph_only=True)


def rows_selected_from(folder: Path) -> Path:
    """Writes a detector whose TopK orders 4,000 rows, so that scores are close, and half precision exchanges rows."""
    text = topk_text(4000, 300, "float[1, 300, 4] boxes", behind="boxes = Relu (chosen)")
    return saved(text, {"w": (8, 5)}, folder / "rows.onnx", spread=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16", "target": "tensorrt-rtx", "graph_only": True},
        {"precision": "int8", "target": "cpu", "quantize_heads": True},
    ],
    ids=["graph", "engine"],
)
def test_layers_behind_a_topk_are_compared_in_the_same_rows(tmp_path: Path, options: dict[str, Any]) -> None:
    found = debug(rows_selected_from(tmp_path), **options)
    by_node = {each.node: each.sqnr_db for each in found.layers}
    assert by_node["chosen"] == pytest.approx(by_node["raw"], abs=3) and found.first is None
    assert by_node["scores"] > by_node["score"] - 3 and by_node["boxes"] > by_node["raw"] - 3
    assert by_node.keys() >= {"raw", "score", "scores", "chosen", "boxes"}
    assert any("rows" in note and "TopK" in note for note in found.notes)


def test_two_backends_can_be_compared(network: Path) -> None:
    found = debug(network, precision="fp32", target="cpu", against="openvino")
    assert found.reference == "the FP32 engine for openvino" and found.first is None
