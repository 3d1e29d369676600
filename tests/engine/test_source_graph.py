from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import conv_graph, save

from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.source_graph import (
    graph_layers,
    name_nodes,
    quantized_layers,
    read_graph,
    saved_beside,
    weight_files,
)
from edgekit.errors import BackendUnavailable, GraphError
from edgekit.specs import Precision

JOINED = """<ir_version: 10, opset_import: ["" : 20]>
g (uint8[1, 4, 2, 2] x, float[1, 4, 2, 2] f) => (float[1, 4, 2, 2] y) {
  a = DequantizeLinear(x, scale, zero)
  w = DequantizeLinear(weight, scale, zero)
  j = Concat<axis = 1>(a, a)
  m = Concat<axis = 1>(a, f)
  [first] p = Conv(a, w)
  [second] q = Conv(j, w)
  [third] r = Conv(m, w)
  [fourth] s = com.microsoft.QLinearConv(x, scale, zero, weight, scale, zero, scale, zero)
  [fifth] y = Conv(f, w)
}"""


def _external(folder: Path) -> Path:
    path = folder / "graph.onnx"
    onnx.save(conv_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_layers_are_quantized_whose_factors_are_dequantized() -> None:
    graph = ir.from_proto(onnx.parser.parse_model(JOINED))
    assert quantized_layers(graph) == ("first", "fourth")
    assert quantized_layers(graph, joining=True) == ("first", "second", "fourth")


def test_weights_in_files_are_not_read(tmp_path: Path) -> None:
    path = _external(tmp_path)
    graph = read_graph(path)
    assert weight_files(graph) == {tmp_path / "weights.bin"}
    (tmp_path / "weights.bin").unlink()
    assert quantized_layers(read_graph(path)) == ()
    assert weight_files(graph) == set()


@pytest.mark.parametrize("external", [False, True], ids=["inline", "weights in a file"])
@pytest.mark.parametrize("large", [False, True])
def test_a_rewritten_graph_is_whole_and_goes_afterwards(tmp_path: Path, external: bool, large: bool) -> None:
    graph = read_graph(_external(tmp_path) if external else save(conv_graph(), tmp_path))
    folder = tmp_path / "engine"
    folder.mkdir()
    with saved_beside(graph, folder, large=large) as path:
        saved = onnx.load(path)
        onnx.checker.check_model(path, full_check=True)
        assert len(list(folder.iterdir())) == (2 if large else 1)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in saved.graph.initializer}
    for tensor in conv_graph().graph.initializer:
        assert np.array_equal(weights[tensor.name], onnx.numpy_helper.to_array(tensor))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"no graph", b"\x08\x0a\x3a\xff"])
def test_error_on_a_file_that_is_no_graph(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(GraphError, match="expected an ONNX file"):
        read_graph(tmp_path / "graph.onnx")


def test_error_on_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"cannot read .*graph\.onnx"):
        read_graph(tmp_path / "graph.onnx")


@pytest.mark.parametrize("target", ["cpu", "openvino", "null"])
def test_error_on_building_where_onnx_ir_is_missing(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = save(conv_graph(), tmp_path)
    for name in [name for name in sys.modules if name.startswith(("edgekit.lower", "edgekit.graph."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(BackendUnavailable) as caught:
        backend(target).build(graph, tmp_path, BuildOptions(precision=Precision.INT8))
    assert caught.value.hint.startswith("pip install ") and "onnx-ir" in caught.value.hint


TYPED = """<ir_version: 10, opset_import: ["" : 20]>
g (int8[1, 4, 2, 2] x, float[1, 4, 2, 2] f, float16[1, 4, 2, 2] h) => (float[1, 4, 2, 2] y) {
  a = DequantizeLinear(x, scale, zero)
  w = DequantizeLinear(weight, scale, zero)
  t = Transpose<perm = [1, 0, 2, 3]>(w)
  s = Cast<to = 1>(h)
  n = Cast<to = 1>(w)
  [first] p = Conv(a, w)
  [second] q = Conv(a, t)
  [third] r = Conv(a, n)
  [fourth] u = Conv(h, narrow)
  [fifth] y = Conv(f, w)
}"""


def test_layers_have_the_types_that_the_graph_gives_them() -> None:
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TYPED)))
    found = [(layer.names[0], layer.dtype) for layer in graph_layers(graph)]
    assert found == [
        ("first", "int8"),
        ("second", "int8"),
        ("third", "float32"),
        ("fourth", "float16"),
        ("fifth", "float32"),
    ]


@pytest.mark.parametrize("operator", ["DynamicQuantizeMatMul", "QAttention"])
def test_products_that_onnx_runtime_quantizes_at_run_time_are_int8(operator: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "weight": random.integers(-127, 127, (4, 12)).astype(np.int8),
        "scale": np.float32(0.01),
        "zero": np.int8(0),
        "middle": np.uint8(128),
        "bias": np.zeros(12, np.float32),
    }
    nodes = [onnx.helper.make_node("QuantizeLinear", ["x", "scale", "middle"], ["bytes"])]
    inputs = ["x" if operator.startswith("Dynamic") else "bytes", "weight"]
    inputs += ["scale", "zero"] if operator.startswith("Dynamic") else ["bias", "scale", "scale", "", "middle", "zero"]
    heads = {} if operator.startswith("Dynamic") else {"num_heads": 2}
    nodes.append(onnx.helper.make_node(operator, inputs, ["y"], name="product", domain="com.microsoft", **heads))
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "graph.onnx")
    assert quantized_layers(read_graph(tmp_path / "graph.onnx")) == ("product",)
    options = BuildOptions(precision=Precision.INT8, threads=1)
    assert backend("cpu").build(tmp_path / "graph.onnx", tmp_path, options).layers == {"int8": 1}


def test_nodes_without_names_are_named_after_their_outputs() -> None:
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { t = Neg (x)  y = Abs (t) }'
    graph = ir.from_proto(onnx.parser.parse_model(text))
    assert name_nodes(graph)
    assert [node.name for node in graph.graph] == ["t", "y"]
    assert not name_nodes(graph)


def test_products_of_float8_are_no_quantized_layers() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    g (float8e4m3fn[2, 2] x, float8e4m3fn[2, 2] w) => (float[2, 2] y) <float s = {0.1}>
    { a = DequantizeLinear (x, s)  b = DequantizeLinear (w, s)  y = MatMul (a, b) }"""
    assert quantized_layers(ir.from_proto(onnx.parser.parse_model(text))) == ()


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_an_attention_on_integers_needs_no_names(target: str, tmp_path: Path) -> None:
    pairs = " ".join(f"{x}q = QuantizeLinear ({x}, s, z)  {x}d = DequantizeLinear ({x}q, s, z)" for x in "abc")
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[1, 4, 128, 32] a, float[1, 4, 128, 32] b, float[1, 4, 128, 32] c) => (float[1, 4, 128, 32] y)
    <float s = {{0.03}}, int8 z = {{0}}, float p = {{0.0039}}, uint8 n = {{0}}, float k = {{0.17}}> {{
      {pairs}  t = Transpose <perm = [0, 1, 3, 2]> (bd)  u = MatMul (ad, t)  v = Mul (u, k)  w = Softmax (v)
      wq = QuantizeLinear (w, p, n)  wd = DequantizeLinear (wq, p, n)  y = MatMul (wd, cd) }}"""
    backend(target).require()
    onnx.save(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)), tmp_path / "graph.onnx")
    options = BuildOptions(precision=Precision.INT8, threads=1)
    assert backend(target).build(tmp_path / "graph.onnx", tmp_path, options).engine
