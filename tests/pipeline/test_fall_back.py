"""Layers that a target does not compute on integers fall back to float, one by one, with a note."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.openvino.backend import OpenVino
from edgekit.errors import BuildError, EdgeKitWarning, GraphError
from edgekit.measure.compare import BuiltEngine
from edgekit.pipeline import compile as compiling
from tests.pipeline.networks import saved

NETWORK = """<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 8, 8, 8] x) => (float[1, 10] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1)  s = Sigmoid (a)  m = Mul (a, s)
    up = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (m, w2)  c = Conv (up, w3)
    p = GlobalAveragePool (c)  f = Flatten (p)  y = Gemm (f, w4) }"""
SIZES = {"w1": (16, 8, 3, 3), "w2": (16, 16, 2, 2), "w3": (32, 16, 3, 3), "w4": (32, 10)}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return saved(NETWORK, SIZES, tmp_path / "network.onnx", named=".node")


def test_a_layer_that_the_target_computes_in_float_falls_back_alone(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenVINO has no integer kernel for it: its input has a zero point.
    scheme = msgspec.structs.replace(OpenVino().scheme(), without_zero_point=frozenset())
    monkeypatch.setattr(OpenVino, "scheme", lambda self: scheme)
    with pytest.warns(EdgeKitWarning, match=r"up\.node: the target does not compute it on integers"):
        place = edgekit.build(network, target="openvino", output="out", profile=False)
    assert read_manifest(place).layers == {"int8": 3, "float32": 1}
    assert any("up.node" in note for note in read_manifest(place).notes)
    feed = np.random.default_rng(1).normal(size=(1, 8, 8, 8)).astype(np.float32)
    right = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"]).run(None, {"x": feed})[0]
    with edgekit.load(place) as session:
        got = session.run({"x": feed})["y"]
    assert np.abs(got - right).max() < 0.1 * np.abs(right).max()


@pytest.mark.parametrize(
    ("message", "falls"),
    [
        ("cpu failed: no kernel for Conv(11) node with name 'c.node'", True),
        ("cpu failed: no kernel for Conv(11) node with name 'd.node'", False),
        ("cpu failed", False),
    ],
)
def test_a_layer_that_a_refusal_names_falls_back(
    network: Path, monkeypatch: pytest.MonkeyPatch, message: str, falls: bool
) -> None:
    calls = []
    build = compiling.engine_from_graph

    def refusing(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise GraphError(message)
        return build(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compiling, "engine_from_graph", refusing)
    if not falls:
        with pytest.raises(GraphError, match="cpu failed"):
            edgekit.build(network, output="out", profile=False)
        return
    with pytest.warns(EdgeKitWarning, match=r"stays in float on cpu: c\.node"):
        place = edgekit.build(network, output="out", profile=False)
    assert read_manifest(place).layers == {"int8": 2, "float32": 2}


def test_a_build_whose_layers_are_always_refused_ends(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(("a.node", "up.node", "c.node", "y.node", "none"))

    def refusing(*arguments: object, **options: object) -> BuiltEngine:
        raise BuildError("refused", nodes=(next(names),))

    monkeypatch.setattr(compiling, "engine_from_graph", refusing)
    with pytest.raises((BuildError, GraphError), match="refused|nothing in the graph"), pytest.warns(EdgeKitWarning):
        edgekit.build(network, output="out", profile=False)
    assert next(names) == "none"


@pytest.mark.parametrize("bias", ["", ", b"], ids=["without a bias", "with a computed bias"])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_convolution_whose_weights_are_computed_stays_in_float(tmp_path: Path, target: str, bias: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[1, 16, 8, 8] x, float[1, 12] z) => (float[1, 4, 8, 8] y)
    <int64[4] kernel = {{16, 16, 3, 3}}, int64[1] flat = {{-1}}> {{
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1)  r = Relu (a)
        k = Gemm (z, w2)  v = Reshape (k, kernel)  m = Gemm (z, w3)  b = Reshape (m, flat)
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r, v{bias})  s = Relu (c)
        y = Conv <kernel_shape = [1, 1]> (s, w4) }}"""
    sizes = {"w1": (16, 16, 3, 3), "w2": (12, 16 * 16 * 9), "w3": (12, 16), "w4": (4, 16, 1, 1)}
    network = saved(text, sizes, tmp_path / "network.onnx", named=".node")
    draw = np.random.default_rng(0)
    feeds = [
        {name: draw.normal(size=shape).astype(np.float32) for name, shape in (("x", (1, 16, 8, 8)), ("z", (1, 12)))}
        for _ in range(4)
    ]
    place = edgekit.build(network, target=target, calib=feeds, output=tmp_path / "out", profile=False, progress=False)
    layers = read_manifest(place).layers
    assert layers["int8"] >= 2
    original = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    with edgekit.load(place) as session:
        for feed in feeds:
            right = original.run(None, feed)[0]
            assert np.square(session.run(feed)["y"] - right).sum() < 1e-2 * np.square(right).sum()


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_layers_that_depend_on_no_input_are_built_beside_those_on_integers(tmp_path: Path, target: str) -> None:
    # The first masks of Mask2Former are those of its learned queries. onnxscript folds no LayerNormalization.
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[1, 8, 16, 16] x) => (int64[1, 8, 1024] y, float[1, 32, 16, 16] f)
    <int64[3] columns = {1, 32, -1}, int64[4] image = {1, 8, 16, 16}, float[1] half = {0.5},
     int64[3] rows = {1, 8, 1024}, int64[4] sizes = {1, 8, 32, 32}> {
        v = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0)  z = Relu (v)
        f = Conv <kernel_shape = [1, 1]> (z, w4)  p = Reshape (f, columns)
        l = LayerNormalization (queries, gain)
        a = MatMul (l, w1)  b = Add (a, b1)  c = Relu (b)  d = MatMul (c, w2)  e = Add (d, b2)  h = Relu (e)
        k = MatMul (h, w3)
        m = MatMul (k, p)  n = Reshape (m, image)  r = Resize <mode = "linear"> (n, , , sizes)
        s = Sigmoid (r)  t = Reshape (s, rows)  u = Less (t, half)  y = Cast <to = 7> (u) }"""
    sizes: dict[str, tuple[int, ...]] = {"w0": (32, 8, 3, 3), "queries": (1, 8, 32), "gain": (32,)}
    sizes |= {"w4": (32, 32, 1, 1), "w1": (32, 32), "b1": (32,), "w2": (32, 32), "b2": (32,), "w3": (32, 32)}
    network = saved(text, sizes, tmp_path / "network.onnx", named=".node", spread=0.3)
    draw = np.random.default_rng(0)
    feeds = [{"x": draw.normal(size=(1, 8, 16, 16)).astype(np.float32)} for _ in range(4)]
    place = edgekit.build(network, target=target, calib=feeds, output=tmp_path / "out", profile=False, progress=False)
    original = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    with edgekit.load(place) as session:
        for feed in feeds:
            masks, features = original.run(None, feed)
            got = session.run(feed)
            assert (got["y"] == masks).mean() > 0.97
            assert np.square(got["f"] - features).sum() < 1e-3 * np.square(features).sum()
