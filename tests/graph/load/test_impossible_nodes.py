"""Nodes that contradict their operators or their inputs: onnx's checker lets them pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import GraphError
from edgekit.graph.load.onnx_file import graph_from_onnx


def saved(folder: Path, nodes: list[onnx.NodeProto], **weights: np.ndarray) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    (folder / "m.onnx").write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "says"),
    [
        ("Gelu", [], {}, "Gelu of com.microsoft: expected 1 inputs, got 0"),
        ("BiasAdd", ["x"], {}, "BiasAdd of com.microsoft: expected 3 inputs, got 1"),
        ("SkipLayerNormalization", ["x", "x"], {}, "expected 3 to 5 inputs, got 2"),
        ("FusedMatMul", ["x", ""], {}, "expected an input 'B', got none"),
        ("MatMulNBits", ["x", "w", "s"], {"K": 8, "bits": 4, "block_size": 16}, "expected an attribute 'N', got none"),
        ("FusedConv", ["x", "w"], {"activation": 3}, "attribute 'activation': expected STRING, got INT"),
    ],
)
def test_a_node_that_its_operator_does_not_allow_is_named(
    operator: str, inputs: list[str], attributes: dict[str, int], says: str, tmp_path: Path
) -> None:
    node = helper.make_node(operator, inputs, ["y"], name="n", domain="com.microsoft", **attributes)
    file = saved(tmp_path, [node], w=np.zeros((8, 1, 8), np.uint8), s=np.ones(8, np.float32))
    with pytest.raises(GraphError, match=f"m.onnx: node 'n': .*{says}"):
        graph_from_onnx(file)


def test_weights_that_contradict_the_attributes_are_refused(tmp_path: Path) -> None:
    attributes = {"N": 7, "K": 8, "bits": 4, "block_size": 16}
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **attributes)
    with pytest.raises(GraphError, match=r"node 'y': expected weights.* of a MatMulNBits with N=7, K=8.*reshape"):
        graph_from_onnx(saved(tmp_path, [node], w=np.zeros((8, 1, 8), np.uint8), s=np.ones(8, np.float32)))


@pytest.mark.parametrize(("axis", "scales"), [(7, 8), (0, 5)])
def test_scales_that_do_not_fit_their_weights_are_refused_by_onnx_runtime(
    axis: int, scales: int, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=axis),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    file = saved(tmp_path, nodes, w=np.ones((8, 8), np.int8), s=np.ones(scales, np.float32))
    with pytest.raises(GraphError, match="ONNX Runtime .* cannot"):
        graph_from_onnx(file)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("GatherND", ["i", "i"], {"batch_dims": -1}),
        ("LayerNormalization", ["x", "x"], {"axis": 1 << 31}),
        ("MeanVarianceNormalization", ["x"], {"axes": [-(1 << 63)]}),
    ],
)
def test_an_axis_beyond_all_ranks_is_refused_before_shapes_are_inferred(
    operator: str, inputs: list[str], attributes: dict[str, int], tmp_path: Path
) -> None:
    # The first two end the process in ONNX's shape inference.
    node = helper.make_node(operator, inputs, ["y"], name="n", **attributes)
    with pytest.raises(GraphError, match=f"{operator} 'n': expected '.*' from .* to 64, got"):
        graph_from_onnx(saved(tmp_path, [node], i=np.zeros((4, 0), np.int64)))


def test_an_axis_that_a_call_gives_a_function_is_checked_too(tmp_path: Path) -> None:
    inner = helper.make_node("GatherND", ["a", "i"], ["b"], name="n")
    inner.attribute.append(onnx.AttributeProto(name="batch_dims", ref_attr_name="k", type=onnx.AttributeProto.INT))
    imports = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "F", ["a", "i"], ["b"], [inner], imports, attributes=["k"])
    file = saved(tmp_path, [helper.make_node("F", ["x", "i"], ["y"], domain="own", k=-1)], i=np.zeros((4, 0), np.int64))
    model = onnx.load(file)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="expected 'batch_dims' from 0 to 64, got -1"):
        graph_from_onnx(file)


@pytest.mark.parametrize("equation", ["x[", "x.", "...x.", "x é"])
def test_an_equation_of_other_characters_is_refused(equation: str, tmp_path: Path) -> None:
    # ONNX's shape inference never returns from it.
    node = helper.make_node("Einsum", ["x"], ["y"], name="n", equation=equation)
    with pytest.raises(GraphError, match=r"Einsum 'n': expected an equation of letters, .* got '"):
        graph_from_onnx(saved(tmp_path, [node]))


def test_an_equation_of_letters_and_ellipses_is_read(tmp_path: Path) -> None:
    node = helper.make_node("Einsum", ["x", "x"], ["y"], equation="... k, ...k -> ... k")
    assert [each.op_type for each in graph_from_onnx(saved(tmp_path, [node])).graph] == ["Einsum"]


@pytest.mark.parametrize(("operator", "attributes"), [("EyeLike", {"dtype": 1}), ("RegexFullMatch", {"pattern": "a"})])
def test_a_node_behind_a_contradiction_does_not_end_the_process(
    operator: str, attributes: dict[str, object], tmp_path: Path
) -> None:
    # Compares bool with float: ONNX infers no type for it, and that of the next node is read without a look.
    nodes = [
        helper.make_node("Greater", ["b", "x"], ["t"]),
        helper.make_node(operator, ["t"], ["m"], **attributes),
        helper.make_node("Cast", ["m"], ["y"], to=1),
    ]
    graph = graph_from_onnx(saved(tmp_path, nodes, b=np.ones((1, 8), bool)))
    assert [node.op_type for node in graph.graph] == ["Greater", operator, "Cast"]


def test_shapes_are_inferred_behind_an_eye_like_a_typed_value(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("EyeLike", ["e"], ["m"], dtype=1)]
    nodes.append(helper.make_node("Add", ["m", "x"], ["y"]))
    graph = graph_from_onnx(saved(tmp_path, nodes))
    assert [list(node.outputs[0].shape.numpy()) for node in graph.graph] == [[1, 8]] * 3


def test_a_fault_of_a_pass_is_not_taken_for_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(graph: object) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr("edgekit.graph.load.onnx_file._name_dimensions", fail)
    with pytest.raises(AttributeError, match="a bug"):
        graph_from_onnx(saved(tmp_path, [helper.make_node("Neg", ["x"], ["y"])]))
    contradicting = [helper.make_node("Concat", ["x", "w"], ["y"], axis=0)]
    with pytest.raises(GraphError, match="m.onnx: not a valid graph: .*Concat"):
        graph_from_onnx(saved(tmp_path, contradicting, w=np.zeros((2, 2, 2), np.float32)))
