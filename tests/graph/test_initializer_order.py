"""The order of initializers, against a list that is searched as ONNX Runtime searches it, and ONNX Runtime itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph.initializer_order import order_initializers, order_initializers_of_file, ordered_names


def steps_of(names: list[str], removed: list[str]) -> int:
    """How many names ONNX Runtime looks at: it searches from the first on, and moves the last one to the place."""
    left, steps = list(names), 0
    for name in removed:
        index = left.index(name)
        steps += index + 1
        left[index] = left[-1]
        left.pop()
    return steps


@given(st.lists(st.integers(0, 40), max_size=60), st.permutations(range(30)))
def test_each_is_found_at_once(reads: list[int], order: list[int]) -> None:
    names = [f"w{i}" for i in order]
    read = [f"w{i}" for i in reads]
    first_uses = [name for name in dict.fromkeys(read) if name in names]
    found = ordered_names(names, read)
    assert sorted(found) == sorted(names)
    if len(first_uses) == len(names):
        assert steps_of(found, first_uses) == len(names)
    elif first_uses:  # those that no node reads are behind the first one, and are in the way of nothing but themselves
        assert steps_of(found, first_uses) <= len(first_uses)


def test_a_file_order_takes_the_square_of_their_number() -> None:
    names = [f"w{i}" for i in range(1_000)]
    assert steps_of(names, names) > 100_000
    assert steps_of(ordered_names(names, names), names) == 1_000


def sums(body: bool) -> onnx.ModelProto:
    """``y = x + w0 + w3 + w2``, and with ``body`` plus ``w4``, which an If reads; nothing reads ``w1``."""
    weights = [numpy_helper.from_array(np.full(400, 1.5 * i, np.float32), f"w{i}") for i in range(5)]
    nodes = [
        helper.make_node("Add", ["x", "w0"], ["a"]),
        helper.make_node("Add", ["a", "w3"], ["b"]),
        helper.make_node("Add", ["w2", "b"], ["c" if body else "y"]),
    ]
    if body:
        out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [400])
        then = helper.make_graph([helper.make_node("Add", ["c", "w4"], ["z"])], "t", [], [out])
        other = helper.make_graph([helper.make_node("Sub", ["c", "w4"], ["z"])], "e", [], [out])
        weights.append(numpy_helper.from_array(np.array(True), "yes"))
        nodes.append(helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [400]) for name in "xy")
    graph = helper.make_graph(nodes, "sums", [x], [y], weights, doc_string="kept")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="p")


@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_a_file_is_sorted_and_otherwise_the_same(tmp_path: Path, body: bool, external: bool) -> None:
    path, plain = tmp_path / "m.onnx", sums(body)
    onnx.save(sums(body), path, save_as_external_data=external, location="m.data", size_threshold=100)
    written = onnx.load(path, load_external_data=False)
    order_initializers_of_file(ir.load(path), path)
    found = onnx.load(path, load_external_data=False)
    unread = ["w1", "w4"]
    expected = ["w0", *unread, *(["yes"] if body else []), "w2", "w3"]
    assert [each.name for each in found.graph.initializer] == expected
    order_initializers(written.graph)
    assert found == written
    x = np.linspace(-1, 1, 400, dtype=np.float32)
    given_, sorted_ = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for model in (plain.SerializeToString(), str(path))
    )
    np.testing.assert_array_equal(sorted_, given_)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
