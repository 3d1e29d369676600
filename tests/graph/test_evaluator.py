"""Sessions of graphs: their memory, the place of their weights, and very many convolutions, weights and nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph import evaluator
from edgekit.graph.evaluator import Evaluator

ROOT = Path(__file__).parents[2]


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

    monkeypatch.setattr(evaluator, "MAX_BLOCKED", most)
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


def _products(count: int, size: int) -> ir.Model:
    """Products with large weights, the last one in a branch of an If."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.1, (size, size)).astype(np.float32), f"w{i}") for i in range(count)
    ]
    nodes = [helper.make_node("MatMul", [f"m{i - 1}" if i else "x", f"w{i}"], [f"m{i}"]) for i in range(count - 1)]
    last = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, size])
    product = helper.make_node("MatMul", [f"m{count - 2}", f"w{count - 1}"], ["z"])
    copy = helper.make_node("Identity", [f"m{count - 2}"], ["z"])
    branches = {
        name: helper.make_graph([node], name, [], [last])
        for name, node in {"then_branch": product, "else_branch": copy}.items()
    }
    nodes.append(helper.make_node("If", ["flag"], ["y"], **branches))
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size])],
        weights,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("temporary", ["there", "missing", "nowhere"])
def test_weights_that_are_not_copied_are_those_of_the_graph(
    temporary: str, packed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = _products(3, 64)
    x = np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)
    arrays = [graph.graph.initializers[f"w{i}"].const_value.numpy() for i in range(3)]  # type: ignore[union-attr]
    if temporary == "nowhere":
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if temporary == "there" else tmp_path / "missing"))
    found = Evaluator(graph, also=["m0"], packed=packed).run({"x": x, "flag": np.array(True)})
    np.testing.assert_allclose(found["m0"], x @ arrays[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["y"], x @ arrays[0] @ arrays[1] @ arrays[2], rtol=1e-4, atol=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_a_session_that_runs_once_needs_no_copy_of_the_weights(tmp_path: Path) -> None:
    megabytes, count = 64, 4
    size = int((megabytes / count * 2**20 / 4) ** 0.5)
    file = tmp_path / "m.onnx"
    ir.save(_products(count, size), file)
    code = f"""
import pathlib, resource, numpy as np
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
evaluator = Evaluator(graph_from_onnx(pathlib.Path({str(file)!r})), packed=False)
evaluator.run({{"x": np.ones((1, {size}), np.float32), "flag": np.array(True)}})
print((peak() - before) / {megabytes})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) <= 1.3


@pytest.mark.parametrize("optimized", [False, True])
def test_weights_are_given_in_the_order_in_which_they_are_loaded_quickly(
    optimized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []
    session = onnxruntime.InferenceSession

    def seen(model: bytes, *more: Any, **named: Any) -> onnxruntime.InferenceSession:
        given.append(model)
        return session(model, *more, **named)

    feed = {"x": np.random.default_rng(1).normal(size=(1, 8, 6, 6)).astype(np.float32)}
    graph = _convolutions(4)
    before = list(graph.graph.initializers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", seen)
    found = Evaluator(graph, optimized=optimized).run(feed)
    loaded = onnx.load_from_string(given[0]).graph
    read = list(dict.fromkeys(name for node in loaded.node for name in node.input if name in before))
    assert [each.name for each in loaded.initializer] == [read[0], *reversed(read[1:])]
    assert list(graph.graph.initializers) == before
    plain = session(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
    np.testing.assert_allclose(found["c3"], plain[0], rtol=1e-5, atol=1e-5)


def test_the_first_run_takes_about_as_long_as_the_others() -> None:
    """ONNX Runtime's plan of where each value is stored takes the square of the nodes, after the first run."""
    count = 8_000
    weights = [numpy_helper.from_array(np.full((1, 64), i % 7, np.int8), f"w{i}") for i in range(count)]
    nodes = [
        node
        for i in range(count)
        for node in (
            helper.make_node("DequantizeLinear", [f"w{i}", "scale"], [f"d{i}"]),
            helper.make_node("Add", [f"y{i - 1}" if i else "x", f"d{i}"], [f"y{i}"]),
        )
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info(f"y{count - 1}", TensorProto.FLOAT, [1, 64])],
        [*weights, numpy_helper.from_array(np.float32(0.5), "scale")],
    )
    loaded = Evaluator(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])), threads=1)
    times = []
    for _ in range(5):
        started = time.process_time()
        found = loaded.run({"x": np.zeros((1, 64), np.float32)})
        times.append(time.process_time() - started)
    assert times[0] < 10 * max(times[1:])
    np.testing.assert_allclose(found[f"y{count - 1}"], 0.5 * sum(i % 7 for i in range(count)))


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_large_weights_of_4_bits_are_read_as_they_are(dtype: type, optimized: bool) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(*((0, 16) if dtype is ml_dtypes.uint4 else (-8, 8)), (64, 64))
    scales = rng.uniform(0.01, 0.02, (4, 64)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 64])],
        [numpy_helper.from_array(integers.astype(dtype), "q"), numpy_helper.from_array(scales, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    (got,) = Evaluator(ir.from_proto(model), optimized=optimized).run({"x": x}).values()
    # With all optimizations, ONNX Runtime rounds the activations beside weights of 4 bits to 8 bits.
    expected = x @ (integers * np.repeat(scales, 16, axis=0))
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max() if optimized else 1e-5)
