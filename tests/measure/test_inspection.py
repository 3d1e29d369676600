from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import EngineMismatch
from edgekit.extras import install_command
from edgekit.measure.inspection import Inspection, inspection_from_bundle
from edgekit.specs import ShapeRange, TensorSpec

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 4, 8, 8] x) => (float[batch, 8, 8, 8] y) {
    xq = QuantizeLinear (x, s, z)
    xf = DequantizeLinear (xq, s, z)
    wf = DequantizeLinear (w, s, z)
    c = Conv <pads = [1, 1, 1, 1]> (xf, wf, b)
    y = Relu (c)
}
"""
X = TensorSpec("x", "float32", ("batch", 4, 8, 8))
Y = TensorSpec("y", "float32", ("batch", 8, 8, 8))
WEIGHTS = {
    "s": np.float32(0.1), "z": np.int8(0), "w": np.ones((8, 4, 3, 3), np.int8), "b": np.ones(8, np.float32),
}  # fmt: skip


def write_graph(path: Path) -> None:
    model = onnx.parser.parse_model(GRAPH)
    for node in model.graph.node:
        node.name = f"node.{node.output[0]}"
    for name, array in WEIGHTS.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """A bundle with a graph, and with ``layers.json`` if layers are given."""

    def make(*layers: dict[str, Any], graph: bool = True, **changes: Any) -> Path:
        path = make_bundle(inputs=(X,), outputs=(Y,), task="tensor", preprocess=None, postprocess=None)
        if graph:
            write_graph(path / "graph.onnx")
        if layers:
            (path / "layers.json").write_bytes(msgspec.json.encode(layers))
        seal(path, msgspec.structs.replace(read_manifest(path), **changes))
        return path

    return make


def test_layers_are_those_of_the_graph_without_its_q_and_dq(bundle: Callable[..., Path]) -> None:
    found = inspection_from_bundle(bundle())
    assert [(layer.name, layer.operator) for layer in found.layers] == [("node.c", "Conv"), ("node.y", "Relu")]
    conv = found.layers[0]
    assert (conv.output_shape, conv.precision, conv.parameters) == ((1, 8, 8, 8), "int8", 8 * 36 + 8)
    assert conv.macs == 64 * 8 * 36
    assert (conv.weight_bytes, conv.activation_bytes) == (8 * 36 + 4 * 8, 4 * 64 + 4 * 8 * 64)
    assert conv.intensity == pytest.approx(2 * conv.macs / (conv.weight_bytes + conv.activation_bytes))
    assert found.precision_from == "graph"


def test_totals_are_sums_of_layers(bundle: Callable[..., Path]) -> None:
    found = inspection_from_bundle(bundle())
    for field in ("parameters", "macs", "weight_bytes", "activation_bytes"):
        assert getattr(found, field) == sum(getattr(layer, field) for layer in found.layers)


def test_dynamic_sizes_count_as_their_opt_sizes(bundle: Callable[..., Path]) -> None:
    shape = ShapeRange((1, 4, 8, 8), (4, 4, 8, 8), (16, 4, 8, 8))
    found = inspection_from_bundle(bundle(shapes={"x": shape}))
    assert found.assumed_sizes == {"batch": 4}
    assert found.macs == 4 * 64 * 8 * 36


def test_precisions_are_those_of_the_engine(bundle: Callable[..., Path]) -> None:
    fused = {"name": "node.c + node.y", "type": "convolution", "precision": "float16", "nodes": ["node.c", "node.y"]}
    found = inspection_from_bundle(bundle(fused))
    assert [layer.precision for layer in found.layers] == ["float16", "float16"]
    assert found.precision_from == "engine"


def test_of_an_unfused_network_only_products_have_their_precision(bundle: Callable[..., Path]) -> None:
    layers = [
        {"name": "s", "type": "shuffle", "precision": "float32", "nodes": ["node.c"]},
        {"name": "q", "type": "quantize", "precision": "int8"},
        {"name": "node.c", "type": "convolution", "precision": "int8", "nodes": ["node.c"]},
        {"name": "node.y", "type": "activation", "precision": "float16"},
    ]
    assert [layer.precision for layer in inspection_from_bundle(bundle(*layers)).layers] == ["int8", "float32"]


def test_an_engine_that_cannot_run_here_and_whose_files_were_lost_is_told_all_the_same(
    bundle: Callable[..., Path],
) -> None:
    path = bundle(backend="tensorrt", compute_capabilities=("8.7",), engine="engine.plan")
    found = inspection_from_bundle(path)
    assert found.manifest is not None and found.manifest.compute_capabilities == ("8.7",)


def test_json_comes_back_as_it_was(bundle: Callable[..., Path]) -> None:
    found = inspection_from_bundle(bundle())
    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found


def test_error_on_damaged_layers(bundle: Callable[..., Path]) -> None:
    path = bundle()
    (path / "layers.json").write_text("{")
    with pytest.raises(EngineMismatch, match=r"layers\.json is damaged"):
        inspection_from_bundle(path)


def test_error_on_a_graph_that_is_missing_or_none(bundle: Callable[..., Path]) -> None:
    path = bundle(graph=False)
    with pytest.raises(EngineMismatch, match=r"cannot read .*graph\.onnx"):
        inspection_from_bundle(path)
    (path / "graph.onnx").write_bytes(b"no protobuf")
    with pytest.raises(EngineMismatch, match="expected the graph of the engine") as error:
        inspection_from_bundle(path)
    assert error.value.hint.startswith("rebuild it")


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"onnx", "onnx_ir", "google", "torch", "ml_dtypes"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from edgekit.cli.main import main
sys.exit(main(["inspect", *sys.argv[1:]]))
"""


def without_onnx(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ABSENT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"})


def test_without_onnx_layers_are_those_of_the_engines_library(bundle: Callable[..., Path]) -> None:
    layer = {"name": "c", "type": "convolution", "precision": "int8", "outputs": [[1, 8, 8, 8]]}
    done = without_onnx(str(bundle(layer)), "--json")
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=Inspection)
    assert [(row.name, row.precision, row.output_shape) for row in found.layers] == [("c", "int8", (1, 8, 8, 8))]
    assert found.parameters is None and found.layers[0].macs is None


def test_without_onnx_the_table_says_what_is_not_counted(bundle: Callable[..., Path]) -> None:
    layer = {"name": "c", "type": "convolution", "precision": "int8", "outputs": [[1, 8, 8, 8]]}
    done = without_onnx(str(bundle(layer)))
    assert done.returncode == 0, done.stderr
    assert install_command("build", "onnx", "onnx-ir") in done.stdout
    assert "MACs  " not in done.stdout


def test_without_onnx_and_without_layers_the_packages_are_named(bundle: Callable[..., Path]) -> None:
    done = without_onnx(str(bundle()))
    assert done.returncode == 3
    assert install_command("build", "onnx", "onnx-ir") in done.stderr


def test_without_onnx_a_drawing_names_the_packages(bundle: Callable[..., Path], tmp_path: Path) -> None:
    layer = {"name": "c", "type": "convolution", "precision": "int8", "outputs": [[1, 8, 8, 8]]}
    done = without_onnx(str(bundle(layer)), "--graph", str(tmp_path / "graph.svg"))
    assert done.returncode == 3
    assert "needs the package onnx" in done.stderr and install_command("build", "onnx", "onnx-ir") in done.stderr
    assert not (tmp_path / "graph.svg").exists()
