"""Convolutions with pads as wide as their kernel, against ONNX Runtime without optimizations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from operator_graphs import original_outputs

from edgekit.engine.backend import BuildOptions, backend
from edgekit.graph.file import save_graph
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.lower.pad_outside_windows import PadOutsideWindows
from edgekit.specs import Precision

RANDOM = np.random.default_rng(8)
X = {"x": RANDOM.standard_normal((2, 8, 6, 6)).astype(np.float32)}


BETWEEN = {
    "MaxPool": "h = MaxPool <kernel_shape = [1, 1]> (d)",
    "Transpose": "h = Transpose <perm = [0, 1, 3, 2]> (d)",
    "Slice": "h = Slice (d, one, nine, two)",
    "Resize": 'h = Resize <mode = "nearest"> (d, , twice)',
    "Relu": "h = Relu (d)",
}


def model_of(
    size: int, pads: tuple[int, ...], kind: str, zero: int, dilation: int = 1, between: str = "nothing"
) -> onnx.ModelProto:
    read = "d" if between == "nothing" else "h"
    around = ",".join(map(str, pads))
    moved = "" if between == "nothing" else BETWEEN[between]
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    g (float[2, 8, 6, 6] x) => (float[2, 32, m, n] y) <float s = {{0.03}}, {kind} z = {{{zero}}}> {{
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  k = DequantizeLinear <axis = 0> (w, ws, wz)
        {moved}
        y = Conv <group = 8, pads = [{around}], dilations = [{dilation}, {dilation}]> ({read}, k) }}"""
    model = onnx.parser.parse_model(text)
    constants = {
        "w": RANDOM.integers(-100, 100, (32, 1, size, size)).astype(np.int8),
        "ws": np.full(32, 0.01, np.float32),
        "wz": np.zeros(32, np.int8),
        "one": np.array([1]),
        "nine": np.array([9]),
        "two": np.array([2]),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }
    used = {name for node in model.graph.node for name in node.input}
    constants = {name: array for name, array in constants.items() if name in used}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(("kind", "zero"), [("uint8", 128), ("uint8", 0), ("int8", 0)])
@pytest.mark.parametrize(
    ("size", "pads"), [(3, (3, 3, 3, 3)), (2, (2, 0, 0, 0)), (2, (0, 0, 2, 0)), (1, (1, 1, 1, 1)), (2, (0, 2, 0, 3))]
)
def test_openvino_is_right_where_there_is_no_image(
    size: int, pads: tuple[int, ...], kind: str, zero: int, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    model = model_of(size, pads, kind, zero)
    onnx.save(model, tmp_path / "m.onnx")
    save_graph(graph_from_onnx(tmp_path / "m.onnx"), tmp_path / "graph.onnx")
    options = BuildOptions(precision=Precision.INT8, threads=1, came_quantized=True)
    result = backend("openvino").build(tmp_path / "graph.onnx", tmp_path, options)
    expected = original_outputs(model, X)["y"]
    for _ in range(6):
        # What is read without having been written differs from engine to engine.
        engine = backend("openvino").load(tmp_path / result.engine, threads=1)
        got = engine.run(X)["y"]
        engine.close()
        np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize(("size", "pads"), [(3, (3, 3, 3, 3)), (2, (2, 0, 0, 0))])
@pytest.mark.parametrize("between", BETWEEN)
def test_openvino_is_right_behind_what_it_computes_on_integers(
    between: str, size: int, pads: tuple[int, ...], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    model = model_of(size, pads, "uint8", 128, between=between)
    onnx.save(model, tmp_path / "m.onnx")
    save_graph(graph_from_onnx(tmp_path / "m.onnx"), tmp_path / "graph.onnx")
    options = BuildOptions(precision=Precision.FP32, threads=1)
    result = backend("openvino").build(tmp_path / "graph.onnx", tmp_path, options)
    expected = original_outputs(model, X)["y"]
    for _ in range(4):
        engine = backend("openvino").load(tmp_path / result.engine, threads=1)
        got = engine.run(X)["y"]
        engine.close()
        np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "pads", "dilation", "padded"),
    [(3, (2, 2, 2, 2), 1, False), (3, (3, 3, 3, 3), 1, True), (3, (3, 3, 3, 3), 2, False), (2, (0, 0, 0, 2), 1, True)],
)
def test_pads_as_wide_as_the_kernel_move(
    size: int, pads: tuple[int, ...], dilation: int, padded: bool, reasons: Callable[[], list[str]]
) -> None:
    model = model_of(size, pads, "int8", 3, dilation)
    graph = ir.from_proto(model)
    PadOutsideWindows()(graph)
    assert ("Pad" in [node.op_type for node in graph.graph]) is padded
    assert any("each window has an element" in each for each in reasons()) is not padded
    got = original_outputs(ir.to_proto(graph), X)["y"]
    np.testing.assert_allclose(got, original_outputs(model, X)["y"], atol=1e-5)


def test_floats_stay(reasons: Callable[[], list[str]]) -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
    g (float[1, 3, 6, 6] x, float[3, 3, 1, 1] w) => (float[1, 3, m, n] y) {
        y = Conv <pads = [1, 1, 0, 0]> (x, w) }"""
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    PadOutsideWindows()(graph)
    assert [node.op_type for node in graph.graph] == ["Conv"]
    assert ["it reads floats" in each for each in reasons()] == [True]
