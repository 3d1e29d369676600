"""The smallest part of a graph that gives wrong numbers: found in few steps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from edgekit.errors import BuildError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.passes import InferShapes
from edgekit.pipeline.smallest import smallest_graph

LAYERS = 48


def _chain() -> ir.Model:
    nodes = [helper.make_node("Sin", [f"v{i - 1}" if i else "x"], [f"v{i}"], name=f"layer{i}") for i in range(LAYERS)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    outputs = [helper.make_tensor_value_info(f"v{LAYERS - 1}", TensorProto.FLOAT, [1, 8])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    InferShapes()(model)
    return model


@pytest.mark.parametrize("wrong_from", [1, 2, 3, 7, 8, 9, 31, LAYERS, LAYERS + 1])
@pytest.mark.parametrize("refused_below", [0, 5])
def test_the_part_is_wrong_and_one_layer_less_is_not(wrong_from: int, refused_below: int) -> None:
    tried: list[int] = []

    def run(part: ir.Model, arrays: dict[str, np.ndarray], output: str) -> np.ndarray:
        tried.append(len(part.graph))
        if len(part.graph) < refused_below:
            raise BuildError("refused")
        return Evaluator(part).run(arrays)[output] + (len(part.graph) >= wrong_from)

    last = f"v{LAYERS - 1}"
    feed = {"x": np.linspace(0.1, 1, 8, dtype=np.float32).reshape(1, 8)}
    found = smallest_graph(_chain(), _chain(), value=last, read=last, feed=feed, run=run, limit_db=30, save=None)
    layers = min(max(wrong_from, refused_below), LAYERS)
    assert found.nodes == tuple(f"layer{i}" for i in range(LAYERS - layers, LAYERS))
    assert (found.sqnr_db < 30) == (wrong_from <= LAYERS)
    assert len(tried) <= 13  # doubled up to the 48 layers, and bisected from there
