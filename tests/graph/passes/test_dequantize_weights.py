from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.file import is_quantized
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes.dequantize_weights import DequantizeWeights, weights_note

RANDOM = np.random.default_rng(0)


def model(nodes, shape, weights, opset=21):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            array if isinstance(array, TensorProto) else numpy_helper.from_array(array, name)
            for name, array in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def assert_float_and_same(run, proto, tmp_path, count):
    x = RANDOM.standard_normal([d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim])
    feeds = {"x": x.astype(np.float32)}
    expected = run(proto, feeds)[0]
    onnx.save(proto, tmp_path / "m.onnx")
    graph = graph_from_onnx(tmp_path / "m.onnx")
    assert not is_quantized(graph)
    assert weights_note(graph).startswith(f"{count} weight")
    products = [node for node in graph.graph if node.op_type == "MatMul"]
    assert all(node.inputs[1].const_value is not None for node in products)
    np.testing.assert_allclose(run(graph, feeds)[0], expected, rtol=1e-5, atol=1e-5)
    return graph


def levels(*shape, dtype=np.int8):
    info = ml_dtypes.iinfo(dtype) if "4" in np.dtype(dtype).name else np.iinfo(dtype)
    return RANDOM.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("form", ["tensor", "channel", "blocked"])
def test_dequantized_weights_become_floats(run_in_onnxruntime, tmp_path, dtype, form):
    shape, options = {"tensor": ((), {}), "channel": ((8,), {"axis": 1}), "blocked": ((2, 8), {"axis": 0})}[form]
    if form == "blocked":
        options["block_size"] = 16
    scale = RANDOM.uniform(0.01, 0.02, shape).astype(np.float32)
    weights = {"q": levels(32, 8, dtype=dtype), "s": scale, "z": levels(*shape, dtype=dtype)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], **options),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="m"),
    ]
    assert_float_and_same(run_in_onnxruntime, model(nodes, [4, 32], weights), tmp_path, 1)


def test_weights_that_are_quantized_in_the_graph_become_floats(run_in_onnxruntime, tmp_path):
    w = RANDOM.standard_normal((32, 8)).astype(np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    proto = model(nodes, [4, 32], {"w": w, "s": np.float32(0.02), "z": np.int8(0)})
    graph = assert_float_and_same(run_in_onnxruntime, proto, tmp_path, 1)
    assert [node.op_type for node in graph.graph] == ["MatMul"]


@pytest.mark.parametrize(("bits", "zeros"), [(4, "none"), (4, "packed"), (4, "float"), (8, "none"), (8, "packed")])
@pytest.mark.parametrize("bias", [False, True])
def test_products_of_a_few_bits_become_matrix_products(run_in_onnxruntime, tmp_path, bits, zeros, bias):
    rows, columns, block = 40, 6, 16
    blocks = -(-rows // block)
    weights = {
        "b": levels(columns, blocks, block * bits // 8, dtype=np.uint8),
        "s": RANDOM.uniform(0.01, 0.02, columns * blocks).astype(np.float32),
    }
    if zeros == "packed":
        weights["z"] = levels(columns, -(-blocks * bits // 8), dtype=np.uint8)
    elif zeros == "float":
        weights["z"] = RANDOM.uniform(0, 2**bits, (columns, blocks)).astype(np.float32)
    names = ["x", *weights]
    if bias:
        names += [""] * (5 - len(names)) + ["c"]
        weights["c"] = RANDOM.standard_normal(columns).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft", K=rows, N=columns, bits=bits, block_size=block
    )
    assert_float_and_same(run_in_onnxruntime, model([node], [4, rows], weights), tmp_path, 1)


@pytest.mark.parametrize("kind", [0, 1])
def test_products_of_bitsandbytes_codes_become_matrix_products(run_in_onnxruntime, tmp_path, kind):
    rows, columns, block = 48, 5, 32
    weights = {
        "b": levels(rows * columns // 2, dtype=np.uint8),
        "s": RANDOM.uniform(0.01, 0.02, -(-rows * columns // block)).astype(np.float32),
    }
    sizes = {"K": rows, "N": columns, "block_size": block, "quant_type": kind}
    node = helper.make_node("MatMulBnb4", ["x", *weights], ["y"], domain="com.microsoft", **sizes)
    assert_float_and_same(run_in_onnxruntime, model([node], [4, rows], weights), tmp_path, 1)


@pytest.mark.parametrize("form", ["uint4", "int4", "packed", "packed with points", "bytes"])
def test_rows_of_a_quantized_table_become_rows_of_floats(run_in_onnxruntime, tmp_path, form):
    rows, columns, block, packed = 9, 64, 16, form.startswith("packed")
    dtype = {"uint4": ml_dtypes.uint4, "int4": ml_dtypes.int4}.get(form, np.uint8)
    weights = {
        "t": levels(rows, columns // 2 if packed else columns, dtype=dtype),
        "s": RANDOM.uniform(0.01, 0.02, (rows, columns // block)).astype(np.float32),
    }
    if form in ("uint4", "packed with points"):
        weights["z"] = levels(rows, columns // block // (2 if packed else 1), dtype=dtype)
    options = {
        "block_size": block,
        "quantize_axis": 1,
        **({"bits": 8 if form == "bytes" else 4} if dtype is np.uint8 else {}),
    }
    nodes = [
        helper.make_node("ArgMax", ["x"], ["ids"], axis=1, keepdims=0),
        helper.make_node(
            "GatherBlockQuantized", ["t", "ids", *list(weights)[1:]], ["y"], domain="com.microsoft", **options
        ),
    ]
    proto = model(nodes, [6, rows], weights)
    graph = assert_float_and_same(run_in_onnxruntime, proto, tmp_path, 1)
    assert [node.op_type for node in graph.graph] == ["ArgMax", "Gather"]
    assert all(not node.domain for node in graph.graph)


def test_a_graph_with_quantized_activations_stays_as_it_is():
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("QuantizeLinear", ["x", "s"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s"], ["xd"]),
        helper.make_node("MatMul", ["xd", "w"], ["y"]),
    ]
    graph = ir.from_proto(model(nodes, [4, 32], {"q": levels(32, 8, dtype=np.uint8), "s": np.float32(0.02)}))
    assert not DequantizeWeights()(graph).modified
    assert is_quantized(graph)
    assert weights_note(graph) == ""


def test_a_weight_that_is_an_output_too_stays_one(run_in_onnxruntime, tmp_path):
    proto = model(
        [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])],
        [4, 32],
        {"q": levels(32, 8), "s": np.float32(0.02)},
    )
    proto.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 8]))
    onnx.save(proto, tmp_path / "m.onnx")
    feeds = {"x": np.ones((4, 32), np.float32)}
    graph = graph_from_onnx(tmp_path / "m.onnx")
    for got, expected in zip(run_in_onnxruntime(graph, feeds), run_in_onnxruntime(proto, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
