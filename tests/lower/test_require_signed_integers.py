"""Integers that TensorRT does not take are refused before an engine or a graph for another machine is built."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgekit
from edgekit.errors import GraphError
from edgekit.lower.require_signed_integers import other_integers, require_signed_integers

PAIR = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1, 4, 6, 6] x) => (float[1, 4, 4, 4] y)
<float s = {0.05}, ACTIVATION z = {ZERO}, float t = {0.01}, WEIGHT o = {0}>
{ [first] q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
  [second] v = DequantizeLinear (w, t, o)  [conv] y = Conv (d, v) }"""


def model_of(activation: str, zero: int, weight: str) -> onnx.ModelProto:
    text = PAIR.replace("ACTIVATION", activation).replace("ZERO", str(zero)).replace("WEIGHT", weight)
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).integers(0, 100, (4, 4, 3, 3)).astype(weight)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return onnx.shape_inference.infer_shapes(proto)


@pytest.mark.parametrize(
    ("activation", "zero", "weight", "node", "got"),
    [
        ("uint8", 128, "int8", "first", "uint8"),
        ("uint8", 0, "int8", "first", "uint8"),  # TensorRT's parser takes it for int8, and cuts off at 127 steps
        ("int8", -3, "int8", "first", "a zero point of -3"),
        ("int16", 0, "int8", "first", "int16"),
        ("int8", 0, "uint8", "second", "uint8"),
        ("int8", 0, "int32", "second", "int32"),
    ],
)
def test_other_integers_are_refused(activation: str, zero: int, weight: str, node: str, got: str) -> None:
    graph = ir.from_proto(model_of(activation, zero, weight))
    with pytest.raises(GraphError, match=f"Linear', node '{node}': expected .* got {got}\n") as caught:
        require_signed_integers(graph, "a hint")
    assert caught.value.hint == "a hint"
    found = other_integers(graph)
    assert found is not None and (found.node.name, found.found) == (node, got)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_signed_integers_around_zero_are_taken(target: Literal["tensorrt", "tensorrt-rtx"], tmp_path: Path) -> None:
    onnx.save(model_of("int8", 0, "int8"), tmp_path / "m.onnx")
    output = tmp_path / "out"
    edgekit.build(tmp_path / "m.onnx", precision="int8", target=target, graph_only=True, output=output, progress=False)
    types = [node.op_type for node in onnx.load(output / "graph.onnx").graph.node]
    assert sorted(types) == ["Conv", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear"]


def test_integers_of_each_run_are_refused(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[2, 4] x, float[4, 3] w, float t, uint8 o) => (float[2, 3] y)
    { [of_x] q, s, z = DynamicQuantizeLinear (x)  k = QuantizeLinear (w, t, o)  m = MatMulInteger (q, k, z, o)
      f = Cast <to = 1> (m)  a = Mul (s, t)  y = Mul (f, a) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="'DynamicQuantizeLinear', node 'of_x': .* does not have") as caught:
        edgekit.build(
            tmp_path / "m.onnx",
            precision="int8",
            target="tensorrt",
            graph_only=True,
            output=tmp_path / "out",
            progress=False,
        )
    assert "build it from its float original" in str(caught.value.hint)
