from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import rewritten, run_unfused, stays

from edgekit.engine.backend import BuildOptions, backend
from edgekit.lower.fuse_integer_matmul import FuseIntegerMatMul
from edgekit.specs import Precision

TOKENS, WIDTH, COLUMNS = 5, 24, 16


def _quantized(name: str, source: str, scale: float, zero: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """``source`` through a Q/DQ pair of uint8, as ``name``."""
    pair = [f"{name}.scale", f"{name}.zero"]
    nodes = [
        helper.make_node("QuantizeLinear", [source, *pair], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", *pair], [name]),
    ]
    constants = [
        numpy_helper.from_array(np.float32(scale).reshape(()), pair[0]),
        numpy_helper.from_array(np.uint8(zero).reshape(()), pair[1]),
    ]
    return nodes, constants


def _weights(seed: int = 0, axis: int = 1) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.005, 0.02, (WIDTH, COLUMNS)[axis]).astype(np.float32)
    constants = [
        # 7 bits, whose products are exact without VNNI too
        numpy_helper.from_array(rng.integers(-63, 64, (WIDTH, COLUMNS)).astype(np.int8), "w.q"),
        numpy_helper.from_array(scales, "w.scale"),
        numpy_helper.from_array(np.zeros(len(scales), np.int8), "w.zero"),
    ]
    return [helper.make_node("DequantizeLinear", ["w.q", "w.scale", "w.zero"], ["w"], axis=axis)], constants


def _model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], outputs: dict[str, list[int | str]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", TOKENS, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _with_bias(bias: np.ndarray, axis: int = 1, swapped: bool = False) -> onnx.ModelProto:
    pair, of_pair = _quantized("a", "x", 0.02, 117)
    dequantized, of_weights = _weights(axis=axis)
    terms = ["bias", "product"] if swapped else ["product", "bias"]
    nodes = [
        *pair,
        *dequantized,
        helper.make_node("MatMul", ["a", "w"], ["product"], name="dense.matmul"),
        helper.make_node("Add", terms, ["y"], name="dense"),
    ]
    constants = [*of_pair, *of_weights, numpy_helper.from_array(bias, "bias")]
    return _model(nodes, constants, {"y": ["N", TOKENS, COLUMNS]})


def _x(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, TOKENS, WIDTH), dtype=np.float32)


def _run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return run_unfused(model, {"x": x})


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


VECTOR = np.linspace(-1, 1, COLUMNS, dtype=np.float32)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_and_its_bias_become_one_operator_of_the_same_result(swapped: bool) -> None:
    model = _with_bias(VECTOR, swapped=swapped)
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    assert _operators(model) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert (model.graph.node[1].name, list(model.graph.node[1].output)) == ("dense.matmul", ["y"])
    assert {opset.domain: opset.version for opset in model.opset_import}["com.microsoft"] == 1
    np.testing.assert_allclose(_run(model, _x())[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, COLUMNS), (TOKENS, COLUMNS), (1,), ()], ids=str)
def test_an_addend_that_is_not_a_vector_stays_an_add(shape: tuple[int, ...]) -> None:
    model = _with_bias(np.full(shape, 0.5, np.float32))
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    assert _operators(model) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add"]
    np.testing.assert_allclose(_run(model, _x())[0], expected[0], rtol=1e-5, atol=1e-5)


def test_a_product_with_two_consumers_or_a_graph_output_keeps_its_result() -> None:
    model = _with_bias(VECTOR)
    model.graph.output.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, ["N", TOKENS, COLUMNS]))
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    assert _operators(model) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add"]
    for built, wanted in zip(_run(model, _x()), expected, strict=True):
        np.testing.assert_allclose(built, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["Identity", "Relu"])
def test_a_product_that_a_q_and_another_node_read_outputs_floats(activation: str) -> None:
    pair, of_pair = _quantized("a", "x", 0.02, 117)
    weights, of_weights = _weights()
    after, of_after = _quantized("b", "active", 0.1, 128)
    nodes = [
        *pair,
        *weights,
        helper.make_node("MatMul", ["a", "w"], ["product"], name="product"),
        helper.make_node(activation, ["product"], ["active"]),
        *after,
        helper.make_node("Add", ["b", "product" if activation == "Relu" else "active"], ["y"]),
    ]
    model = _model(nodes, [*of_pair, *of_weights, *of_after], {"y": ["N", TOKENS, COLUMNS]})
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    assert "MatMulIntegerToFloat" in _operators(model)
    np.testing.assert_allclose(_run(model, _x())[0], expected[0], rtol=1e-5, atol=1e-5)


def test_a_product_of_two_activations_and_a_pair_that_others_read() -> None:
    """``a @ a.T`` where ``a`` is a graph output too, so that its DequantizeLinear stays."""
    pair, of_pair = _quantized("a", "x", 0.02, 117)
    other, of_other = _quantized("b", "turned", 0.03, 99)
    nodes = [
        *pair,
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        *other,
        helper.make_node("MatMul", ["a", "b"], ["scores"], name="scores"),
        helper.make_node("Identity", ["a"], ["same"]),
    ]
    model = _model(nodes, [*of_pair, *of_other], {"scores": ["N", TOKENS, TOKENS], "same": ["N", TOKENS, WIDTH]})
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    assert _operators(model).count("DequantizeLinear") == 1
    for built, wanted in zip(_run(model, _x()), expected, strict=True):
        np.testing.assert_allclose(built, wanted, rtol=1e-5, atol=1e-5)


