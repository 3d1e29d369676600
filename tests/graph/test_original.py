"""The model as it came: what computes it, in float32, and what happens where nothing can."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekit.errors import DataError, GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.export.original import ModuleOriginal
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.original import OnnxOriginal
from edgekit.graph.passes import optimize

RANDOM = np.random.default_rng(0)


def saved(path: Path, nodes: list[onnx.NodeProto], dtype: int = TensorProto.FLOAT, **weights: np.ndarray) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", dtype, [2, 4])],
        [value("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_an_onnx_file_runs_without_optimizations(write_classifier: Callable[..., Path], tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "c.onnx")
    feed = {"x": RANDOM.standard_normal((1, 3, 32, 32)).astype(np.float32)}
    original = OnnxOriginal(path)
    (got,) = original.run([feed])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feed)
    np.testing.assert_allclose(got["y"], expected, rtol=1e-5, atol=1e-6)
    inside = original.inside(feed)
    assert set(got) < set(inside) and all(isinstance(array, np.ndarray) for array in inside.values())
    assert original.name == "ONNX Runtime on c.onnx"
    original.close()


def test_error_on_a_file_that_changed_after_it_was_read(write_classifier: Callable[..., Path], tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "c.onnx")
    original, feed = OnnxOriginal(path), {"x": np.zeros((1, 3, 32, 32), np.float32)}
    os.utime(path, ns=(0, 0))
    with pytest.raises(GraphError, match=r"c\.onnx: expected the file that was read, got another one") as error:
        original.run([feed])
    assert error.value.hint == "build it again"
    path.unlink()
    with pytest.raises(GraphError, match="got none"):
        original.inside(feed)


def test_a_file_in_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    weight = RANDOM.standard_normal((4, 4)).astype(np.float16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]
    path = saved(tmp_path / "half.onnx", nodes, TensorProto.FLOAT16, w=weight)
    x = RANDOM.standard_normal((2, 4)).astype(np.float32)
    (got,) = OnnxOriginal(path, widen=True).run([{"x": x}])
    assert got["y"].dtype == np.float32
    np.testing.assert_allclose(got["y"], np.tanh(x @ weight.astype(np.float32)), rtol=1e-5)


def test_what_onnxruntime_lacks_runs_in_the_reference_evaluator(tmp_path: Path) -> None:
    # ONNX Runtime has no kernel of BitwiseNot for this type, nor of Det for two rows; Mish came with opset 18.
    nodes = [helper.make_node("Hardmax", ["x"], ["y"]), helper.make_node("Nothing", ["x"], ["z"], domain="own")]
    path = saved(tmp_path / "m.onnx", nodes)
    original = OnnxOriginal(path)
    with pytest.raises(GraphError, match="neither ONNX Runtime nor ONNX's reference evaluator can load m.onnx"):
        original.run([{"x": np.zeros((2, 4), np.float32)}])


def test_a_run_that_fails_names_what_failed(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.eye(4, dtype=np.float32))
    with pytest.raises(GraphError, match="ONNX Runtime on m.onnx fails"):
        OnnxOriginal(path).run([{"x": np.zeros((2, 5), np.float32)}])


def test_values_that_are_fixed_are_no_part_of_the_feeds(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])])
    x = RANDOM.standard_normal((2, 4)).astype(np.float32)
    (got,) = OnnxOriginal(path, values={"x": x}).run([{}])
    np.testing.assert_array_equal(got["y"], -x)


def test_a_module_runs_in_evaluation_mode_and_can_be_closed() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9), nn.ReLU())
    module.train()
    original = ModuleOriginal(module, ["x"], ["y"])
    x = RANDOM.standard_normal((2, 4)).astype(np.float32)
    (got,) = original.run([{"x": x}])
    with torch.no_grad():
        expected = torch.relu(module[0](torch.from_numpy(x))).numpy()
    np.testing.assert_allclose(got["y"], expected, rtol=1e-6)
    assert module.training and set(original.inside({"x": x})) == {"0", "1", "2"}
    original.close()
    with pytest.raises(GraphError, match="was closed"):
        original.run([{"x": x}])


@pytest.mark.parametrize("error", [DataError("a.jpg: broken image"), KeyError("bug")])
def test_an_error_of_the_feeds_is_not_called_one_of_the_runtime(tmp_path: Path, error: Exception) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])])

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": np.zeros((2, 4), np.float32)}
        raise error

    with pytest.raises(type(error)) as caught:
        OnnxOriginal(path).run(feeds())
    assert caught.value is error


def test_a_bug_in_a_pass_is_not_hidden_by_the_reference_evaluator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def widened(graph: object) -> object:
        raise KeyError("bug")

    monkeypatch.setattr("edgekit.graph.original.widened", widened)
    path = saved(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])])
    with pytest.raises(KeyError, match="bug"):
        OnnxOriginal(path, widen=True).run([{"x": np.zeros((2, 4), np.float32)}])


def test_erfc_of_tensorflow_that_tf2onnx_leaves_in_the_file_is_computed(tmp_path: Path) -> None:
    """Keras computes the exact GELU with it; neither ONNX nor ONNX Runtime has the operator."""
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["h"]),
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Mul", ["n", "root"], ["r"]),
        helper.make_node("Erfc", ["r"], ["e"], name="erfc"),
        helper.make_node("Mul", ["h", "e"], ["y"]),
    ]
    numbers = {"half": np.float32(0.5), "root": np.float32(math.sqrt(0.5))}
    path = saved(tmp_path / "keras.onnx", nodes, **{name: np.asarray(number) for name, number in numbers.items()})
    x = 2 * RANDOM.standard_normal((2, 4)).astype(np.float32)
    expected = [[0.5 * each * math.erfc(-each * math.sqrt(0.5)) for each in row] for row in x.tolist()]
    (got,) = OnnxOriginal(path).run([{"x": x}])
    np.testing.assert_allclose(got["y"], expected, atol=1e-6)
    graph = graph_from_onnx(path)
    np.testing.assert_allclose(Evaluator(graph).run({"x": x})["y"], expected, atol=1e-6)
    assert [node.op_type for node in optimize(graph).graph] == ["Gelu"]
    np.testing.assert_allclose(Evaluator(graph).run({"x": x})["y"], expected, atol=1e-6)


def test_activations_beside_weights_of_4_bits_are_floats_whatever_the_file_allows(tmp_path: Path) -> None:
    """ONNX Runtime rounds them to 8 bits where the file, as Olive's, has ``accuracy_level=4``."""
    packed = RANDOM.integers(0, 256, (64, 2, 16)).astype(np.uint8)
    scales = RANDOM.uniform(0.01, 0.02, (64, 2)).astype(np.float32)
    how = {"K": 64, "N": 64, "bits": 4, "block_size": 32, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **how)
    value = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(packed, "b"), numpy_helper.from_array(scales.reshape(-1), "s")]
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [3, 64])], [value("y", TensorProto.FLOAT, [3, 64])], weights
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "olive.onnx")
    levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(64, 2, 32).astype(np.float32) - 8
    x = RANDOM.standard_normal((3, 64)).astype(np.float32)
    (got,) = OnnxOriginal(tmp_path / "olive.onnx").run([{"x": x}])
    np.testing.assert_allclose(got["y"], x @ (levels * scales[:, :, None]).reshape(64, 64).T, atol=1e-5)
