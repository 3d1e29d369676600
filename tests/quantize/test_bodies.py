"""Products inside of If, Loop and Scan stay in float, and a build says which, and how to avoid it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.quantize.bodies import inputs_that_choose, products_in_bodies

BRANCHES = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 16] x, int64 rate, float[1] unused) => (float[1, 8] y, float[1] z) {
    h = MatMul (x, w)  fast = Constant <value = int64 {16000}> ()  is = Equal (rate, fast)
    y = If <then_branch = a () => (float[1, 8] p) { p = MatMul (h, v) },
            else_branch = b () => (float[1, 8] q) {
                r = Relu (h)
                q = If <then_branch = c () => (float[1, 8] s) { s = MatMul (r, v) },
                        else_branch = d () => (float[1, 8] t) { t = MatMul (r, u) }> (is) }> (is)
    z = Identity (unused) }"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    proto = onnx.parser.parse_model(BRANCHES)
    draw = np.random.default_rng(0)
    for name, sizes in (("w", (16, 32)), ("v", (32, 8)), ("u", (32, 8))):
        weights = draw.normal(0, 0.2, sizes).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(proto, tmp_path / "network.onnx")
    return tmp_path / "network.onnx"


def test_products_in_branches_and_the_input_that_chooses_are_found(network: Path) -> None:
    graph = graph_from_onnx(network)
    assert sorted(node.outputs[0].name or "" for node in products_in_bodies(graph)) == ["p", "s", "t"]
    assert inputs_that_choose(graph) == ["rate"]


def test_a_build_says_what_stays_in_float_and_how_to_avoid_it(network: Path) -> None:
    inputs = {"rate": 16000}
    place = edgekit.build(network, target="cpu", output="out", profile=False, progress=False)
    notes = [note for note in read_manifest(place).notes if "inside of If" in note]
    assert len(notes) == 1 and notes[0].endswith("input={'rate': VALUE}")
    fixed = edgekit.build(network, target="cpu", output="fixed", profile=False, progress=False, input=inputs)
    assert not [note for note in read_manifest(fixed).notes if "inside of If" in note]
    assert read_manifest(fixed).layers == {"int8": 2}
