"""Engines of many weights, whose order ONNX Runtime loads quickly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.engine.backend import BuildOptions
from edgekit.engine.onnxruntime import backend
from edgekit.specs import Precision


def sums(count: int, path: Path) -> Path:
    """``y = x + 1 + 2 + ... + count``, each by an Add of its own."""
    nodes = [helper.make_node("Add", [f"s{i}", f"c{i}"], [f"s{i + 1}"]) for i in range(count)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("s0", f"s{count}"))
    constants = [numpy_helper.from_array(np.full(2, i + 1, np.float32), f"c{i}") for i in range(count)]
    graph = helper.make_graph(nodes, "sums", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("more", [False, True])
def test_the_engine_has_them_in_that_order_and_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    count = 50
    monkeypatch.setattr(backend, "MANY_WEIGHTS", count - 1 if more else count)
    cpu = backend.OnnxRuntime()
    built = cpu.build(sums(count, tmp_path / "graph.onnx"), tmp_path, BuildOptions(precision=Precision.FP32))
    graph = onnx.load(tmp_path / built.engine).graph
    read = [name for node in graph.node for name in node.input if name.startswith("c")]
    in_order = [each.name for each in graph.initializer] == [read[0], *reversed(read[1:])]
    assert (len(read), in_order) == (count, more)
    engine = cpu.load(tmp_path / built.engine, threads=1)
    try:
        x = np.array([0.5, -3], np.float32)
        np.testing.assert_array_equal(engine.run({"s0": x})[f"s{count}"], x + np.float32(count * (count + 1) // 2))
    finally:
        engine.close()