def test_unsupported_products_stay(reasons: Callable[[], list[str]]) -> None:
    rows = _with_bias(VECTOR, axis=0)  # a scale a row cannot be multiplied in afterwards
    behind = _with_bias(VECTOR)  # ONNX Runtime makes one operator of the product and the Q that alone reads it
    after, constants = _quantized("c", "product", 0.1, 128)
    total = behind.graph.node.pop()
    total.input[:] = ["c", "bias"]
    behind.graph.node.extend([*after, total])
    behind.graph.initializer.extend(constants)
    relu = _with_bias(VECTOR)  # and of the two with a ReLU between them
    after, constants = _quantized("c", "positive", 0.1, 0)
    total = relu.graph.node.pop()
    total.input[:] = ["c", "bias"]
    relu.graph.node.extend([helper.make_node("Relu", ["product"], ["positive"]), *after, total])
    relu.graph.initializer.extend(constants)
    unpaired = _with_bias(VECTOR)
    unpaired.graph.node[3].input[0] = "x"
    without_zero = _with_bias(VECTOR)
    del without_zero.graph.node[2].input[2]
    wider = _with_bias(VECTOR)  # integers of 16 bits
    wider.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.uint16(117).reshape(()), "a.zero"))
    by_channel = _with_bias(VECTOR)  # a scale for each row of the first factor
    by_channel.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(TOKENS, 0.02, np.float32), "a.scale"))
    for model, reason in (
        (rows, "the scales of its second factor are not per column"),
        (behind, "ONNX Runtime fuses it with the QuantizeLinear after it"),
        (relu, "ONNX Runtime fuses it with the QuantizeLinear after it"),
        (unpaired, "a factor is not dequantized from 8 bits with constant scales"),
        (without_zero, "a factor is not dequantized from 8 bits with constant scales"),
        (wider, "a factor is not dequantized from 8 bits with constant scales"),
        (by_channel, "its first factor has more than one scale"),
    ):
        assert stays(model, FuseIntegerMatMul())
        assert reasons() == [f"FuseIntegerMatMul: MatMul 'dense.matmul' stays: {reason}"]


def test_an_initializer_that_is_an_input_is_not_constant() -> None:
    """An initializer that is an input too is the input's default."""
    model = _with_bias(VECTOR)
    model.graph.input.append(helper.make_tensor_value_info("w.scale", TensorProto.FLOAT, [COLUMNS]))
    assert stays(model, FuseIntegerMatMul())


def test_weights_in_a_file_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    onnx.save(_with_bias(VECTOR), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    graph = ir.load(path)
    assert FuseIntegerMatMul()(graph).modified
    assert [node.op_type for node in graph.graph][-1] == "MatMulIntegerToFloat"


def test_batched_matrices_with_one_scale_per_row_stay() -> None:
    """Their axis 1 is not that of the columns."""
    rng = np.random.default_rng(3)
    pair, of_pair = _quantized("a", "x", 0.02, 117)
    constants = [
        numpy_helper.from_array(rng.integers(-127, 128, (2, WIDTH, COLUMNS)).astype(np.int8), "w.q"),
        numpy_helper.from_array(rng.uniform(0.005, 0.02, WIDTH).astype(np.float32), "w.scale"),
        numpy_helper.from_array(np.zeros(WIDTH, np.int8), "w.zero"),
    ]
    nodes = [
        *pair,
        helper.make_node("DequantizeLinear", ["w.q", "w.scale", "w.zero"], ["w"], axis=1),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    assert stays(_model(nodes, [*of_pair, *constants], {"y": ["N", TOKENS, COLUMNS]}), FuseIntegerMatMul())


def test_inputs_of_a_subgraph_stay() -> None:
    model = _with_bias(VECTOR)
    kept = helper.make_graph(
        [helper.make_node("Identity", ["product"], ["inside"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=kept, else_branch=kept))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", TOKENS, COLUMNS]))
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    assert _operators(model) == ["QuantizeLinear", "MatMulIntegerToFloat", "Add", "If"]
    for built, wanted in zip(_run(model, _x()), expected, strict=True):
        np.testing.assert_allclose(built, wanted, rtol=1e-5, atol=1e-5)


def test_nodes_without_names_get_distinct_names() -> None:
    model = _with_bias(VECTOR)
    for node in model.graph.node:
        node.name = ""
    expected = _run(model, _x())
    model, modified = rewritten(model, FuseIntegerMatMul())
    assert modified
    np.testing.assert_allclose(_run(model, _x())[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external data"])
def test_the_engine_multiplies_integers_and_outputs_floats(external: bool, tmp_path: Path) -> None:
    model = _with_bias(VECTOR)
    expected = _run(model, _x())[0]
    path = tmp_path / "graph.onnx"
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    library = backend("cpu")
    folder = tmp_path / "engine"
    folder.mkdir()
    result = library.build(path, folder, BuildOptions(precision=Precision.INT8))
    assert result.layers == {"int8": 1}
    assert _operators(onnx.load(folder / result.engine)) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    built = library.load(folder / result.engine, threads=1).run({"x": _x()})["y"]
    np.testing.assert_allclose(built, expected, rtol=1e-5, atol=1e-5)
