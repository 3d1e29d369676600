from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_exactly, run_unfused, stays

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.table import entry_of
from edgekit.lower.split_float_weights import MAX_CHANNELS, MIN_CHANNELS, SplitFloatWeights
from edgekit.specs import Precision

SCALE, ZERO = np.float32(0.03), np.uint8(20)


def _model(weight: np.ndarray, bias: np.ndarray | None = None, *, dtype: Any = np.uint8, **attributes: Any) -> Any:
    """x (N, C, H, W), bytes -> DequantizeLinear -> Conv -> y."""
    constants = {"scale": SCALE, "zero": np.asarray(ZERO, dtype), "weight": weight.astype(np.float32)}
    if bias is not None:
        constants["bias"] = bias.astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"], name="real"),
        helper.make_node("Conv", ["real", *list(constants)[2:]], ["y"], name="head", **attributes),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", "C", "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "O", "h", "w"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(
    batch=st.integers(1, 3),
    channels=st.integers(MIN_CHANNELS, MIN_CHANNELS + 40),
    outputs=st.integers(1, 70),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    magnitude=st.sampled_from([1e-6, 1.0, 1e4]),
    with_bias=st.booleans(),
    fused=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_the_error_is_that_of_rounding_weights_to_16_bits(
    batch: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    magnitude: float,
    with_bias: bool,
    fused: bool,
    seed: int,
) -> None:
    weight = magnitude * _weight(outputs, channels, 1, 1, seed=seed)
    weight[0] = 0
    model = _model(weight, magnitude * _weight(outputs, seed=seed + 1) if with_bias else None)
    x = np.random.default_rng(seed).integers(0, 256, (batch, channels, *size), dtype=np.uint8)
    real = np.abs(SCALE * (x.astype(np.float64) - ZERO)).sum(axis=1)
    largest = np.abs(weight).max(axis=(1, 2, 3))
    exact = run_unfused(model, {"x": x})[0]
    model, modified = rewritten(model, SplitFloatWeights(fused=fused))
    assert modified
    onnx.checker.check_model(model)
    bound = largest[None, :, None, None] * real[:, None] * (2**-15.9 + 64 * np.finfo(np.float32).eps)
    assert (np.abs(run_exactly(model, {"x": x})[0] - exact) <= bound + 1e-5 * magnitude).all()


def test_half_precision_has_a_larger_error() -> None:
    weight = _weight(64, 512, 1, 1)
    x = np.random.default_rng(0).integers(0, 256, (1, 512, 8, 8), dtype=np.uint8)
    real = SCALE * (x.astype(np.float64) - ZERO)
    exact, half = (
        np.einsum("oc,nchw->nohw", w[:, :, 0, 0].astype(np.float64), real) for w in (weight, np.half(weight))
    )
    model, _ = rewritten(_model(weight), SplitFloatWeights())
    split = run_exactly(model, {"x": x})[0]
    assert np.std(split - exact) < 0.25 * np.std(half - exact)


def test_unused_nodes_are_removed() -> None:
    model, _ = rewritten(_model(_weight(4, MIN_CHANNELS, 1, 1)), SplitFloatWeights())
    assert [node.op_type for node in model.graph.node] == [
        "Transpose",
        "MatMulIntegerToFloat",
        "MatMulIntegerToFloat",
        "Add",
        "Transpose",
    ]
    assert [node.name for node in model.graph.node[1:3]] == ["head.upper_plane", "head.lower_plane"]
    assert list(model.graph.node[-1].output) == ["y"]
    assert "weight" not in {tensor.name for tensor in model.graph.initializer}


def test_in_standard_operators_both_planes_are_convolutions() -> None:
    model, _ = rewritten(_model(_weight(4, MIN_CHANNELS, 1, 1), _weight(4)), SplitFloatWeights(fused=False))
    names = [node.op_type for node in model.graph.node]
    assert names == ["DequantizeLinear"] * 3 + ["Conv", "Conv", "Add"]
    assert "weight" not in {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("fused", [True, False])
def test_nodes_without_names_get_distinct_names(fused: bool) -> None:
    model = _model(_weight(4, MIN_CHANNELS, 1, 1))
    first = model.graph.node[1]
    first.name = ""
    model.graph.node.append(helper.make_node("Conv", ["real", "other_weight"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(_weight(6, MIN_CHANNELS, 1, 1, seed=1), "other_weight"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", "O", "h", "w"]))
    x = np.random.default_rng(0).integers(0, 256, (1, MIN_CHANNELS, 3, 3), dtype=np.uint8)
    expected = run_unfused(model, {"x": x})
    model, modified = rewritten(model, SplitFloatWeights(fused=fused))
    assert modified
    ends = {node.name for node in model.graph.node if node.name.endswith("_plane")}
    assert ends == {f"{name}.{part}_plane" for name in "yz" for part in ("upper", "lower")}
    for got, exact in zip(run_exactly(model, {"x": x}), expected, strict=True):
        assert np.allclose(got, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())


def test_other_consumers_of_the_floats_are_unchanged() -> None:
    model = _model(_weight(4, MIN_CHANNELS, 1, 1))
    model.graph.node.append(helper.make_node("Relu", ["real"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    x = np.full((1, MIN_CHANNELS, 2, 2), 30, np.uint8)
    model, _ = rewritten(model, SplitFloatWeights())
    assert np.allclose(run_unfused(model, {"x": x})[1], SCALE * 10)


@pytest.mark.parametrize(
    ("shape", "attributes", "reason"),
    [
        ((4, MIN_CHANNELS, 3, 3), {"pads": [1, 1, 1, 1]}, "its kernel is not 1 x 1"),
        ((4, MIN_CHANNELS, 1, 1), {"pads": [1, 1, 1, 1]}, "it has pads"),
        ((4, MIN_CHANNELS, 1, 1), {"strides": [2, 2]}, "its stride is not 1"),
        ((4, MIN_CHANNELS, 1, 1), {"group": 2}, "it has groups"),
        ((4, MIN_CHANNELS, 1), {}, "its kernel is not 1 x 1"),
        ((4, MIN_CHANNELS - 1, 1, 1), {}, "two integer products do not pay off for 127 channels, or overflow"),
        ((1, MAX_CHANNELS + 1, 1, 1), {}, "two integer products do not pay off for 32769 channels, or overflow"),
        ((4, MIN_CHANNELS, 1, 1), {"dtype": np.int8}, "it does not read uint8 with one scale"),
    ],
)
def test_others_stay(
    shape: tuple[int, ...], attributes: dict[str, Any], reason: str, reasons: Callable[[], list[str]]
) -> None:
    model = _model(_weight(*shape), **attributes)
    assert stays(model, SplitFloatWeights())
    (told,) = reasons()
    assert told == f"SplitFloatWeights: Conv 'head' stays: {reason}"


def test_external_weights_stay(reasons: Callable[[], list[str]]) -> None:
    model = _model(_weight(4, MIN_CHANNELS, 1, 1))
    model.graph.initializer[2].external_data.add(key="location", value="weights.data")
    model.graph.initializer[2].data_location = TensorProto.EXTERNAL
    assert stays(model, SplitFloatWeights())
    (told,) = reasons()
    assert told.endswith("its weights are computed, or are external")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_the_engine_splits_where_it_is_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, fast: bool
) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    name = entry_of(target).backend.partition(":")[0]
    here = cpu()
    if target == "openvino" and fast and not here.fast_int8:
        pytest.skip("sums of products with planes of 8 bits overflow in OpenVINO without VNNI")
    for module in (name, name.replace(".backend", ".lowering")):
        monkeypatch.setattr(importlib.import_module(module), "cpu", lambda: _Processor(here, "x86_64", fast))
    model = _model(_weight(4, MIN_CHANNELS, 1, 1), _weight(4))
    x = np.random.default_rng(0).integers(0, 256, (2, MIN_CHANNELS, 5, 3), dtype=np.uint8)
    exact = run_unfused(model, {"x": x})[0]
    onnx.save(_with_a_quantized_convolution(model), tmp_path / "graph.onnx")
    result = backend(target).build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.INT8))
    assert result.layers == ({"int8": 1, "int16": 1} if fast else {"int8": 1, "float32": 1})
    engine = backend(target).load(tmp_path / result.engine)
    assert [spec.shape[1:2] for spec in engine.outputs] == [(4,), (1,)]
    y = engine.run({"x": x})["y"]
    assert y.shape == exact.shape
    assert np.allclose(y, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())
    engine.close()


class _Processor:
    """This machine, with other CPU features."""

    def __init__(self, here: Any, arch: str, fast_int8: bool) -> None:
        self.arch, self.fast_int8, self.compute_threads = arch, fast_int8, here.compute_threads


def _with_a_quantized_convolution(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` plus an integer convolution on the same input, without which no engine counts as INT8."""
    graph = model.graph
    weight = np.ones((1, MIN_CHANNELS, 1, 1), np.int8)
    graph.initializer.append(numpy_helper.from_array(weight, "ones"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "none"))
    graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["ones", "scale", "none"], ["ones_real"]),
            helper.make_node("Conv", ["real", "ones_real"], ["sum"], name="sum"),
            helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["sum_bytes"]),
            helper.make_node("DequantizeLinear", ["sum_bytes", "scale", "zero"], ["total"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N", 1, "H", "W"]))
    return model
