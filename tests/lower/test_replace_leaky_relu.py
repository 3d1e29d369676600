from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.replace_leaky_relu import MIN_ELEMENTS, ReplaceLeakyRelu
from edgekit.specs import Precision, ShapeRange

LARGE = [1, MIN_ELEMENTS // 256, 16, 16]


def _model(scale: float, zero: int, out_scale: float, out_zero: int, slope: float, shape: list[int]) -> onnx.ModelProto:
    constants = [
        numpy_helper.from_array(np.float32(scale).reshape(()), "s"),
        numpy_helper.from_array(np.uint8(zero).reshape(()), "z"),
        numpy_helper.from_array(np.float32(out_scale).reshape(()), "t"),
        numpy_helper.from_array(np.uint8(out_zero).reshape(()), "w"),
    ]
    nodes = [
        helper.make_node(
            "QLinearLeakyRelu", ["x", "s", "z", "t", "w"], ["y"], name="act", domain="com.microsoft", alpha=slope
        ),
        helper.make_node("Identity", ["y"], ["out"]),
    ]
    free = [1, "C", 16, 16]
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, free) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.UINT8, shape))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return run_unfused(model, {"x": x})[0]


@given(
    scale=st.floats(1e-3, 1.0),
    ratio=st.floats(0.1, 10.0),
    zero=st.integers(0, 255),
    out_zero=st.integers(0, 255),
    slope=st.sampled_from([0.01, 0.1, 0.2, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_every_byte_maps_to_the_same_value_as_in_the_table(
    scale: float, ratio: float, zero: int, out_zero: int, slope: float
) -> None:
    model = _model(scale, zero, scale * ratio, out_zero, slope, LARGE)
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    before = _run(model, every)
    model, modified = rewritten(model, ReplaceLeakyRelu())
    assert modified
    assert [node.op_type for node in model.graph.node] == ["Clip", "QLinearAdd", "Identity"]
    assert (model.graph.node[1].name, list(model.graph.node[1].output)) == ("act", ["y"])
    difference = np.abs(_run(model, every).astype(int) - before)
    assert difference.max() <= 1
    # Only what lies halfway between two steps may be rounded to the other one.
    exact = (every.astype(float) - zero) / np.float32(scale * ratio) * np.float32(scale)
    exact = np.where(exact > 0, exact, exact * slope)
    assert np.abs(np.abs(exact - np.trunc(exact)) - 0.5)[difference > 0].max(initial=0) < 1e-3


@pytest.mark.parametrize(
    ("slope", "shape", "reason"),
    [
        (0.1, [1, 8, 16, 16], "the look-up table is faster for 2048 elements"),
        (0.0, LARGE, "its slope is not between 0 and 1"),
        (1.5, LARGE, "its slope is not between 0 and 1"),
        (-0.1, LARGE, "its slope is not between 0 and 1"),
    ],
    ids=str,
)
def test_small_tensors_and_other_slopes_are_left_alone(
    slope: float, shape: list[int], reason: str, reasons: Callable[[], list[str]]
) -> None:
    assert stays(_model(0.1, 10, 0.1, 10, slope, shape), ReplaceLeakyRelu())
    assert reasons() == [f"ReplaceLeakyRelu: QLinearLeakyRelu 'act' stays: {reason}"]


def test_opt_sizes_are_used_if_they_are_known() -> None:
    model = _model(0.1, 10, 0.1, 10, 0.1, [1, 8, 16, 16])
    assert rewritten(model, ReplaceLeakyRelu({"y": MIN_ELEMENTS}))[1]
    assert stays(model, ReplaceLeakyRelu({"y": MIN_ELEMENTS - 1}))


def test_one_without_a_scalar_zero_point_or_a_shape_is_left_alone() -> None:
    model = _model(0.1, 10, 0.1, 10, 0.1, LARGE)
    model.graph.node[0].input[2] = ""
    assert stays(model, ReplaceLeakyRelu())
    model = _model(0.1, 10, 0.1, 10, 0.1, LARGE)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.uint8([10]), "z"))  # Clip takes no vector
    assert stays(model, ReplaceLeakyRelu())
    model = _model(0.1, 10, 0.1, 10, 0.1, LARGE)
    del model.graph.value_info[:]
    assert stays(model, ReplaceLeakyRelu())


@pytest.mark.parametrize("sides", [(256, 256), ("h", "w")])
def test_an_engine_with_a_large_leaky_relu_matches_its_graph(
    tmp_path: Path, sides: tuple[int | str, int | str]
) -> None:
    """``Conv -> LeakyRelu`` between Q and DQ, built by ONNX Runtime; the dynamic batch size counts as 1."""
    rng = np.random.default_rng(0)
    size = 256
    constants = {
        "s": np.float32(1 / 255),
        "z": np.uint8(0),
        "t": np.float32(0.02),
        "w": np.uint8(100),
        "u": np.float32(0.015),
        "v": np.uint8(20),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "kernel": rng.integers(-40, 40, (8, 3, 3, 3), dtype=np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["kernel", "ws", "wz"], ["kf"]),
        helper.make_node("Conv", ["xf", "kf"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "t", "w"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "t", "w"], ["cf"]),
        helper.make_node("LeakyRelu", ["cf"], ["a"], name="act", alpha=0.1),
        helper.make_node("QuantizeLinear", ["a", "u", "v"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "u", "v"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *sides])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, *sides])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    path = tmp_path / "graph.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)

    library = backend("cpu")
    shapes = {"x": ShapeRange((1, 3, 8, 8), (1, 3, size, size), (4, 3, size, size))} if "h" in sides else {}
    result = library.build(path, tmp_path, BuildOptions(precision=Precision.INT8, shapes=shapes))
    operators = [node.op_type for node in onnx.load(tmp_path / result.engine).graph.node]
    ours = ["Clip", "QLinearAdd"] if cpu().arch == "x86_64" else ["QLinearLeakyRelu"]
    assert operators == ["QuantizeLinear", "QLinearConv", *ours, "DequantizeLinear"]

    images = rng.random((2, 3, size, size), dtype=np.float32)
    built = library.load(tmp_path / result.engine, threads=1).run({"x": images})["y"]
    difference = np.abs(built - run_unfused(path, {"x": images})[0])
    assert difference.max() <= 0.0301 and np.count_nonzero(difference > 1e-6) < difference.size // 100
