from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.load.structure import structure_from_file
from edgekit.graph.passes import optimize

ROOT = Path(edgekit.__file__).parents[1]


def saved(
    file: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    functions: list[onnx.FunctionProto] | None = None,
    shape: list[int] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=functions or [], opset_imports=imports, ir_version=10)
    file.write_bytes(model.SerializeToString())
    return file


def weight(dims: list[int], content: bytes, dtype: int = TensorProto.FLOAT) -> onnx.TensorProto:
    return onnx.TensorProto(name="w", dims=dims, data_type=dtype, raw_data=content)


ADD = [helper.make_node("Add", ["x", "w"], ["y"])]


@pytest.mark.parametrize("dims", [[1 << 40, 1 << 40], [1 << 62, 4], [5], [4, 1 << 31], [1000]])
@pytest.mark.parametrize("length", [16, 4096])
def test_a_weight_has_the_numbers_that_its_shape_declares(dims: list[int], length: int, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"weight 'w': expected [\d,]+ bytes, as its shape .* declares, got"):
        graph_from_onnx(saved(tmp_path / "m.onnx", ADD, [weight(dims, bytes(length))]))


def test_a_negative_dimension_and_an_unknown_type_are_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"expected dimensions of 0 or more, got \(-4,\)"):
        graph_from_onnx(saved(tmp_path / "m.onnx", ADD, [weight([-4], bytes(16))]))
    with pytest.raises(GraphError, match="got the number 99"):
        graph_from_onnx(saved(tmp_path / "m.onnx", ADD, [weight([4], bytes(16), 99)]))


def test_typed_numbers_are_counted_too(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, float_data=[1.0] * 3)
    with pytest.raises(GraphError, match="expected 4 numbers, as its shape"):
        graph_from_onnx(saved(tmp_path / "m.onnx", ADD, [tensor]))


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint16, np.int64, np.bool_])
def test_weights_are_those_that_onnx_reads(dtype: type, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, (40, 60)).astype(dtype)
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=1), helper.make_node("Gather", ["c", "zero"], ["y"])]
    weights = [numpy_helper.from_array(array, "w"), numpy_helper.from_array(np.array(0), "zero")]
    graph = graph_from_onnx(saved(tmp_path / "m.onnx", nodes, weights))
    expected = numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0])
    got = graph.graph.initializers["w"].const_value
    assert got is not None
    np.testing.assert_array_equal(got.numpy(), expected)
    assert got.numpy().dtype == expected.dtype


def test_the_structure_is_the_model_without_the_numbers_of_large_weights(tmp_path: Path) -> None:
    large = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    small = numpy_helper.from_array(np.arange(4, dtype=np.float32), "v")
    nodes = [helper.make_node("Add", ["x", "v"], ["a"]), helper.make_node("Gather", ["w", "x"], ["y"])]
    file = saved(tmp_path / "m.onnx", nodes, [small, large])
    model, payloads = structure_from_file(file)
    assert list(payloads) == ["w"]
    place = payloads["w"]
    assert file.read_bytes()[place.offset :][: place.length] == large.raw_data
    model.graph.initializer[1].raw_data = large.raw_data
    assert model == onnx.load(file)


def test_a_graph_in_two_parts_is_merged_as_protobuf_does_it(tmp_path: Path) -> None:
    first = helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.ones(999), "a")]))
    second = onnx.ModelProto(graph=onnx.GraphProto(initializer=[numpy_helper.from_array(np.zeros(999), "b")]))
    content = first.SerializeToString() + second.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    model, payloads = structure_from_file(tmp_path / "m.onnx")
    assert [tensor.name for tensor in model.graph.initializer] == ["a", "b"]
    numbers = [np.frombuffer(content, np.float64, 999, place.offset)[0] for place in payloads.values()]
    assert numbers == [1.0, 0.0]


