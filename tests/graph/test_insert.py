"""Nodes behind a value: who reads what, compared with ONNX Runtime on the graph as it was."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.insert import float_node, new_initializer, pass_on

BODIES = {
    "read by others": "a = Relu (x)  b = Neg (a)  y = Add (a, b)  z = Abs (a)",
    "an output": "y = Relu (x)  z = Neg (y)",
    "an output that is returned alone": "y = Relu (x)  z = Neg (x)",
}


@pytest.mark.parametrize("name", BODIES)
def test_all_read_what_is_passed_on(graph_of, run_in_onnxruntime, name):
    graph = graph_of(f"g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {{ {BODIES[name]} }}")
    inputs = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}
    expected = run_in_onnxruntime(graph, inputs)
    value = graph.graph[0].outputs[0]
    two = new_initializer(graph, "two", np.float32(2))
    doubled = float_node("Mul", [value, two], "doubled", value.shape, constants="1")
    halved = float_node("Div", [doubled.outputs[0], two], "halved", value.shape, constants="1")
    pass_on(graph.graph, value, [doubled, halved], renamed="before")
    assert [use.node for use in value.uses()] == [doubled]
    assert [output.name for output in graph.graph.outputs] == ["y", "z"]
    for one, other in zip(expected, run_in_onnxruntime(graph, inputs), strict=True):
        np.testing.assert_array_equal(other, one)
