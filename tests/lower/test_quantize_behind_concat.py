"""Products of concatenated tensors on OpenVINO; ONNX Runtime without optimizations has the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgekit.engine.backend import BuildOptions, BuildResult
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.quantize_behind_concat import QuantizeBehindConcat
from edgekit.lower.rewriting import lower
from edgekit.specs import Precision
from tests.lower.models import model_of_text, run_in_openvino

RANDOM = np.random.default_rng(8)
CONSTANTS = {
    "s": np.float32(0.03),
    "z": np.uint8(120),
    "ws": RANDOM.uniform(0.001, 0.01, 4).astype(np.float32),
    "wz": np.zeros(4, np.int8),
    "k": np.float32(0.31),
    "four": np.array([0, -1, 1, 6]),
    "bias": RANDOM.standard_normal(4).astype(np.float32),
}


def model(
    shape: str, axis: int, between: str, product: str, first: str = "a = Tanh (x)  b = Abs (x2)"
) -> onnx.ModelProto:
    sizes = [int(size) for size in shape.split(",")]
    sizes[axis] *= 2
    convolves = product == "Conv"
    weights = (4, sizes[1], *[2] * (len(sizes) - 2)) if convolves else (sizes[-1], 4)
    read = "d" if between else "c"
    last = {
        "MatMul": f"h = MatMul ({read}, wd)  y = Add (h, bias)",
        "Gemm": f"y = Gemm ({read}, wd, bias)",
        "Conv": f"y = Conv ({read}, wd)",
    }
    return model_of_text(
        f"""{first}  c = Concat <axis = {axis}> (a, b)  {between}
        wd = DequantizeLinear <axis = {0 if convolves else 1}> (w, ws, wz)  {last[product]}""",
        f"float[{shape}] x, float[{shape}] x2",
        f"float[{', '.join('ijklm'[: 4 if 'Reshape' in between else len(sizes)])}] y",
        {**CONSTANTS, "w": RANDOM.integers(-100, 100, weights).astype(np.int8)},
    )


INTEGERS = """xq = QuantizeLinear (x, s, z)  a = DequantizeLinear (xq, s, z)
x2q = QuantizeLinear (x2, s, z)  b = DequantizeLinear (x2q, s, z)"""
PAIR = "q = QuantizeLinear (c, s, z)  d = DequantizeLinear (q, s, z)"
BETWEEN = {
    "nothing": PAIR,
    "Relu": f"r = Relu (c)  {PAIR.replace('(c,', '(r,')}",
    "Add": f"r = Add (c, k)  {PAIR.replace('(c,', '(r,')}",
    "Mul": f"r = Mul (c, k)  {PAIR.replace('(c,', '(r,')}",
    "Reshape": f"r = Reshape (c, four)  {PAIR.replace('(c,', '(r,')}",
}


def compare(made: onnx.ModelProto, tmp_path: Path, layers: dict[str, int], output: str = "y") -> BuildResult:
    onnx.save(made, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    feed = {
        value.name: RANDOM.standard_normal([size.dim_value for size in value.type.tensor_type.shape.dim]).astype("f4")
        for value in made.graph.input
    }
    expected = Evaluator(graph).run(feed)[output]
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result, outputs = run_in_openvino(graph, feed, tmp_path, options)
    got = outputs[output]
    assert result.layers == layers
    np.testing.assert_allclose(got, expected, atol=0.04)
    # The two may divide by the scale with other roundings, so that a number between two integers becomes the other.
    assert (np.abs(got - expected) > 1e-4).mean() < 0.1
    return result


@pytest.mark.parametrize("first", ["a = Tanh (x)  b = Abs (x2)", INTEGERS], ids=["floats", "integers"])
@pytest.mark.parametrize("between", list(BETWEEN))
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("batch", [1, 2])
def test_products_of_concatenated_tokens_run_on_integers(
    batch: int, axis: int, between: str, first: str, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    compare(model(f"{batch},5,6", axis, BETWEEN[between], "MatMul", first), tmp_path, {"int8": 1})


@pytest.mark.parametrize(
    ("shape", "axis", "product"),
    [
        ("3,6", 0, "Gemm"),
        ("3,6", 0, "MatMul"),
        ("2,3,2,5,6", 1, "MatMul"),
        ("2,3,5,6", 0, "Conv"),
        ("2,3,5,6", 2, "Conv"),
        ("2,3,5,6", 3, "Conv"),
        ("2,3,5", 0, "Conv"),
        ("2,3,5", 2, "Conv"),
    ],
)
def test_products_behind_a_concat_of_other_axes_run_on_integers(
    shape: str, axis: int, product: str, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    compare(model(shape, axis, PAIR, product), tmp_path, {"int8": 1})


@pytest.mark.parametrize(
    ("shape", "axis", "product"), [("2,3,5,6", 1, "Conv"), ("2,3,5,6", 2, "MatMul"), ("2,5,6", 2, "MatMul")]
)
def test_a_concat_stays_as_it_is_where_openvino_is_right(shape: str, axis: int, product: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = model(shape, axis, PAIR, product)
    assert not lower(ir.from_proto(made), [QuantizeBehindConcat()])
    compare(made, tmp_path, {"int8": 1})


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", ["2,5,6", "2,3,5,64"])
def test_a_product_of_concatenated_integers_runs_on_integers(shape: str, axis: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    compare(model(shape, axis, "", "MatMul", INTEGERS), tmp_path, {"int8": 1})


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_a_convolution_of_concatenated_integers_runs_on_integers(axis: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    compare(model("2,3,5,6", axis, "", "Conv", INTEGERS), tmp_path, {"int8": 1})


@pytest.mark.parametrize("size", [6, 64])
def test_a_float_product_of_integers_with_two_scales_is_named(size: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    two = INTEGERS.replace("(x2, s, z)", "(x2, k, z)").replace("(x2q, s, z)", "(x2q, k, z)")
    made = model(f"2,5,{size}", 1, "", "MatMul", two)
    # A product of integers behind it, since an INT8 engine needs one.
    behind = onnx.parser.parse_graph(
        "g (float[2,10,4] y) => (float[2,10,4] v) { t = QuantizeLinear (y, s, z)  u = DequantizeLinear (t, s, z)"
        "  w4 = DequantizeLinear <axis = 1> (w5, ws, wz)  v = MatMul (u, w4) }"
    )
    made.graph.node.extend(behind.node)
    made.graph.initializer.append(onnx.numpy_helper.from_array(RANDOM.integers(-100, 100, (4, 4)).astype("i1"), "w5"))
    del made.graph.output[:]
    made.graph.output.extend(behind.output)
    for index, node in enumerate(made.graph.node):
        node.name = f"{node.op_type} {index}"
    result = compare(made, tmp_path, {"float32": 1, "int8": 1}, output="v")
    (note,) = result.notes
    assert "openvino runs 1 of 2 quantized layers in float32: MatMul " in note
