"""Files with integers that TensorRT does not have; ONNX Runtime and numpy compute the right values from the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import edgekit
from edgekit.config import ModelConfig
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.pipeline.load_model import load_model
from edgekit.progress import KeptNotes, Silent
from edgekit.specs import Precision

Target = Literal["tensorrt", "tensorrt-rtx"]
RANDOM = np.random.default_rng(12)
NET = """<ir_version: 8, opset_import: ["" : OPSET]>
net (float[1, 16, 12, 12] x) => (float[1, 10] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)  r = Relu (a)  c = Conv <pads = [1, 1, 1, 1]> (r, w1, b1)  s = Add (c, r)
  t = Relu (s)  p = GlobalAveragePool (t)  f = Flatten (p)  y = Gemm <transB = 1> (f, w2, b2) }"""
SHAPES = {"w0": (32, 16, 3, 3), "b0": (32,), "w1": (32, 32, 3, 3), "b1": (32,), "w2": (10, 32), "b2": (10,)}
X = [RANDOM.standard_normal((1, 16, 12, 12)).astype(np.float32) for _ in range(8)]


class _Inputs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._rest: Iterator[dict[str, np.ndarray]] = iter([{"x": x} for x in X])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


def quantized(folder: Path, opset: int = 17, **options: object) -> Path:
    """Writes the net with random weights, and quantizes it with ONNX Runtime's static quantizer."""
    proto = onnx.parser.parse_model(NET.replace("OPSET", str(opset)))
    for name, shape in SHAPES.items():
        weights = RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights.astype(np.float32), name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(proto, folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "file.onnx", _Inputs(), **options)
    return folder / "file.onnx"


def in_runtime(file: Path) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0] for x in X]


def snr_db(right: list[np.ndarray], got: list[np.ndarray]) -> float:
    noise = np.square(np.stack(got) - np.stack(right)).sum()
    return float(10 * np.log10(np.square(np.stack(right)).sum() / noise))


FORMS = {
    "unsigned": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "unsigned activations": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True},
    "with zero points": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
    "operators": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
    "16 bits": {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt8},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_file_is_read_as_floats_and_quantized_again(target: Target, form: str, tmp_path: Path) -> None:
    file = quantized(tmp_path, **FORMS[form])
    notes = KeptNotes(Silent())
    model = load_model(ModelConfig(model=file), notes, target)
    assert not model.quantized
    assert any(f"integers that {target} does not have" in note for note in notes.notes)
    assert [node.op_type for node in model.graph.graph if node.op_type in ("Conv", "Gemm")] == ["Conv", "Conv", "Gemm"]
    rounded, floats = in_runtime(file), in_runtime(tmp_path / "float.onnx")
    got = [each["y"] for each in model.original.run([{"x": x} for x in X])]
    # The float form has lost the rounding of activations: it is as near to the float model as its weights are.
    assert snr_db(floats, got) > 25 and snr_db(rounded, got) > 25
    out = edgekit.build(
        file, precision="int8", target=target, graph_only=True, output=tmp_path / "out", calib=X, progress=False
    )
    operators = [node.op_type for node in onnx.load(out / "graph.onnx").graph.node]
    assert operators.count("QuantizeLinear") >= 3
    graph = onnx.load(out / "graph.onnx")
    zeros = {
        onnx.numpy_helper.to_array(each).dtype
        for each in graph.graph.initializer
        if any(each.name in node.input[2:] for node in graph.graph.node if "Linear" in node.op_type)
    }
    assert zeros == {np.dtype(np.int8)}


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_symmetric_file_keeps_its_integers(target: Target, tmp_path: Path) -> None:
    extra = {"ActivationSymmetric": True, "WeightSymmetric": True}
    file = quantized(tmp_path, **FORMS["unsigned"], extra_options=extra)
    model = load_model(ModelConfig(model=file), Silent(), target)
    assert model.quantized
    out = edgekit.build(
        file, precision="int8", target=target, graph_only=True, output=tmp_path / "out", calib=X, progress=False
    )
    np.testing.assert_array_equal(np.stack(in_runtime(out / "graph.onnx")), np.stack(in_runtime(file)))
    types = {each.data_type for each in onnx.load(out / "graph.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in types and onnx.TensorProto.UINT8 not in types


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_targets_with_these_integers_keep_the_file(target: str, tmp_path: Path) -> None:
    assert load_model(ModelConfig(model=quantized(tmp_path, **FORMS["unsigned"])), Silent(), target).quantized


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QInt16, QuantType.QInt4])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_products_of_other_integers_are_quantized_to_8_bits(
    target: Literal["cpu", "openvino"], weights: QuantType, tmp_path: Path
) -> None:
    """As files for Qualcomm's and AMD's processors are: 16 bits for activations, or 4 for weights."""
    activations = QuantType.QUInt8 if weights is QuantType.QInt4 else QuantType.QUInt16
    file = quantized(tmp_path, opset=21, activation_type=activations, weight_type=weights, per_channel=True)
    assert load_model(ModelConfig(model=file), Silent(), target, Precision.FP32).quantized
    notes = KeptNotes(Silent())
    out = edgekit.build(file, precision="int8", target=target, output=tmp_path / "out", calib=X, progress=notes)
    assert any(f"integers that {target} does not have" in note for note in notes.notes)
    assert read_manifest(out).layers["int8"] >= 2
    with edgekit.load(out) as session:
        got = [session.run({"x": x})["y"] for x in X]
    assert snr_db(in_runtime(file), got) > 25


