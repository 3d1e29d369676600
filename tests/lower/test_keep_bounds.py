from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.keep_bounds import KeepBounds
from edgekit.specs import Precision

pytest.importorskip("onnxruntime")

HIGH = 0.75
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)
STEP = np.float32(0.125)


def model_of(operator: str, dtype: type, zero: int, opset: int = 21) -> onnx.ModelProto:
    bounds = {"Relu": [], "Clip": ["low", "high"]}[operator]
    nodes = [
        helper.make_node(operator, ["x", *bounds], ["r"], name="bounded"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    numbers = {"s": STEP, "z": np.array(zero, dtype), "low": np.float32(0), "high": np.float32(HIGH)}
    weights = [numpy_helper.from_array(np.asarray(number), name) for name, number in numbers.items()]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 16]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def in_numpy(operator: str, dtype: type, zero: int) -> np.ndarray:
    scaled = np.clip(X, 0, HIGH if operator == "Clip" else None) / STEP
    if dtype in (ml_dtypes.int4, ml_dtypes.uint4, np.int8):
        limits = ml_dtypes.iinfo(dtype)
        return (np.clip(np.rint(scaled) + zero, limits.min, limits.max) - zero).astype(np.float32) * STEP
    return scaled.astype(dtype).astype(np.float32) * STEP


@pytest.mark.parametrize("operator", ["Relu", "Clip"])
@pytest.mark.parametrize(
    ("dtype", "zero", "opset"),
    [
        (ml_dtypes.float8_e4m3fn, 0, 19),
        (ml_dtypes.float8_e4m3fn, 0, 21),
        (ml_dtypes.float8_e5m2, 0, 19),
        (ml_dtypes.int4, -2, 21),
        (ml_dtypes.uint4, 3, 21),
        (np.int8, 0, 19),
    ],
)
def test_bounds_before_a_quantizer_are_kept(tmp_path: Path, operator: str, dtype: type, zero: int, opset: int) -> None:
    onnx.save(model_of(operator, dtype, zero, opset), tmp_path / "m.onnx")
    save_graph(graph_from_onnx(tmp_path / "m.onnx"), tmp_path / "graph.onnx")
    options = BuildOptions(precision=Precision.FP32, threads=1)
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, options)
    engine = backend("cpu").load(tmp_path / result.engine, threads=1)
    got = engine.run({"x": X})["y"]
    engine.close()
    np.testing.assert_array_equal(got, in_numpy(operator, dtype, zero))


@pytest.mark.parametrize(
    ("operator", "dtype", "operators"),
    [
        ("Relu", ml_dtypes.float8_e4m3fn, ["Max"]),
        ("Clip", ml_dtypes.float8_e4m3fn, ["Max", "Min"]),
        ("Relu", np.int8, ["Relu"]),
    ],
)
def test_only_quantizers_of_other_types_need_it(operator: str, dtype: type, operators: list[str]) -> None:
    graph = ir.from_proto(model_of(operator, dtype, 0))
    assert KeepBounds(operator)(graph).modified is (operators != [operator])
    nodes = list(graph.graph)[: len(operators)]
    assert [node.op_type for node in nodes] == operators
    assert (nodes[-1].name, nodes[-1].outputs[0].name) == ("bounded", "r")
