from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph.passes import InferShapes, RemoveDead, RemoveIdentity, optimize

X = "float[2, 3, 4] x"


def operators(graph):
    return [node.op_type for node in graph.graph]


def assert_same_after(run, graph, *steps):
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    before = run(graph, feeds)
    names = [value.name for value in (*graph.graph.inputs, *graph.graph.outputs)]
    for step in steps:
        step(graph)
    assert [value.name for value in (*graph.graph.inputs, *graph.graph.outputs)] == names
    for got, expected in zip(run(graph, feeds), before, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "node",
    [
        "Identity (a)",
        "Dropout (a)",
        "Cast <to = 1> (a)",
        "Reshape (a, shape)",
        "Transpose <perm = [0, 1, 2]> (a)",
        "Expand (a, shape)",
        "Slice (a, zeros, ends)",
        "Slice (a, zeros, ends, axes, ones)",
    ],
)
def test_node_that_changes_nothing_goes(run_in_onnxruntime, graph_of, node):
    text = f"agraph ({X}) => (float[2, 3, 4] y) {{ a = Exp (x) b = {node} y = Neg (b) }}"
    vectors = {"shape": [2, 3, 4], "zeros": [0, 0, 0], "ends": [9, 3, 2**62], "axes": [0, 1, 2], "ones": [1, 1, 1]}
    graph = graph_of(text, **{name: np.array(vector) for name, vector in vectors.items() if name in node})
    assert_same_after(run_in_onnxruntime, graph, InferShapes(), RemoveIdentity())
    assert operators(graph) == ["Exp", "Neg"]


def test_slice_backwards_stays(graph_of):
    text = f"agraph ({X}) => (float[2, 3, 4] y) {{ a = Exp (x) b = Slice (a, last, first, axis, back) y = Neg (b) }}"
    vectors = {"last": [-1], "first": [-9], "axis": [2], "back": [-1]}
    graph = graph_of(text, **{name: np.array(vector) for name, vector in vectors.items()})
    optimize(graph)
    assert operators(graph) == ["Exp", "Slice", "Neg"]


@pytest.mark.parametrize("attributes", ["kernel_shape = [1]", "kernel_shape = [1], strides = [1], pads = [0, 0]"])
@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
def test_pool_of_one_pixel_goes(run_in_onnxruntime, graph_of, pool, attributes):
    text = f"agraph ({X}) => (float[2, 3, 4] y) {{ a = Exp (x) b = {pool} <{attributes}> (a) y = Neg (b) }}"
    graph = graph_of(text)
    assert_same_after(run_in_onnxruntime, graph, InferShapes(), RemoveIdentity())
    assert operators(graph) == ["Exp", "Neg"]


@pytest.mark.parametrize(
    ("attributes", "length"),
    [("kernel_shape = [1], strides = [2]", 2), ("kernel_shape = [2], pads = [0, 1]", 4)],
)
@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
def test_pool_that_changes_something_stays(graph_of, pool, attributes, length):
    text = f"agraph ({X}) => (float[2, 3, {length}] y) {{ a = Exp (x) b = {pool} <{attributes}> (a) y = Neg (b) }}"
    graph = graph_of(text)
    InferShapes()(graph)
    assert not RemoveIdentity()(graph).modified


def test_pool_of_one_pixel_whose_indices_are_read_stays(graph_of):
    text = f"agraph ({X}) => (float[2, 3, 4] y, int64[2, 3, 4] i) {{ y, i = MaxPool <kernel_shape = [1]> (x) }}"
    graph = graph_of(text)
    InferShapes()(graph)
    assert not RemoveIdentity()(graph).modified


@pytest.mark.parametrize(
    ("node", "output"),
    [
        ("Cast <to = 11> (a)", "double[2, 3, 4] y"),
        ("Reshape (a, shape)", "float[3, 2, 4] y"),
        ("Transpose (a)", "float[4, 3, 2] y"),
    ],
)
def test_node_that_changes_something_stays(graph_of, node, output):
    text = f"agraph ({X}) => ({output}) {{ a = Exp (x) b = {node} y = Neg (b) }}"
    graph = graph_of(text, shape=np.array([3, 2, 4], np.int64))
    InferShapes()(graph)
    assert not RemoveIdentity()(graph).modified


