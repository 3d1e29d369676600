from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.lower.narrow_weights import LARGEST, NarrowWeights

CHANNELS, OUTPUTS = 6, 5


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    *,
    shape: tuple[int, ...] = (2, CHANNELS, 4, 4),
    rank: int = 4,
    opset: int = 20,
) -> onnx.ModelProto:
    """A graph of x, of this shape, and y, of this rank."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"size{axis}" for axis in range(rank)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _conv(weights: np.ndarray, scale: Any, zero: Any) -> onnx.ModelProto:
    """Dequantized weights, per tensor or per output, and a convolution of x."""
    constants = {"w": weights, "scale": scale} | ({} if zero is None else {"zero": zero})
    nodes = [
        helper.make_node("DequantizeLinear", list(constants), ["real"], "weights", axis=0),
        helper.make_node("Conv", ["x", "real"], ["y"], "conv"),
    ]
    return _model(nodes, constants)


def _x(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@given(
    dtype=st.sampled_from([np.int8, np.uint8]),
    per_output=st.booleans(),
    with_zero=st.booleans(),
    kernel=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_each_weight_moves_by_half_a_7_bit_step_at_most(
    dtype: type, per_output: bool, with_zero: bool, kernel: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    weights: np.ndarray = rng.integers(limits.min, limits.max + 1, (OUTPUTS, CHANNELS, kernel, kernel)).astype(dtype)
    weights.flat[0] = limits.max
    size = (OUTPUTS,) if per_output else ()
    scale = rng.uniform(0.01, 1, size).astype(np.float32)
    zero: np.ndarray | None = rng.integers(max(limits.min, -9), 9, size).astype(dtype) if with_zero else None
    model = _conv(weights, scale, zero)

    def spread(array: np.ndarray | None) -> np.ndarray:
        return np.reshape(0.0 if array is None else array.astype(np.float64), (-1, 1, 1, 1))

    real = (weights - spread(zero)) * spread(scale)
    over = (1, 2, 3) if per_output else None
    least_step = np.abs(real).max(axis=over, keepdims=True) / LARGEST
    x = _x(2, CHANNELS, 4, 4)
    expected = run_unfused(model, {"x": x})[0]
    model, modified = rewritten(model, NarrowWeights())
    assert modified
    onnx.checker.check_model(model, full_check=True)
    stored = _weights_of(model)
    narrow = stored["real.narrow"].astype(np.float64)
    assert stored["real.narrow"].dtype == np.int8 and np.abs(narrow).max() == LARGEST
    assert stored["real.narrow_scale"].shape == size and not stored["real.narrow_zero_point"].any()
    allowed = 0.501 * np.maximum(least_step, spread(scale))
    assert (np.abs(narrow * spread(stored["real.narrow_scale"]) - real) <= allowed).all()
    # Inputs are between 0 and 1, so an output moves by the sum of its weights' errors at most.
    bound = np.broadcast_to(allowed, real.shape).sum(axis=(1, 2, 3))
    assert (np.abs(run_unfused(model, {"x": x})[0] - expected) <= bound[None, :, None, None] + 1e-3).all()


def test_channels_that_fit_keep_their_values() -> None:
    weights = np.random.default_rng(0).integers(-LARGEST, LARGEST + 1, (OUTPUTS, CHANNELS, 1, 1)).astype(np.int8)
    weights[1, 0] = 127
    scale = np.linspace(0.1, 0.5, OUTPUTS, dtype=np.float32)
    model, _ = rewritten(_conv(weights, scale, np.zeros(OUTPUTS, np.int8)), NarrowWeights())
    stored, others = _weights_of(model), [0, 2, 3, 4]
    assert (stored["real.narrow"][others] == weights[others]).all()
    assert (stored["real.narrow_scale"][others] == scale[others]).all()
    assert stored["real.narrow"][1, 0] == LARGEST
    assert set(stored) == {"real.narrow", "real.narrow_scale", "real.narrow_zero_point"}


def test_a_matrix_with_a_scale_per_column_in_another_layout() -> None:
    """What PyTorch exports: the weights are transposed behind their DequantizeLinear, and have axis 0."""
    weights = np.random.default_rng(0).integers(-127, 128, (OUTPUTS, CHANNELS)).astype(np.int8)
    scale = np.linspace(0.1, 0.5, OUTPUTS, dtype=np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["real"], axis=-2),
        helper.make_node("Transpose", ["real"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    model = _model(nodes, {"w": weights, "scale": scale}, shape=(3, CHANNELS), rank=2)
    x = _x(3, CHANNELS)
    expected = run_unfused(model, {"x": x})[0]
    model, modified = rewritten(model, NarrowWeights())
    assert modified
    got = run_unfused(model, {"x": x})[0]
    assert (np.abs(got - expected) <= 127 / LARGEST * CHANNELS * 0.5 * scale).all()
    assert not np.array_equal(got, expected)


def test_float_weights_through_a_pair_are_quantized_first() -> None:
    weights = np.random.default_rng(0).standard_normal((OUTPUTS, CHANNELS, 1, 1)).astype(np.float32)
    constants = {"w": weights, "scale": np.float32(0.01), "zero": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["real"]),
        helper.make_node("Conv", ["x", "real"], ["y"]),
    ]
    model, modified = rewritten(_model(nodes, constants), NarrowWeights())
    assert modified
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Conv"]
    stored = _weights_of(model)
    clipped = np.clip(np.rint(weights / np.float32(0.01)), -128, 127)
    assert (stored["real.narrow"] == np.rint(clipped * LARGEST / np.abs(clipped).max())).all()


def test_weights_in_a_file_are_read(tmp_path: Path) -> None:
    weights = np.full((OUTPUTS, CHANNELS, 1, 1), 127, np.int8)
    path = tmp_path / "graph.onnx"
    model = _conv(weights, np.float32(0.1), np.int8(0))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph = ir.load(path)
    passes = NarrowWeights()
    assert passes(graph).modified and passes.count == 1
    narrow = graph.graph.initializers["real.narrow"].const_value
    assert narrow is not None and (narrow.numpy() == LARGEST).all()


def test_others_stay(reasons: Callable[[], list[str]]) -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(-127, 128, (OUTPUTS, CHANNELS, 1, 1)).astype(np.int8)
    scale, zero = np.float32(0.1), np.int8(0)
    table = _model(
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["real"], "weights"),
            helper.make_node("Cast", ["x"], ["rows"], to=TensorProto.INT64),
            helper.make_node("Gather", ["real", "rows"], ["y"]),
        ],
        {"w": wide, "scale": scale, "zero": zero},
        shape=(3,),
    )
    activations = _model(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["real"], "weights"),
            helper.make_node("Conv", ["real", "w"], ["y"]),
        ],
        {"w": wide.astype(np.float32), "scale": scale, "zero": zero},
    )
    computed = _conv(wide, scale, zero)
    computed.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    for model, reason in (
        (_conv(np.clip(wide, -LARGEST, LARGEST), scale, zero), "its weights have 7 bits"),
        (table, "no convolution or matrix product reads it"),
        (activations, "its input is not an 8-bit constant"),
        (computed, "its scale is not a float32 constant"),
    ):
        assert stays(model, NarrowWeights())
        assert reasons() == [f"NarrowWeights: DequantizeLinear 'weights' stays: {reason}"]


def test_scales_per_block_stay(reasons: Callable[[], list[str]]) -> None:
    constants = {"w": np.full((4, 4), 127, np.int8), "scale": np.ones((2, 4), np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", list(constants), ["real"], "weights", axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "real"], ["y"]),
    ]
    model = _model(nodes, constants, shape=(3, 4), rank=2, opset=21)
    assert stays(model, NarrowWeights())
    assert reasons() == ["NarrowWeights: DequantizeLinear 'weights' stays: its scales are per block"]


@pytest.mark.parametrize("value", [0, LARGEST])
def test_weights_of_one_value_that_fits_stay(value: int) -> None:
    assert stays(_conv(np.full((OUTPUTS, CHANNELS, 1, 1), value, np.int8), np.float32(0.1), None), NarrowWeights())
