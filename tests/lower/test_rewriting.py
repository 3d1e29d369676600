from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from edgekit.lower.rewriting import element_count, usual_element_counts
from edgekit.specs import ShapeRange

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 3, H, W] x, float[N, 3] other) => (float[N, 3, H, W] y, float[N, 3] z) {
  a = Relu(x)
  y = Relu(a)
  z = Relu(other)
}
"""
RANGE = {"x": ShapeRange((1, 3, 4, 4), (2, 3, 8, 10), (4, 3, 16, 16))}


@pytest.fixture
def graph() -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TEXT)))


def test_elements_are_counted_at_the_opt_sizes(graph: ir.Model) -> None:
    before = ir.to_proto(graph).SerializeToString()
    assert usual_element_counts(graph, RANGE) == {"a": 480, "y": 480, "z": 6}
    assert ir.to_proto(graph).SerializeToString() == before
    assert usual_element_counts(graph, {}) == {}


def test_dynamic_sizes_count_as_one_without_opt_sizes(graph: ir.Model) -> None:
    a = graph.graph[0].outputs[0]
    assert element_count(a, {}) == 3
    assert element_count(a, {"a": 480}) == 480
    a.shape = None
    assert element_count(a, {}) is None
