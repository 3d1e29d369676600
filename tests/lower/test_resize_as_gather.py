from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.device.cpu import cpu
from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.resize_as_gather import ResizeAsGather
from edgekit.specs import Precision

ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
NOT_KNOWN = "its input is not an 8-bit 4-D tensor with a known height and width"
OTHER_AXES = "it resizes the batch or channel axis too"
TWICE = {"scales": np.array([1, 1, 2, 2], np.float32)}


def _model(
    shape: tuple[Any, ...], constants: dict[str, np.ndarray], dtype: Any = np.uint8, **attributes: Any
) -> onnx.ModelProto:
    """x -> Resize -> Identity -> out; ``constants`` are the other inputs of ``Resize``, by ONNX name."""
    names = [name if name in constants else "" for name in ("roi", "scales", "sizes")]
    while names and not names[-1]:
        names.pop()
    nodes = [
        helper.make_node("Resize", ["x", *names], ["y"], name="up", **attributes),
        helper.make_node("Identity", ["y"], ["out"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("out", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    factors=st.tuples(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 3.7]), st.sampled_from([1.0, 2.0, 2.3, 4.0])),
    sizes=st.sampled_from([None, "all", "two"]),
    place=st.sampled_from(["half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
)
@settings(max_examples=150, deadline=None)
def test_every_pixel_is_a_copy_of_the_same_one(
    shape: tuple[int, ...], factors: tuple[float, float], sizes: str | None, place: str, rounding: str
) -> None:
    attributes: dict[str, Any] = {"coordinate_transformation_mode": place, "nearest_mode": rounding}
    constants = {"scales": np.array([1, 1, *factors], np.float32)}
    if sizes:
        wanted = [max(1, int(size * factor)) for size, factor in zip(shape[2:], factors, strict=True)]
        constants = {"sizes": np.array([*shape[:2], *wanted] if sizes == "all" else wanted, np.int64)}
        attributes |= {} if sizes == "all" else {"axes": [2, 3]}
    model = _model(shape, constants, **attributes)
    x = _bytes(*shape)
    if 0 in (int(size * factor) for size, factor in zip(shape[2:], factors, strict=True)):
        return  # nothing would be left
    expected = run_unfused(model, {"x": x})[0]
    model, modified = rewritten(model, ResizeAsGather())
    assert modified
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Gather", "Gather", "Transpose", "Identity"]
    assert model.graph.node[2].name == "up"
    assert np.array_equal(run_unfused(model, {"x": x})[0], expected)


def test_the_batch_size_may_be_dynamic() -> None:
    model = _model(("N", 3, 4, 5), TWICE, **ASYMMETRIC)
    model, modified = rewritten(model, ResizeAsGather())
    assert modified
    x = _bytes(2, 3, 4, 5)
    assert np.array_equal(run_unfused(model, {"x": x})[0], x.repeat(2, axis=2).repeat(2, axis=3))
    assert "scales" not in {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    ("shape", "constants", "dtype", "attributes", "reason"),
    [
        ((1, 3, 4, 5), TWICE, np.uint8, {"mode": "linear"}, "it interpolates"),
        ((1, 3, 4, 5), TWICE, np.float32, ASYMMETRIC, NOT_KNOWN),
        ((1, 3, "H", 5), TWICE, np.uint8, ASYMMETRIC, NOT_KNOWN),
        ((1, 3, 1 << 12, (1 << 12) + 1), TWICE, np.uint8, ASYMMETRIC, NOT_KNOWN),
        ((1, 3, 4, 5), {"scales": np.array([1, 2, 2, 2], np.float32)}, np.uint8, ASYMMETRIC, OTHER_AXES),
        ((2, 1, 4, 5), {"scales": np.array([2, 1, 2, 2], np.float32)}, np.uint8, ASYMMETRIC, OTHER_AXES),
        ((1, 3, 4, 5), {"sizes": np.array([1, 6, 8, 10])}, np.uint8, ASYMMETRIC, OTHER_AXES),
        ((1, 4, 5), {"scales": np.array([1, 2, 2], np.float32)}, np.uint8, ASYMMETRIC, NOT_KNOWN),
        (
            (1, 3, 4, 5),
            {"roi": np.array([0, 0, 0, 0, 1, 1, 2, 2], np.float32), "sizes": np.array([1, 3, 8, 10])},
            np.uint8,
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "its mode tf_crop_and_resize fills pixels outside the image",
        ),
    ],
)
def test_others_stay(
    shape: tuple[Any, ...],
    constants: dict[str, np.ndarray],
    dtype: Any,
    attributes: Any,
    reason: str,
    reasons: Callable[[], list[str]],
) -> None:
    model = _model(shape, constants, dtype, **attributes)
    assert stays(model, ResizeAsGather())
    (told,) = reasons()
    assert told == f"ResizeAsGather: Resize 'up' stays: {reason}"


def test_computed_scales_stay(reasons: Callable[[], list[str]]) -> None:
    model = _model((1, 3, 4, 5), TWICE, **ASYMMETRIC)
    model.graph.node.insert(0, helper.make_node("Identity", ["scales"], ["computed"]))
    model.graph.node[1].input[2] = "computed"
    assert stays(model, ResizeAsGather())
    (told,) = reasons()
    assert told.endswith("its scales or sizes are computed")


@pytest.mark.skipif(cpu().arch != "x86_64", reason="Resize stays as it is on Arm")
def test_the_engine_has_gathers(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).integers(-127, 128, (4, 4, 1, 1), dtype=np.int8)
    constants = {
        **TWICE,
        "scale": np.float32(0.02),
        "zero": np.uint8(100),
        "weight": weight,
        "none": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_bytes"]),
        helper.make_node("DequantizeLinear", ["x_bytes", "scale", "zero"], ["x_real"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "none"], ["weight_real"]),
        helper.make_node("Conv", ["x_real", "weight_real"], ["product"], name="conv"),
        helper.make_node("QuantizeLinear", ["product", "scale", "zero"], ["product_bytes"]),
        helper.make_node("DequantizeLinear", ["product_bytes", "scale", "zero"], ["product_real"]),
        helper.make_node("Resize", ["product_real", "", "scales"], ["large"], name="up", **ASYMMETRIC),
        helper.make_node("QuantizeLinear", ["large", "scale", "zero"], ["large_bytes"]),
        helper.make_node("DequantizeLinear", ["large_bytes", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 3, 5])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 10]))
    given_ = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], given_)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "graph.onnx")
    result = backend("cpu").build(tmp_path / "graph.onnx", tmp_path, BuildOptions(precision=Precision.INT8))
    operators = {node.op_type for node in onnx.load(tmp_path / result.engine).graph.node}
    assert "Gather" in operators and "Resize" not in operators
    x = np.random.default_rng(2).standard_normal((2, 4, 3, 5)).astype(np.float32)
    engine = backend("cpu").load(tmp_path / result.engine)
    assert np.allclose(engine.run({"x": x})["y"], run_unfused(model, {"x": x})[0], atol=0.0201)
    engine.close()
