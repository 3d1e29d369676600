"""Tests that exactly the weights that nodes of the graph read become external."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.external_weights import external_weights


def test_a_weight_read_only_outside_of_the_graph_is_not_external() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[1, 32] x) => (float[1, 32] y) '
        "{ y = MatMul (x, w) z = MatMul (x, v) }"
    )
    for name in "wv":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(32, dtype=np.float32), name))
    graph = ir.from_proto(proto)
    # As a branch does that is folded away with its If: it goes on to use what it read.
    graph.graph.remove(graph.graph[1])
    assert graph.graph.initializers["v"].uses()
    with external_weights(graph) as held:
        assert set(held) == {"w"}
    x = np.ones((1, 32), np.float32)
    np.testing.assert_array_equal(Evaluator(graph).run({"x": x})["y"], x)