@pytest.mark.parametrize(
    ("body", "outputs", "left"),
    [
        ("y = Identity (x)", "float[2, 3, 4] y", ["Identity"]),
        ("a = Exp (x) y = Identity (a)", "float[2, 3, 4] y", ["Exp"]),
        ("y = Exp (x) z = Identity (y)", "float[2, 3, 4] y, float[2, 3, 4] z", ["Exp", "Identity"]),
        ("a = Exp (x) y = Identity (a) z = Identity (a)", "float[2, 3, 4] y, float[2, 3, 4] z", ["Exp", "Identity"]),
    ],
    ids=["of an input", "of a value", "of an output", "twice"],
)
def test_outputs_keep_their_names(run_in_onnxruntime, graph_of, body, outputs, left):
    graph = graph_of(f"agraph ({X}) => ({outputs}) {{ {body} }}")
    assert_same_after(run_in_onnxruntime, graph, InferShapes(), RemoveIdentity())
    assert operators(graph) == left


def test_dropout_whose_mask_is_read_stays(graph_of):
    graph = graph_of(f"agraph ({X}) => (float[2, 3, 4] y, bool[2, 3, 4] m) {{ y, m = Dropout (x) }}")
    assert not RemoveIdentity()(graph).modified


def test_dead_nodes_and_initializers_go(run_in_onnxruntime, graph_of):
    text = f"agraph ({X}) => (float[2, 3, 4] y) {{ dead = Add (x, w) y = Exp (x) }}"
    graph = graph_of(text, w=np.ones(4, np.float32))
    assert_same_after(run_in_onnxruntime, graph, RemoveDead())
    assert operators(graph) == ["Exp"]
    assert not graph.graph.initializers


def test_constants_fold_to_initializers(run_in_onnxruntime, graph_of):
    text = f"""
    agraph ({X}) => (float[n, m] y) {{
        s = Shape (x) b = Gather (s, zero) two = Constant <value = int64[1] {{-1}}> ()
        target = Concat <axis = 0> (b, two) y = Reshape (x, target)
    }}"""
    graph = graph_of(text, zero=np.array([0], np.int64))
    assert_same_after(run_in_onnxruntime, graph, optimize)
    assert operators(graph) == ["Reshape"]


def test_constants_of_one_number_fold_where_they_are_small(run_in_onnxruntime, graph_of):
    text = f"""agraph ({X}) => (float[a, b, c] y) {{
        z = ConstantOfShape <value = int64[1] {{0}}> (n)  p = Concat <axis = 0> (z, z)  y = Pad (x, p) }}"""
    graph = graph_of(text, n=np.array([3]))
    assert_same_after(run_in_onnxruntime, graph, lambda graph: optimize(graph))
    assert operators(graph) == ["Pad"]
    assert list(graph.graph.outputs[0].shape) == [2, 3, 4]


def test_large_constant_expressions_stay_short(graph_of):
    text = f"""
    agraph ({X}) => (float[n] y) {{
        big = ConstantOfShape (size) m = ReduceMax (big) y = Mul (x, m)
    }}"""
    graph = optimize(graph_of(text, size=np.array([1 << 26], np.int64)))
    assert sum(value.const_value.nbytes for value in graph.graph.initializers.values()) < 100


def test_nodes_get_unique_names(graph_of):
    graph = graph_of(f"agraph ({X}) => (float[2, 3, 4] y) {{ a = Exp (x) b = Neg (a) y = Abs (b) }}")
    for node, name in zip(graph.graph, ["same", "same", None], strict=True):
        node.name = name
    optimize(graph)
    assert [node.name for node in graph.graph] == ["same", "same_1", "y"]
