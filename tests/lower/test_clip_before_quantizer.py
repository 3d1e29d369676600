"""Integers of 16 bits on OpenVINO are limited to their range, as ONNX says; numpy computes the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgekit
from edgekit.errors import GraphError

WEIGHT = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)


def saved(path: Path, scale: np.ndarray, zero: np.ndarray, *, computed: bool = False, domain: str = "") -> Path:
    scale_name = "scale" if computed else "s"
    nodes = [
        helper.make_node("Abs", ["s"], ["scale"] if computed else ["unused"]),
        helper.make_node("QuantizeLinear", ["x", scale_name, "z"], ["q"], name="quantizer", domain=domain),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], domain=domain),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, [2, 3, 6])]
    if computed:
        inputs.append(helper.make_tensor_value_info("s", 1, []))
    constants = {"z": zero, "w": WEIGHT, **({} if computed else {"s": scale})}
    graph = helper.make_graph(
        nodes[0 if computed else 1 :],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", 1, [2, 3, 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def build(path: Path, **options: object) -> Path:
    return edgekit.build(
        path, precision="fp32", target="openvino", output=path.parent / "e", profile=False, progress=False, **options
    )


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize(
    ("scale", "zero"),
    [
        (np.asarray(2e-4, np.float32), np.asarray(32768, np.uint16)),
        (np.asarray(2e-4, np.float32), np.asarray(-100, np.int16)),
        (np.asarray([1e-4, 2e-4, 4e-4], np.float32), np.asarray([0, 30000, 65535], np.uint16)),
    ],
)
def test_numbers_beyond_16_bits_are_limited(scale: np.ndarray, zero: np.ndarray, domain: str, tmp_path: Path) -> None:
    x = (np.random.default_rng(0).standard_normal((2, 3, 6)) * 10).astype(np.float32)
    s, z = (array.reshape(-1, 1) if array.ndim else array for array in (scale, zero.astype(np.int64)))
    limits = np.iinfo(zero.dtype)
    integers = np.clip(np.rint(x / s) + z, limits.min, limits.max)
    expected = ((integers - z) * s).astype(np.float32) @ WEIGHT
    with edgekit.load(build(saved(tmp_path / "m.onnx", scale, zero, domain=domain))) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, atol=2e-3)


def test_a_scale_that_is_computed_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", np.asarray(1.0, np.float32), np.asarray(0, np.uint16), computed=True)
    with pytest.raises(GraphError, match="node 'quantizer': this target does not limit integers of 16 bits") as error:
        build(path)
    assert "target='cpu'" in error.value.hint
