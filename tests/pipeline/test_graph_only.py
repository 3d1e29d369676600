"""Bundles without an engine: the graph has the precision that the manifest states, in every opset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import BuildError, EdgeKitError, UsageError

TEXT = """<ir_version: 10, opset_import: ["" : {opset}]>
g (float[1, 8, 16, 16] x) => (float[1, 16, 1, 1] y) {{
    [c1] a = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (a)
    [c2] c = Conv <pads = [1, 1, 1, 1]> (r, v)  y = GlobalAveragePool (c) }}"""


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=[20, 22, 23, 25])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(TEXT.format(opset=request.param))
    generator = np.random.default_rng(0)
    for name, shape in (("w", (16, 8, 3, 3)), ("v", (16, 16, 3, 3))):
        array = (generator.standard_normal(shape) / 10).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "m.onnx")
    folder = tmp_path / "calibration"
    folder.mkdir()
    for index in range(2):
        np.savez(folder / f"{index}.npz", x=generator.standard_normal((1, 8, 16, 16)).astype(np.float32))
    return tmp_path / "m.onnx"


def planned(model: Path, **options: object) -> Path:
    return edgekit.build(
        model, target="tensorrt", graph_only=True, calib=model.parent / "calibration", output="plan", **options
    )


@pytest.mark.parametrize("model", [20], indirect=True)
def test_a_dla_of_another_machine_is_checked_as_far_as_it_is_known(model: Path) -> None:
    notes = read_manifest(planned(model, precision="int8", engine={"dla": 0})).notes
    (note,) = [each for each in notes if "dla" in each]
    assert "TensorRT from 11.4.1 (on Jetson AGX Orin with JetPack 7.2.2 or newer;" in note
    assert "10.7" not in note
    with pytest.raises(UsageError, match="a DLA does not compute in bf16"):
        planned(model, precision="bf16", engine={"dla": 0})
    with pytest.raises(UsageError, match="TensorRT-RTX's boards have no DLA"):
        edgekit.build(model, target="tensorrt-rtx", precision="fp16", graph_only=True, engine={"dla": 0})


def test_int8_without_an_engine_has_int8_layers(model: Path) -> None:
    place = planned(model, precision="int8", keep_float=("c2",))
    assert read_manifest(place).layers == {"int8": 1, "float16": 1}
    graph = onnx.load(place / "graph.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    (quantized,) = (node for node in graph.node if node.name == "c1")
    assert [makers[name] for name in quantized.input[:2]] == ["DequantizeLinear"] * 2


def test_half_without_an_engine_states_its_layers(model: Path) -> None:
    assert read_manifest(planned(model, precision="fp16")).layers == {"float16": 2}


def test_a_graph_without_the_precision_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    with pytest.raises((BuildError, EdgeKitError), match="quantized|none|int8"):
        planned(model, precision="int8", keep_float=("*",))
    assert not (tmp_path / "plan").exists()