def test_a_relu_that_the_quantizer_removed_is_there_again(tmp_path: Path) -> None:
    file = quantized(tmp_path, **FORMS["unsigned"])
    assert "Relu" not in {node.op_type for node in onnx.load(file).graph.node}
    model = load_model(ModelConfig(model=file), Silent(), "tensorrt")
    assert [node.op_type for node in model.graph.graph].count("Clip") >= 2


def test_half_precision_and_old_opsets(tmp_path: Path) -> None:
    file = quantized(tmp_path, opset=11, **FORMS["operators"])
    out = edgekit.build(
        file, precision="fp16", target="tensorrt", graph_only=True, output=tmp_path / "out", calib=X, progress=False
    )
    types = {node.op_type for node in onnx.load(out / "graph.onnx").graph.node}
    assert not {"QuantizeLinear", "DequantizeLinear", "QLinearConv"} & types


def test_what_has_no_float_form_is_refused_by_name(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[4, 16] x) => (float[4, 16] y) <float s = {0.05}, uint8 z = {20}, float t = {0.1}>
    { [first] q = QuantizeLinear (x, s, z)  a = DequantizeLinear (q, s, z)  b = DequantizeLinear (q, t, z)
      y = Add (a, b) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(edgekit.GraphError, match="node 'first': expected .* got uint8") as caught:
        edgekit.build(
            tmp_path / "m.onnx",
            precision="int8",
            target="tensorrt",
            graph_only=True,
            output=tmp_path / "out",
            progress=False,
        )
    assert "build it from its float original" in caught.value.hint


def float8(array: np.ndarray, name: str) -> onnx.TensorProto:
    values = array.astype(ml_dtypes.float8_e4m3fn)
    return onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT8E4M3FN, array.shape, values.tobytes(), raw=True)


def in_float8(file: Path, other: str = "") -> np.ndarray:
    """Writes two products between FP8, and returns the numbers that their weights stand for."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[8, 32] x) => (float[8, 32] y) <float s = {0.01}, float t = {0.002}, float k = {0.1}, uint8 l = {0}> {
          q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  v = DequantizeLinear (w0, t, z)
          [first] m = MatMul (d, v)  r = Relu (m)
          p = QuantizeLinear (r, k, OTHER)  e = DequantizeLinear (p, k, OTHER)  u = DequantizeLinear (w1, t, z)
          [second] y = MatMul (e, u) }""".replace("OTHER", other or "z")
    )
    weights = [float8(RANDOM.standard_normal((32, 32)) * 100, f"w{index}") for index in range(2)]
    proto.graph.initializer.extend([*weights, float8(np.zeros(()), "z")])
    onnx.save(proto, file)
    return np.stack([onnx.numpy_helper.to_array(each).astype(np.float64) * np.float32(0.002) for each in weights])


