"""Padded and selected integers become floats for TensorRT; unoptimized ONNX Runtime computes the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import edgekit
from edgekit.lower.float_moves import FloatMoves
from edgekit.lower.rewriting import lower

RANDOM = np.random.default_rng(4)
TABLE = RANDOM.integers(-127, 128, (9, 6)).astype(np.int8)
PAD = """g (float[1, 2, 3, 3] x) => (float[1, 2, 5, 5] y)
    <float s = {0.05}, int8 z = {ZERO}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, int8 fill = {FILL}>
    { q = QuantizeLinear (x, s, z) p = Pad (q, pads, fill) y = DequantizeLinear (p, s, z) }"""
GATHER = """g (int64[2, 3] x) => (float[2, 3, 6] y, float[2, 3, 6] u)
    <float s = {0.05}, int8 z = {0}, float[1] t = {SCALE}, int8[1] o = {0}>
    { r = Gather (table, x) y = DequantizeLinear (r, s, z) v = DequantizeLinear (r, t, o) u = Neg (v) }"""


def model_of(text: str, **numbers: object) -> ir.Model:
    for name, number in numbers.items():
        text = text.replace(name, str(number))
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]>\n{text}')
    if "table" in text:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(TABLE, "table"))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: onnx.ModelProto | Path, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    outputs: list[np.ndarray] = onnxruntime.InferenceSession(source, options).run(None, {"x": x})
    return outputs


@pytest.mark.parametrize(("zero", "fill"), [(0, 0), (7, 7), (-20, 90)])
def test_pads_are_those_of_the_integers(zero: int, fill: int) -> None:
    model = model_of(PAD, ZERO=zero, FILL=fill)
    x = RANDOM.standard_normal((1, 2, 3, 3)).astype(np.float32) * 3
    (right,) = run(ir.to_proto(model), x)
    assert right[0, 0, 0, 0] == np.float32(0.05) * (fill - zero)
    assert lower(model, [FloatMoves()])
    assert [node.op_type for node in model.graph][:3] == ["QuantizeLinear", "DequantizeLinear", "Pad"]
    np.testing.assert_array_equal(run(ir.to_proto(model), x)[0], right)


def test_rows_of_a_table_are_selected_as_floats() -> None:
    model, x = model_of(GATHER, SCALE=0.05), RANDOM.integers(0, 9, (2, 3))
    assert lower(model, [FloatMoves()])
    assert [node.op_type for node in model.graph][:2] == ["DequantizeLinear", "Gather"]
    y, u = run(ir.to_proto(model), x)
    np.testing.assert_array_equal(y, TABLE[x] * np.float32(0.05))
    np.testing.assert_array_equal(u, -y)


def test_rows_with_two_scales_stay_integers() -> None:
    assert not FloatMoves()(model_of(GATHER, SCALE=0.25)).modified


class _Inputs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._left = iter([{"x": each} for each in arrays])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


@pytest.mark.parametrize("operator", ["Pad", "Gather"])
def test_a_file_of_the_static_quantizer_is_as_it_was(tmp_path: Path, operator: str) -> None:
    texts = {
        "Pad": """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>
            { a = Conv <pads = [1, 1, 1, 1]> (x, w) p = Pad (a, pads) y = Conv (p, w) }""",
        "Gather": "g (int64[2, 3] x) => (float[2, 3, 5] y) { e = Gather (w, x) y = MatMul (e, v) }",
    }
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{texts[operator]}')
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "Pad": {"w": (4, 4, 3, 3)},
        "Gather": {"w": (9, 6), "v": (6, 5)},
    }
    for name, shape in shapes[operator].items():
        array = RANDOM.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "m.onnx")
    inputs: list[np.ndarray] = [RANDOM.standard_normal((1, 4, 6, 6)).astype(np.float32) for _ in range(4)]
    if operator == "Gather":
        inputs = [RANDOM.integers(0, 9, (2, 3)) for _ in range(4)]
    quantize_static(
        tmp_path / "m.onnx",
        tmp_path / "q.onnx",
        _Inputs(inputs),
        quant_format=QuantFormat.QOperator,
        activation_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    bundle = edgekit.build(
        tmp_path / "q.onnx", target="tensorrt", graph_only=True, output=tmp_path / "bundle", progress=False
    )
    graph = onnx.load(bundle / "graph.onnx").graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    moved = next(node for node in graph.node if node.op_type == operator)
    assert made[moved.input[0]] == "DequantizeLinear"
    (right,), (got,) = run(tmp_path / "q.onnx", inputs[0]), run(bundle / "graph.onnx", inputs[0])
    step = np.abs(right).max() / 127
    assert np.abs(got - right).max() <= 1.01 * step
