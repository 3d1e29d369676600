"""What OpenVINO cannot compile, or computes otherwise, is refused with the node, the reason and a way on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.engine.backend import BuildOptions, backend
from edgekit.engine.openvino.messages import compilation_error
from edgekit.errors import BuildError, GraphError
from edgekit.specs import Precision

pytest.importorskip("openvino")

RANDOM = np.random.default_rng(0)
FP32 = BuildOptions(precision=Precision.FP32, threads=1)


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def build(
    folder: Path,
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    dtype: int = TensorProto.FLOAT,
    **given: np.ndarray,
) -> None:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in given.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "graph.onnx")
    backend("openvino").build(folder / "graph.onnx", folder, FP32)


def test_a_recurrent_layer_with_an_activation_that_it_lacks(tmp_path: Path) -> None:
    lstm = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], name="memory", hidden_size=5, activations=["HardSigmoid", "Relu", "Softsign"]
    )
    with pytest.raises(BuildError, match=r"at node 'memory' \(LSTM\): Unknown activation function") as error:
        build(tmp_path, [lstm], (6, 2, 4), **weights(w=(1, 20, 4), r=(1, 20, 5)))
    assert "target='cpu'" in error.value.hint


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("Cannot create GroupQueryAttention layer ov id:40 from extension", "'a' (GroupQueryAttention)"),
        ("CPU plugin does not support u32 for use with oneDNN.", "'c' (Cast)"),
    ],
)
def test_a_message_without_a_name_is_about_the_nodes_of_the_operator_or_the_type(says: str, found: str) -> None:
    text = """<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>
    g (float[2] x) => (float[2] y) {
        [a] t = com.microsoft.GroupQueryAttention (x, x, x)  [c] u = Cast <to = 12> (x)  [n] y = Neg (x) }"""
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    error = compilation_error(graph, Path("graph.onnx"), RuntimeError(f"Exception from src/x.cpp:1:\n{says}"))
    assert error.message == f"OpenVINO failed to build graph.onnx at node {found}: {says}"
    assert "target='cpu'" in error.hint


def test_the_largest_of_a_region_is_another_one(tmp_path: Path) -> None:
    align = helper.make_node("RoiAlign", ["x", "boxes", "batch"], ["y"], name="align", mode="max", output_height=2)
    boxes = np.asarray([[1, 2, 8, 9]], np.float32)
    with pytest.raises(GraphError, match=r"node 'align' \(RoiAlign\): this target takes the largest of") as error:
        build(tmp_path, [align], (1, 2, 16, 16), boxes=boxes, batch=np.asarray([0]))
    assert "target='cpu'" in error.value.hint


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2])
def test_float8_is_rounded_twice(kind: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], name="narrow", to=kind),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(GraphError, match=r"node 'narrow' \(Cast\): this target rounds to 16 bits first") as error:
        build(tmp_path, nodes, (2, 4))
    assert "target='cpu'" in error.value.hint
