"""FP32 of files with integers that processors lack; ONNX Runtime without optimizations says what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import edgekit
from edgekit.progress import KeptNotes, Silent
from tests.decibels import signal_to_noise_db

Target = Literal["cpu", "openvino"]
RANDOM = np.random.default_rng(31)
X = [RANDOM.standard_normal((2, 8, 9, 9)).astype(np.float32) * scale for scale in (1, 1, 3)]
NET = """<ir_version: 10, opset_import: ["" : 21]>
net (float[2, 8, 9, 9] x) => (float[2, 10] y) {
  xq = QuantizeLinear (x, xs, xz)  xd = DequantizeLinear (xq, xs, xz)
  w = DequantizeLinear <axis = 0> (wq, ws, wz)
  [conv] c = Conv <pads = [1, 1, 1, 1]> (xd, w, b)
  cq = QuantizeLinear (c, cs, cz)  mq = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (MAX)  MOVED
  f = Flatten (md)
  v = DequantizeLinear <axis = 1> (vq, vs, vz)  [product] p = MatMul (f, v)
  pq = QuantizeLinear (p, ps, pz)  y = DequantizeLinear (pq, ps, pz) }"""
IN_INTEGERS, IN_FLOATS = ("cq", "md = DequantizeLinear (mq, cs, cz)"), ("cd", "md = Identity (mq)")


def limits(kind: str) -> tuple[int, int]:
    bits = int(kind.strip("uint"))
    return (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def write(file: Path, first: str, second: str, weights: str) -> Path:
    """Writes a network whose input, hidden activations and weights are quantized to integers of these types."""
    maximum, moved = IN_INTEGERS if second.strip("uint") == "8" else IN_FLOATS  # MaxPool takes integers of 8 bits only
    text = NET.replace("MAX", maximum).replace("MOVED", moved)
    if maximum == "cd":
        text = text.replace("mq = MaxPool", "cd = DequantizeLinear (cq, cs, cz)  mq = MaxPool")
    proto = onnx.parser.parse_model(text)

    def add(name: str, kind: str, array: np.ndarray) -> None:
        proto.graph.initializer.append(
            helper.make_tensor(name, TensorProto.DataType.Value(kind.upper()), array.shape, array.ravel().tolist())
        )

    for name, kind, high in (("x", first, 3.0), ("c", second, 2.0), ("p", first, 2.5)):
        low_step, high_step = limits(kind)
        # Numbers beyond the range occur.
        add(f"{name}s", "float", np.asarray(2 * high / (high_step - low_step), np.float32))
        add(f"{name}z", kind, np.asarray((low_step + high_step + 1) // 2 + (1 if name == "c" else 0)))
    low_step, high_step = limits(weights)
    for name, shape, channels in (("w", (12, 8, 3, 3), 12), ("v", (108, 10), 10)):
        fan_in = 72 if name == "w" else 108
        add(f"{name}q", weights, RANDOM.integers(low_step, high_step + 1, shape))
        add(f"{name}s", "float", RANDOM.uniform(1, 3, channels) / (high_step - low_step) / np.sqrt(fan_in))
        add(f"{name}z", weights, np.full(channels, (low_step + high_step + 1) // 2))
    add("b", "float", RANDOM.standard_normal(12) / 10)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, file)
    return file


def in_runtime(file: Path) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0] for x in X]


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ("uint16", "uint16", "int8"),
        ("int16", "uint8", "int8"),  # OpenVINO takes the hidden one for 8 bits, and refuses FP32
        ("uint8", "int16", "int16"),
        ("uint8", "uint8", "int4"),
        ("int4", "int4", "int8"),  # OpenVINO ends the process, ONNX Runtime writes what it cannot load
        ("uint4", "uint4", "uint4"),
        ("int16", "int16", "uint4"),
    ],
)
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_fp32_rounds_as_the_file_does(target: Target, first: str, second: str, weights: str, tmp_path: Path) -> None:
    file = write(tmp_path / "file.onnx", first, second, weights)
    notes = KeptNotes(Silent())
    place = edgekit.build(
        file, precision="fp32", target=target, output=tmp_path / "out", calib=X, profile=False, progress=notes
    )
    with edgekit.load(place) as session:
        assert set(session.manifest.layers) <= {"float32"}
        got = [session.run({"x": x})["y"] for x in X]
    right = in_runtime(file)
    assert (
        signal_to_noise_db(right, got) > 40
    )  # few numbers lie so near to the middle of a step that they round otherwise
    steps = np.abs(np.stack(right) - np.stack(got)) > 1e-5
    assert steps.mean() < 0.05 or "16" in first


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_files_of_8_bits_are_refused_as_float_engines(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "file.onnx", "uint8", "uint8", "int8")
    with pytest.raises(edgekit.BuildError, match="expected float32") as caught:
        edgekit.build(
            file, precision="fp32", target=target, output=tmp_path / "out", calib=X, profile=False, progress=False
        )
    assert "int8" in caught.value.hint
