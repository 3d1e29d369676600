"""Half precision that would lose an output: the layers that lose it stay in float32, without being asked to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.errors import AccuracyError

# The square of a quiet sample is zero in FP16, and its logarithm minus infinity.
LOG_POWER = "p = Conv (x, w)  q = Mul (p, p)  s = Add (q, tiny)  l = Log (s)  y = Conv (l, v)"
# What is left of a sum whose parts cancel is below the step of FP16.
CANCELLING = "p = Conv (x, w)  u = Mul (x, large)  s = Add (p, u)  d = Sub (s, u)  y = Conv (d, v)"
# Two convolutions that are nearly the same: of their difference, the digits that FP16 stores are a small part.
DIFFERENCE = "p = Conv (x, w)  n = Conv (x, near)  d = Sub (p, n)  y = Conv (d, v)"
FINE = "p = Conv (x, w)  r = Relu (p)  y = Conv (r, v)"

KEPT = "kept in FP32, since FP16 loses an output there"


pytestmark = pytest.mark.filterwarnings("ignore::edgekit.errors.EdgeKitWarning")


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def model(body: str) -> str:
    text = f"g (float[1, 1, 64] x) => (float[1, 2, 64] y) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 1, 1)),
        "v": rng.normal(size=(2, 4, 1)),
        "near": np.random.default_rng(0).normal(size=(4, 1, 1)) * 1.02,
        "tiny": np.array(1e-10),
        "large": np.array(4096.0),
        "far": np.array(1e6),
    }
    for name, array in constants.items():
        if any(name in node.input for node in proto.graph.node):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, "m.onnx")
    return "m.onnx"


def built(body: str, **options: object) -> tuple[Manifest, onnx.ModelProto]:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 1, 64)).astype(np.float32) * size for size in (1.0, 1e-3, 1e-4)]
    bundle = edgekit.build(
        model(body),
        calib=inputs,
        target="tensorrt-rtx",
        graph_only=True,
        output="made",
        progress=False,
        **{"precision": "fp16", **options},
    )
    return read_manifest(bundle), onnx.load(bundle / "graph.onnx")


@pytest.mark.parametrize("body", [LOG_POWER, CANCELLING])
def test_layers_that_lose_an_output_are_kept_and_named(body: str) -> None:
    manifest, graph = built(body)
    assert manifest.verification is not None and manifest.verification.sqnr_db["FP16 graph"] > 26
    assert any(note.startswith(KEPT) for note in manifest.notes)
    # The last convolution loses nothing.
    last = next(value for value in graph.graph.initializer if value.name.startswith("v"))
    assert last.data_type == onnx.TensorProto.FLOAT16


def test_a_graph_that_half_precision_holds_stays_half() -> None:
    manifest, _ = built(FINE)
    assert manifest.layers == {"float16": 2}
    assert not any(note.startswith(KEPT) for note in manifest.notes)


def test_inputs_that_half_precision_cannot_hold_are_still_refused() -> None:
    with pytest.raises(AccuracyError, match="FP16 graph"):
        built("s = Add (x, far)  y = Concat <axis = 1> (s, s)", half_io=True)


def test_layers_beside_integers_are_kept_too() -> None:
    """The second convolution is on integers, and the logarithm before it would be minus infinity in FP16."""
    manifest, graph = built(LOG_POWER, precision="int8", quantize_heads=True, noise_budget=0)
    assert manifest.layers == {"float16": 1, "int8": 1}
    assert manifest.verification is not None and manifest.verification.sqnr_db["INT8 graph"] > 5
    assert any(note.startswith(KEPT) for note in manifest.notes)
    assert next(node for node in graph.graph.node if node.op_type == "Log")


def float32_layers(graph: onnx.ModelProto) -> int:
    types = {value.name: value.data_type for value in graph.graph.initializer}
    return sum(
        node.op_type == "Conv" and types.get(node.input[1]) == onnx.TensorProto.FLOAT for node in graph.graph.node
    )


@pytest.mark.parametrize(("percent", "kept"), [(0, 0), (40, 0), (60, 2)])
def test_beside_integers_half_precision_keeps_more_if_it_may_cost_so_much(percent: int, kept: int) -> None:
    """FP16 keeps 32 dB here, and half of the work is in the two convolutions."""
    manifest, graph = built(DIFFERENCE, precision="int8", quantize_heads=True, noise_budget=percent)
    assert float32_layers(graph) == kept
    assert any(note.startswith(KEPT) for note in manifest.notes) == (kept > 0)


def test_fp16_alone_keeps_what_it_has_to() -> None:
    manifest, graph = built(DIFFERENCE)
    assert manifest.verification is not None and 26 < manifest.verification.sqnr_db["FP16 graph"] < 40
    assert not float32_layers(graph)
