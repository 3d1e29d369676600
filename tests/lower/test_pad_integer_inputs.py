from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.lower.pad_integer_inputs import MIN_WEIGHTS, PadIntegerInputs

SCALE, ZERO = np.float32(0.03), np.uint8(20)
AROUND = [1, 1, 1, 1]
OTHER_INPUT = "it does not read uint8 with one scale and a zero point other than 0"


def _model(
    shape: tuple[Any, ...],
    weight: tuple[int, ...],
    *,
    pool: dict[str, Any] | None = None,
    zero: Any = ZERO,
    scale: Any = SCALE,
    **attributes: Any,
) -> onnx.ModelProto:
    """x, bytes -> DequantizeLinear (-> MaxPool) -> Conv of bytes -> y."""
    rng = np.random.default_rng(3)
    constants = {
        "scale": scale,
        "zero": zero,
        "weight": rng.integers(-127, 128, weight, dtype=np.int8),
        "step": rng.uniform(0.01, 0.02, weight[0]).astype(np.float32),
        "none": np.zeros(weight[0], np.int8),
        "bias": rng.standard_normal(weight[0]).astype(np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"], "real", axis=1),
        helper.make_node("DequantizeLinear", ["weight", "step", "none"], ["weight_real"], "weight_real", axis=0),
    ]
    if pool is not None:
        nodes.append(helper.make_node("MaxPool", ["real"], ["pooled"], "pool", **pool))
    read = "real" if pool is None else "pooled"
    nodes.append(helper.make_node("Conv", [read, "weight_real", "bias"], ["y"], "conv", **attributes))
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(zero).dtype)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


@given(
    batch=st.integers(1, 2),
    groups=st.integers(1, 2),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(*[st.integers(0, 2)] * 4).filter(any),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pooled=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_results_at_the_border_are_unchanged(
    batch: int, groups: int, size: tuple[int, int], pads: tuple[int, ...], stride: int, dilation: int, pooled: bool
) -> None:
    pool = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "strides": [1, 1]} if pooled else None
    window = [1 + (dilation * 2 if side + before + after > dilation * 2 else 0) for side, before, after in
              zip(size, pads[:2], pads[2:], strict=True)]  # fmt: skip
    taps = [3 if side > 1 else 1 for side in window]
    model = _model(
        (batch, 2 * groups, *size),
        (20 * batch * groups, 2, *taps),
        pool=pool,
        group=groups,
        pads=pads,
        strides=[stride, stride],
        dilations=[dilation, dilation],
    )
    x = np.random.default_rng(0).integers(0, 256, (batch, 2 * groups, *size), dtype=np.uint8)
    expected = run_unfused(model, {"x": x})[0]
    usual = {"real": 1, "pooled": 1}
    model, modified = rewritten(model, PadIntegerInputs(usual))
    assert modified
    onnx.checker.check_model(model, full_check=True)
    names = [node.op_type for node in model.graph.node]
    assert names == ["DequantizeLinear", *["MaxPool"] * pooled, "Pad", "DequantizeLinear", "Conv"]
    conv = model.graph.node[-1]
    assert conv.name == "conv" and "pads" not in {attribute.name for attribute in conv.attribute}
    assert np.allclose(run_unfused(model, {"x": x})[0], expected, rtol=1e-5, atol=1e-4)


def test_other_consumers_of_the_input_are_unchanged() -> None:
    model = _model((1, 8, 4, 4), (160, 8, 3, 3), pads=AROUND)
    model.graph.node.append(helper.make_node("Relu", ["real"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    model, _ = rewritten(model, PadIntegerInputs())
    x = np.full((1, 8, 4, 4), 30, np.uint8)
    assert np.allclose(run_unfused(model, {"x": x})[1], SCALE * 10)


def test_nodes_without_names_get_distinct_names() -> None:
    model = _model((1, 8, 4, 4), (160, 8, 3, 3), pads=AROUND)
    conv = model.graph.node[-1]
    conv.name = ""
    model.graph.node.append(helper.make_node("Conv", conv.input, ["z"], pads=[2, 0, 0, 1]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 4, 4), dtype=np.uint8)
    expected = run_unfused(model, {"x": x})
    model, _ = rewritten(model, PadIntegerInputs())
    assert [node.op_type for node in model.graph.node].count("Pad") == 2
    for got, exact in zip(run_unfused(model, {"x": x}), expected, strict=True):
        assert np.allclose(got, exact, rtol=1e-5, atol=1e-4)


def test_padding_pays_off_only_with_many_weights() -> None:
    shape, taps = (1, 8, 6, 6), 8 * 9
    enough = MIN_WEIGHTS * 8 * 6 * 6 // taps
    assert rewritten(_model(shape, (enough, 8, 3, 3), pads=AROUND), PadIntegerInputs())[1]
    assert stays(_model(shape, (enough - 1, 8, 3, 3), pads=AROUND), PadIntegerInputs())


def test_dynamic_sizes_count_as_their_opt_sizes() -> None:
    model = _model((1, 8, "H", "W"), (40, 8, 3, 3), pads=AROUND)
    assert stays(model, PadIntegerInputs({"real": 8 * 6 * 7}))
    assert rewritten(model, PadIntegerInputs({"real": 8 * 4 * 4}))[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "it has no pads"),
        ({"pads": [0, 0, 0, 0]}, "it has no pads"),
        ({"auto_pad": "SAME_UPPER"}, "it has no pads"),
        ({"pads": AROUND, "zero": np.uint8(0)}, OTHER_INPUT),
        ({"pads": AROUND, "zero": np.int8(3)}, OTHER_INPUT),
        ({"pads": AROUND, "scale": np.full(8, SCALE), "zero": np.full(8, ZERO)}, OTHER_INPUT),
    ],
)
def test_others_stay(options: dict[str, Any], reason: str, reasons: Callable[[], list[str]]) -> None:
    model = _model((1, 8, 4, 4), (160, 8, 3, 3), **options)
    assert stays(model, PadIntegerInputs())
    (told,) = reasons()
    assert told == f"PadIntegerInputs: Conv 'conv' stays: {reason}"


def test_float_weights_stay() -> None:
    model = _model((1, 8, 4, 4), (160, 8, 3, 3), pads=AROUND)
    model.graph.node[1].CopyFrom(helper.make_node("Cast", ["weight"], ["weight_real"], to=TensorProto.FLOAT))
    assert stays(model, PadIntegerInputs())


def test_unknown_sizes_stay() -> None:
    model = _model((1, 8, 4, 4), (160, 8, 3, 3), pads=AROUND)
    for value in (*model.graph.value_info, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    assert stays(model, PadIntegerInputs())


@pytest.mark.parametrize("name", ["weight", "zero"])
def test_external_weights_stay(name: str) -> None:
    model = _model((1, 8, 4, 4), (160, 8, 3, 3), pads=AROUND)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.external_data.add(key="location", value="weights.data")
    tensor.data_location = TensorProto.EXTERNAL
    assert stays(model, PadIntegerInputs())
