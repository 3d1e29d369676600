"""Texts that are not UTF-8, in each field of a file that can have one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize

COMMENTS = ("doc", "den", "meta", "note")


def commented(message: Message, name: str) -> None:
    """Gives a message all comments that its kind has."""
    fields = message.DESCRIPTOR.fields_by_name
    if "doc_string" in fields:
        message.doc_string = f"doc-{name}"
    if "denotation" in fields:
        message.denotation = f"den-{name}"
    if "metadata_props" in fields:
        message.metadata_props.add(key=f"meta-key-{name}", value=f"meta-{name}")
    if "quantization_annotation" in fields:
        note = message.quantization_annotation.add(tensor_name=f"note-{name}")
        note.quant_parameter_tensor_names.add(key=f"note-key-{name}", value=f"note-value-{name}")


def model() -> onnx.ModelProto:
    """``y = relu(x) + w`` through a function and an If, with texts wherever ONNX has a place for one."""
    function = helper.make_function(
        "own.domain", "Half", ["into"], ["result"], [helper.make_node("Relu", ["into"], ["result"], name="inner")],
        [helper.make_opsetid("", 17)], [],
    )  # fmt: skip
    branch = helper.make_graph(
        [helper.make_node("Identity", ["middle"], ["chosen"], name="copy")],
        "branch",
        [],
        [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Half", ["x"], ["middle"], domain="own.domain", name="call"),
        helper.make_node("If", ["condition"], ["taken"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["taken", "weight"], ["y"], name="sum"),
        helper.make_node("Constant", [], ["unused"], value_strings=[b"text-of-a-constant"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "batch.size"]) for name in "xy")
    weights = [numpy_helper.from_array(np.ones(1, np.float32), "weight")]
    weights.append(numpy_helper.from_array(np.array(True), "condition"))
    inner = [helper.make_tensor_value_info("middle", TensorProto.FLOAT, [1, "inner.size"])]
    graph = helper.make_graph(nodes, "main", [x], [y], weights, value_info=inner)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own.domain", 1)]
    found = helper.make_model(
        graph, opset_imports=opsets, functions=[function], producer_name="producer", producer_version="version 1",
        domain="model.domain", ir_version=10,
    )  # fmt: skip
    for index, message in enumerate(messages(found)):
        commented(message, str(index))
    return found


def messages(message: Message) -> list[Message]:
    parts = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            parts += [each for part in ((value,) if isinstance(value, Message) else value) for each in messages(part)]
    return parts


def texts(message: Message) -> list[str]:
    found = set()
    for part in messages(message):
        for field, value in part.ListFields():
            if field.type == field.TYPE_STRING:
                found.update((value,) if isinstance(value, str) else value)
    return sorted(text for text in found if text)


FILE = model()


def test_the_model_has_all_kinds_of_texts() -> None:
    assert len(texts(FILE)) > 80
    assert {text.split("-")[0] for text in texts(FILE)} >= set(COMMENTS)


@pytest.mark.parametrize("text", texts(FILE))
def test_a_comment_is_dropped_and_a_name_is_refused(text: str, tmp_path: Path) -> None:
    start = bytes([len(text)]) + text.encode()  # as protobuf writes a text
    changed = FILE.SerializeToString().replace(start, bytes([len(text)]) + b"\xff" * len(text))
    path = tmp_path / "m.onnx"
    path.write_bytes(changed)
    x = np.array([[-1, 2]], np.float32)
    if text.startswith(COMMENTS):
        found = Evaluator(optimize(graph_from_onnx(path))).run({"x": x})["y"]
        np.testing.assert_array_equal(found, np.maximum(x, 0) + 1)
    else:
        with pytest.raises(GraphError):
            graph_from_onnx(path)


@pytest.mark.parametrize("where", ["an output", "an inner value", "an output of a body"])
def test_a_type_that_says_nothing_is_inferred(where: str, tmp_path: Path) -> None:
    changed = onnx.ModelProto.FromString(FILE.SerializeToString())
    graph = changed.graph
    value = {
        "an output": graph.output[0],
        "an inner value": graph.value_info[0],
        "an output of a body": graph.node[1].attribute[0].g.output[0],
    }[where]
    value.type.tensor_type.elem_type = TensorProto.UNDEFINED
    onnx.save(changed, tmp_path / "m.onnx")
    loaded = optimize(graph_from_onnx(tmp_path / "m.onnx"))
    x = np.array([[-1, 2]], np.float32)
    np.testing.assert_array_equal(Evaluator(loaded).run({"x": x})["y"], np.maximum(x, 0) + 1)