def test_functions_that_double_are_refused_before_they_are_inlined(tmp_path: Path) -> None:
    def function(name: str, inner: str) -> onnx.FunctionProto:
        domain = "own" if inner != "Neg" else ""
        nodes = [
            helper.make_node(inner, ["a"], ["m"], domain=domain),
            helper.make_node(inner, ["m"], ["b"], domain=domain),
        ]
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
        return helper.make_function("own", name, ["a"], ["b"], nodes, imports)

    functions = [function("F0", "Neg"), *(function(f"F{i}", f"F{i - 1}") for i in range(1, 40))]
    started = time.process_time()
    nodes = [helper.make_node("F39", ["x"], ["y"], domain="own")]
    with pytest.raises(GraphError, match="expected at most 1,000,000 nodes after functions are inlined"):
        graph_from_onnx(saved(tmp_path / "m.onnx", nodes, [], functions))
    cycle = [function("F", "F")]
    with pytest.raises(GraphError, match="function 'F': expected one that does not call itself"):
        graph_from_onnx(saved(tmp_path / "m.onnx", [helper.make_node("F", ["x"], ["y"], domain="own")], [], cycle))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("operator", ["Range", "ConstantOfShape", "Expand", "Tile"])
def test_a_constant_of_terabytes_is_not_made(operator: str, tmp_path: Path) -> None:
    huge = 1 << 40
    inputs = {
        "Range": [np.array(0), np.array(huge), np.array(1)],
        "ConstantOfShape": [np.array([huge])],
        "Expand": [np.array([1.0], np.float32), np.array([huge])],
        "Tile": [np.array([1.0], np.float32), np.array([huge])],
    }[operator]
    weights = [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(inputs)]
    nodes = [
        helper.make_node(operator, [tensor.name for tensor in weights], ["c"]),
        helper.make_node("Cast", ["c"], ["f"], to=1),
        helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    graph = optimize(graph_from_onnx(saved(tmp_path / "m.onnx", nodes, weights)))
    assert operator in [node.op_type for node in graph.graph]
    with pytest.raises(GraphError, match="the memory of this machine"):
        Evaluator(graph)


def test_a_size_that_overflows_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[1 << 31, 1 << 31])]
    graph = graph_from_onnx(saved(tmp_path / "m.onnx", nodes, [], shape=[1, 3, 8, 8]))
    with pytest.raises(GraphError, match=r"'y' 1x3x-\d+x-\d+: expected sizes of 0 or more"):
        Evaluator(graph)


def test_an_input_of_terabytes_is_not_made(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = graph_from_onnx(saved(tmp_path / "m.onnx", nodes, [], shape=[1 << 20, 1 << 20]))
    with pytest.raises(GraphError, match=r"'x' 1048576x1048576: expected at most \d+ GiB"):
        Evaluator(graph)


def test_reading_needs_memory_for_one_copy_of_the_weights(tmp_path: Path) -> None:
    megabytes = 64
    array = np.ones((megabytes * 1024 // 4, 256), np.float32)
    file = tmp_path / "m.onnx"
    tensors = [numpy_helper.from_array(array[i::4], f"w{i}") for i in range(4)]
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["y"])]
    saved(file, nodes, tensors, shape=[1, megabytes * 1024 // 16])
    del array, tensors
    code = f"""
import resource, onnx
from edgekit.graph.load.onnx_file import graph_from_onnx
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
graph = graph_from_onnx(__import__("pathlib").Path({str(file)!r}))
print((peak() - before) / {megabytes})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) <= 1.3


def test_constants_that_each_concat_doubles_are_not_listed(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["c0"])]
    nodes += [helper.make_node("Concat", [f"c{step}"] * 8, [f"c{step + 1}"], axis=0) for step in range(8)]
    nodes += [
        helper.make_node("ReduceMax", ["c8"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    started = time.process_time()
    graph = graph_from_onnx(saved(tmp_path / "m.onnx", nodes, [numpy_helper.from_array(np.array([10_000]), "n")]))
    assert time.process_time() - started < 2
    with pytest.raises(GraphError, match=f"'c7' {10_000 * 8**7}: expected at most"):
        Evaluator(graph)


def test_sizes_are_computed_behind_concats_of_feature_maps(tmp_path: Path) -> None:
    # Before the first inference nothing tells a feature map from a vector.
    nodes = [helper.make_node("Identity", ["x"], ["c0"])]
    nodes += [helper.make_node("Concat", [f"c{step}"] * 2, [f"c{step + 1}"], axis=1) for step in range(24)]
    nodes += [
        helper.make_node("Slice", ["c24", "start", "end", "axis"], ["s"]),
        helper.make_node("Shape", ["s"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([v]), n) for n, v in (("start", 0), ("end", 5), ("axis", 1))]
    graph = graph_from_onnx(saved(tmp_path / "m.onnx", nodes, constants))
    assert graph.graph.outputs[0].shape == [1, 5]
