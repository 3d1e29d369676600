"""Sessions of graphs with very many convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph import evaluator
from edgekit.graph.evaluator import Evaluator


def _convolutions(count: int) -> ir.Model:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32), f"w{i}") for i in range(count)
    ]
    nodes = [
        helper.make_node("Conv", [f"c{i - 1}" if i else "x", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1])
        for i in range(count)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])],
        [helper.make_tensor_value_info(f"c{count - 1}", TensorProto.FLOAT, [1, 8, 6, 6])],
        weights,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize(("most", "level"), [(3, "ORT_ENABLE_EXTENDED"), (4, "ORT_ENABLE_ALL")])
def test_memory_layouts_are_not_chosen_for_very_many_convolutions(
    most: int, level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    levels: list[Any] = []
    session = onnxruntime.InferenceSession

    def seen(model: bytes, options: onnxruntime.SessionOptions, **more: Any) -> onnxruntime.InferenceSession:
        levels.append(options.graph_optimization_level)
        return session(model, options, **more)

    monkeypatch.setattr(evaluator, "_MAX_BLOCKED", most)
    monkeypatch.setattr(onnxruntime, "InferenceSession", seen)
    graph = _convolutions(4)
    feed = {"x": np.random.default_rng(1).normal(size=(1, 8, 6, 6)).astype(np.float32)}
    names = ["c0", "c1", "c2"]
    found = Evaluator(graph, also=names, optimized=True).run(feed)
    expected = Evaluator(graph, also=names).run(feed)
    assert levels == [
        getattr(onnxruntime.GraphOptimizationLevel, level),
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ]
    for name in ("c3", *names):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
