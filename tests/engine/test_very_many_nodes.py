"""Engines of very many nodes, which ONNX Runtime loads in another way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.engine.onnxruntime import backend


def sums(count: int, path: Path) -> Path:
    """``y = x + 1 + 2 + ... + count``, each by an Add of its own."""
    nodes = [helper.make_node("Add", [f"s{i}", f"c{i}"], [f"s{i + 1}"]) for i in range(count)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("s0", f"s{count}"))
    constants = [numpy_helper.from_array(np.full(2, i + 1, np.float32), f"c{i}") for i in range(count)]
    graph = helper.make_graph(nodes, "sums", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("more", [False, True])
def test_it_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool) -> None:
    count, used = 50, []
    monkeypatch.setattr(backend, "MANY_NODES", count - 1 if more else count)
    session = backend._session
    monkeypatch.setattr(backend, "_session", lambda *given: used.append(given[2]) or session(*given))
    engine = backend.OnnxRuntime().load(sums(count, tmp_path / "engine.onnx"), threads=1)
    try:
        x = np.array([0.5, -3], np.float32)
        np.testing.assert_array_equal(engine.run({"s0": x})[f"s{count}"], x + np.float32(count * (count + 1) // 2))
    finally:
        engine.close()
    assert [settings.optimized_model_filepath for settings in used] == [os.devnull if more else ""]
