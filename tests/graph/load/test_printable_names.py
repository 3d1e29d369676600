"""Names with control characters: shown as escapes, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import EdgeKitError, EdgeKitWarning, GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.original import OnnxOriginal

IMAGE, RESULT = "im\nage\x1b[31m", "y\nerror: forged\t"
SHOWN_IMAGE, SHOWN_RESULT = r"im\nage\x1b[31m", r"y\nerror: forged\t"
LARGE = 4096


def hostile(tmp_path: Path, operator: str = "Mul") -> Path:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["sum\n"], ["in\nside"], "node\nin a branch")],
        "branch\n",
        [],
        [helper.make_tensor_value_info("in\nside", TensorProto.FLOAT, None)],
    )
    double = helper.make_function(
        "own\x1b",
        "Double\n",
        ["a\n"],
        ["b\n"],
        [helper.make_node("Add", ["a\n", "a\n"], ["b\n"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node(operator, [IMAGE, "w\n"], ["product\r"], "mul\x1b[2J"),
        helper.make_node("Double\n", ["product\r"], ["sum\n"], domain="own\x1b"),
        helper.make_node("If", ["yes\n"], [RESULT], "if\n", then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(
        nodes,
        "graph\n",
        [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["ba\ntch", LARGE])],
        [helper.make_tensor_value_info(RESULT, TensorProto.FLOAT, ["ba\ntch", LARGE])],
        [
            numpy_helper.from_array(np.linspace(-1, 1, LARGE, dtype=np.float32), "w\n"),
            numpy_helper.from_array(np.asarray(True), "yes\n"),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own\x1b", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[double], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_graph_with_escaped_names_computes_the_same(tmp_path: Path) -> None:
    path = hostile(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, LARGE)).astype(np.float32)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {IMAGE: x})
    graph = graph_from_onnx(path)
    np.testing.assert_array_equal(Evaluator(graph).run({SHOWN_IMAGE: x})[SHOWN_RESULT], expected)
    names = [value.name or "" for node in graph.graph.all_nodes() for value in node.outputs]
    names += [node.name or "" for node in graph.graph.all_nodes()]
    assert all(name.isprintable() for name in names)
    assert graph.graph.inputs[0].shape is not None and str(graph.graph.inputs[0].shape[0]) == r"ba\ntch"


def test_the_original_is_run_under_the_escaped_names(tmp_path: Path) -> None:
    path = hostile(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, LARGE)).astype(np.float32)
    original = OnnxOriginal(path)
    (found,) = original.run([{SHOWN_IMAGE: x}])
    np.testing.assert_allclose(found[SHOWN_RESULT], -2 * x * np.linspace(-1, 1, LARGE, dtype=np.float32), rtol=1e-6)
    assert r"sum\n" in original.inside({SHOWN_IMAGE: x}) or r"product\x0d" in original.inside({SHOWN_IMAGE: x})


def test_a_message_shows_the_escapes(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as caught:
        graph_from_onnx(hostile(tmp_path, "Mu\nl"))
    assert r"node 'mul\x1b[2J': operator 'Mu\nl' is not in opset 17" in caught.value.message


def test_names_that_become_the_same_are_refused(tmp_path: Path) -> None:
    model = onnx.load(hostile(tmp_path))
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = SHOWN_IMAGE
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="differ only in control characters"):
        graph_from_onnx(tmp_path / "m.onnx")


def test_errors_and_warnings_of_python_cannot_control_a_terminal() -> None:
    error = EdgeKitError("file \x1b[31m", hint="rename \x07")
    assert (str(error), error.args) == ("file \\x1b[31m\nrename \\x07", ("file \\x1b[31m",))
    assert str(EdgeKitWarning("label \x1b]0;title\x07")) == r"label \x1b]0;title\x07"
