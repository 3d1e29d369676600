"""Fourier transforms of frames whose attributes and lengths the file leaves to ONNX's defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.graph.load.onnx_file import graph_from_onnx

FRAME, STEP, SAMPLES = 32, 8, 128
WINDOW = np.hanning(FRAME).astype(np.float32)
BANDS = np.random.default_rng(0).random((FRAME // 2 + 1, 5)).astype(np.float32)


def powers(path: Path, *, window: bool = True, length: bool = False, opset: int = 17, **attributes: int) -> Path:
    """Writes a spectrogram as feature extractors of speech compute it: power in bands."""
    constants = {"step": np.asarray(STEP), "bands": BANDS}
    inputs = ["x", "step", "", ""]
    if window:
        constants["window"], inputs[2] = WINDOW, "window"
    if length:
        constants["length"], inputs[3] = np.asarray(FRAME), "length"
    nodes = [
        helper.make_node("STFT", inputs if length else inputs[:3], ["frames"], **attributes),
        helper.make_node("ReduceSumSquare", ["frames"] + ["last"] * (opset > 17), ["power"], keepdims=0,
                         **({"axes": [-1]} if opset == 17 else {})),
        helper.make_node("MatMul", ["power", "bands"], ["y"]),
    ]  # fmt: skip
    if opset > 17:
        constants["last"] = np.asarray([-1])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "samples"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "frames", 5])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def right(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    frames = [x[0, start : start + FRAME] * window for start in range(0, SAMPLES - FRAME + 1, STEP)]
    return (np.abs(np.fft.rfft(frames)) ** 2 @ BANDS)[None]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(
    ("window", "length", "attributes"),
    [(True, False, {}), (True, True, {}), (False, True, {}), (True, False, {"onesided": 1})],
)
def test_an_engine_of_a_spectrogram(tmp_path, target, opset, window, length, attributes):
    path = powers(tmp_path / "s.onnx", window=window, length=length, opset=opset, **attributes)
    built = edgekit.build(
        path, precision="fp32", target=target, input={"x": (1, SAMPLES)}, output=tmp_path / "e", profile=False,
        progress=False,
    )  # fmt: skip
    x = np.random.default_rng(1).standard_normal((1, SAMPLES)).astype(np.float32)
    with edgekit.load(built) as session:
        found = session.run({"x": x})["y"]
    np.testing.assert_allclose(found, right(x, WINDOW if window else np.ones(FRAME)), rtol=1e-3, atol=1e-3)


def test_what_is_written_out(tmp_path):
    node = graph_from_onnx(powers(tmp_path / "s.onnx")).graph[0]
    assert node.attributes.get_int("onesided") == 1
    assert node.inputs[3].const_value.numpy() == FRAME


def test_what_the_file_says_stays(tmp_path):
    node = graph_from_onnx(powers(tmp_path / "s.onnx", length=True, onesided=0)).graph[0]
    assert node.attributes.get_int("onesided") == 0
    assert node.inputs[3].name == "length"