@pytest.mark.parametrize(("target", "precision"), [("cpu", "int8"), ("openvino", "fp32"), ("openvino", "int8")])
def test_float8_is_read_as_floats_where_it_has_no_kernels(
    target: Literal["cpu", "openvino"], precision: Literal["fp32", "int8"], tmp_path: Path
) -> None:
    first, second = in_float8(tmp_path / "file.onnx")
    x = RANDOM.standard_normal((8, 32)).astype(np.float32)
    place = edgekit.build(
        tmp_path / "file.onnx",
        precision=precision,
        target=target,
        output=tmp_path / "out",
        calib=[x],
        profile=False,
        progress=False,
    )
    with edgekit.load(place) as session:
        assert any("quantized to FP8" in note for note in session.manifest.notes)
        assert precision == "fp32" or set(session.manifest.layers) == {"int8"}
        right = np.maximum(x @ first, 0) @ second
        assert snr_db([right], [session.run({"x": x})["y"]]) > (100 if precision == "fp32" else 25)


def test_float8_stays_as_it_is_where_it_is_rounded_as_in_onnx(tmp_path: Path) -> None:
    file = tmp_path / "file.onnx"
    in_float8(file)
    x = RANDOM.standard_normal((8, 32)).astype(np.float32)
    place = edgekit.build(file, precision="fp32", target="cpu", output=tmp_path / "out", profile=False, progress=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    right = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with edgekit.load(place) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


def test_only_float8_is_read_as_floats(tmp_path: Path) -> None:
    in_float8(tmp_path / "file.onnx", other="l")
    model = load_model(ModelConfig(model=tmp_path / "file.onnx"), Silent(), "cpu", Precision.INT8)
    assert model.quantized
    types = [node.outputs[0].dtype for node in model.graph.graph if node.op_type == "QuantizeLinear"]
    assert types == [ir.DataType.UINT8]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_the_note_on_float_layers_is_about_the_engine(target: Literal["cpu", "openvino"], tmp_path: Path) -> None:
    """Backends move a DequantizeLinear behind operators that pass integers on, or do not: the graph does not tell."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 16, 12, 12] x) => (float[1, 10] y)
        <float s = {0.03}, uint8 z = {128}, float t = {0.05}, uint8 l = {120}, float k = {0.002}, int8 o = {0}> {
          q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  v = DequantizeLinear (w0, k, o)
          [conv] c = Conv <pads = [1, 1, 1, 1]> (d, v)  p = QuantizeLinear (c, t, l)  e = DequantizeLinear (p, t, l)
          m = MaxPool <kernel_shape = [4, 4], strides = [4, 4]> (e)  f = Flatten (m)  u = DequantizeLinear (w1, k, o)
          [product] r = MatMul (f, u)
          a = QuantizeLinear (r, t, l)  y = DequantizeLinear (a, t, l) }"""
    )
    for name, shape in (("w0", (32, 16, 3, 3)), ("w1", (288, 10))):
        weights = RANDOM.integers(-127, 128, shape).astype(np.int8)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(proto, tmp_path / "file.onnx")
    notes = KeptNotes(Silent())
    out = edgekit.build(
        tmp_path / "file.onnx", target=target, output=tmp_path / "out", calib=X, profile=False, progress=notes
    )
    layers = read_manifest(out).layers
    floats = layers.get("float32", 0)
    assert floats + layers["int8"] == 2
    found = [note for note in notes.notes if "compute in float" in note]
    assert found == ([f"{floats} of 2 convolutions and matrix products compute in float: product"] if floats else [])
