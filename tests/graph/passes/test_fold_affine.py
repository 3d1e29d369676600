from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import FoldAffine, FoldConstants, InferShapes, optimize
from edgekit.graph.stats import stats_from_graph
from edgekit.specs import TensorSpec


def operators(graph):
    return [node.op_type for node in graph.graph]


def randomized(norm: nn.Module) -> nn.Module:
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.2, 3)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    return norm


CONV = """
agraph (float[2, 4, 7, 6] x) => (float[2, 8, h, w0] y) {{
    a = {operator} <group = {groups}, strides = [{stride}, {stride}]> (x, w{bias})
    y = BatchNormalization <epsilon = 0.001> (a, scale, shift, mean, var)
}}"""


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    with_bias=st.booleans(),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_folded_convolution_computes_the_same(
    run_in_onnxruntime, graph_of, kernel, stride, groups, with_bias, transposed, seed
):
    rng = np.random.default_rng(seed)
    weights = {name: rng.uniform(0.2, 3, 8).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    channels = (4, 8 // groups) if transposed else (8, 4 // groups)
    weights["w"] = rng.standard_normal((*channels, kernel, kernel)).astype(np.float32)
    if with_bias:
        weights["b"] = rng.standard_normal(8).astype(np.float32)
    operator = "ConvTranspose" if transposed else "Conv"
    text = CONV.format(operator=operator, groups=groups, stride=stride, bias=", b" if with_bias else "")
    graph = graph_of(text, **weights)
    feeds = {"x": rng.standard_normal((2, 4, 7, 6)).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)
    optimize(graph)
    assert operators(graph) == [operator]
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], before[0], rtol=1e-4, atol=1e-4)


GEMM = """
agraph (float[3, {k}] x) => (float[3, 4] y) {{
    a = Gemm <alpha = 0.5, beta = 3.0, transB = {trans}> (x, w{c})
    y = BatchNormalization <epsilon = 0.01> (a, scale, shift, mean, var)
}}"""


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias_shape", [None, (4,), (1, 4), (1,)])
def test_folded_gemm_computes_the_same(run_in_onnxruntime, graph_of, trans, bias_shape):
    rng = np.random.default_rng(0)
    norm = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    weights = {"w": rng.standard_normal((4, 5) if trans else (5, 4)).astype(np.float32)}
    if bias_shape is not None:
        weights["c"] = rng.standard_normal(bias_shape).astype(np.float32)
    graph = graph_of(GEMM.format(k=5, trans=trans, c="" if bias_shape is None else ", c"), **weights, **norm)
    feeds = {"x": rng.standard_normal((3, 5)).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)
    optimize(graph)
    assert operators(graph) == ["Gemm"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], before[0], rtol=1e-5, atol=1e-5)


def conv_and_norm(graph_of, tail: str, outputs: str):
    rng = np.random.default_rng(1)
    norm = {name: rng.uniform(0.5, 2, 2).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    text = f"""
    agraph (float[1, 2, 4, 4] x) => ({outputs}) {{
        a = Conv (x, w)
        b = BatchNormalization (a, scale, shift, mean, var)
        {tail}
    }}"""
    return graph_of(text, w=rng.standard_normal((2, 2, 3, 3)).astype(np.float32), **norm)


@pytest.mark.parametrize(
    ("tail", "outputs"),
    [
        ("y = Add (a, b)", "float[1, 2, 2, 2] y"),
        ("y = Relu (b)", "float[1, 2, 2, 2] y, float[1, 2, 2, 2] a"),
    ],
    ids=["another user", "an output"],
)
def test_convolution_with_another_user_is_not_folded(graph_of, tail, outputs):
    graph = conv_and_norm(graph_of, tail, outputs)
    assert not FoldAffine()(graph).modified
    assert "BatchNormalization" in operators(graph)


def test_weight_that_two_layers_share_is_copied(run_in_onnxruntime, graph_of):
    graph = conv_and_norm(graph_of, "c = Conv (x, w)\n y = Sub (b, c)", "float[1, 2, 2, 2] y")
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 2, 4, 4)).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)
    assert FoldAffine()(graph).modified
    assert operators(graph) == ["Conv", "Conv", "Sub"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], before[0], rtol=1e-4, atol=1e-5)


def test_folded_layer_keeps_its_name_and_takes_the_norms_output_name():
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    graph = graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 4, 4))], ["y"])
    for step in (InferShapes(), FoldConstants(), FoldAffine()):
        step(graph)
    conv = next(node for node in graph.graph if node.op_type == "Conv")
    assert (conv.name, conv.outputs[0].name) == ("0", "1")
    assert [value.name for value in conv.inputs] == ["x", "0.weight", "0.bias"]


def test_module_keeps_its_weights():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), randomized(nn.BatchNorm2d(4)))
    before = module[0].weight.detach().clone()
    optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 4, 4))]))
    assert torch.equal(module[0].weight, before)


LAYERS = {
    "Conv": ("float[2, 4, 6, 6] x", "Conv (x, w, b)", (6, 4, 3, 3), (2, 6, 4, 4)),
    "grouped Conv": ("float[2, 4, 6, 6] x", "Conv <group = 2> (x, w)", (6, 2, 3, 3), (2, 6, 4, 4)),
    "Conv of one axis": ("float[2, 4, 6] x", "Conv (x, w)", (6, 4, 3), (2, 6, 4)),
    "padded Conv": ("float[2, 4, 6, 6] x", "Conv <pads = [1, 1, 1, 1]> (x, w, b)", (6, 4, 3, 3), (2, 6, 6, 6)),
    "ConvTranspose": ("float[2, 4, 6, 6] x", "ConvTranspose <group = 2> (x, w, b)", (4, 3, 2, 2), (2, 6, 7, 7)),
    "Gemm": ("float[2, 4] x", "Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)", (6, 4), (2, 6)),
    "MatMul": ("float[2, 3, 4] x", "MatMul (x, w)", (4, 6), (2, 3, 6)),
}


def layer_and(graph_of, layer: str, before: tuple[str, str], behind: tuple[str, str], **constants):
    """A graph of a layer with an elementwise node before it and one behind it, each ``(operator, operands)``."""
    given, text, shape, result = LAYERS[layer]
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal(shape).astype(np.float32), "b": rng.standard_normal(6).astype(np.float32)}
    nodes = [f"m = {before[0]} ({before[1]})" if before else "", f"p = {text.replace('(x', '(m' if before else '(x')}"]
    nodes += [f"y = {behind[0]} ({behind[1]})" if behind else "y = Relu (p)"]
    sizes = ", ".join(map(str, result))
    text = f"g ({given}) => (float[{sizes}] y) {{ {' '.join(nodes)} }}"
    used = {name: array for name, array in {**weights, **constants}.items() if name in re.findall(r"\w+", text)}
    return graph_of(text, **used)


def require_same(run_in_onnxruntime, graph, expected_operators: list[str], seed: int = 7) -> None:
    shape = [int(size) for size in graph.graph.inputs[0].shape]
    feeds = {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)[0]
    optimize(graph)
    assert operators(graph) == expected_operators
    after = run_in_onnxruntime(graph, feeds)[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.ptp(before))


def per_channel(layer: str, channels: int) -> np.ndarray:
    rank = len(LAYERS[layer][3])
    array = np.random.default_rng(6).uniform(0.5, 3, channels).astype(np.float32)
    return array if layer in ("Gemm", "MatMul") else array.reshape(-1, *[1] * (rank - 2))


BEHIND = ["Add (p, c)", "Add (c, p)", "Sub (p, c)", "Sub (c, p)", "Mul (p, c)", "Mul (c, p)", "Div (p, c)"]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(
    ("layer", "scalar"), [*((name, False) for name in LAYERS if name != "MatMul"), ("Conv", True)], ids=str
)
def test_arithmetic_behind_a_layer_is_folded_into_it(run_in_onnxruntime, graph_of, layer, behind, scalar):
    constant = np.float32(1.7) if scalar else per_channel(layer, 6)
    graph = layer_and(graph_of, layer, (), tuple(behind.rstrip(")").split(" (")), c=np.asarray(constant))
    require_same(run_in_onnxruntime, graph, [layer.split()[-1] if " of " not in layer else "Conv"])


@pytest.mark.parametrize("layer", ["Conv", "grouped Conv", "Conv of one axis", "Gemm"])
@pytest.mark.parametrize("before", [each.replace("(p", "(x").replace("p)", "x)") for each in BEHIND])
def test_arithmetic_before_a_layer_is_folded_into_it(run_in_onnxruntime, graph_of, layer, before):
    graph = layer_and(graph_of, layer, tuple(before.rstrip(")").split(" (")), (), c=per_channel(layer, 4))
    require_same(run_in_onnxruntime, graph, ["Gemm" if layer == "Gemm" else "Conv", "Relu"])


@pytest.mark.parametrize("layer", ["padded Conv", "ConvTranspose"])
@pytest.mark.parametrize(("before", "folded"), [(("Mul", "x, c"), True), (("Add", "x, c"), False)])
def test_an_offset_is_not_moved_behind_padding(run_in_onnxruntime, graph_of, layer, before, folded):
    graph = layer_and(graph_of, layer, before, (), c=per_channel(layer, 4))
    operator = layer.split()[-1]
    require_same(run_in_onnxruntime, graph, [operator, "Relu"] if folded else ["Add", operator, "Relu"])


def test_batch_norm_before_a_convolution_is_folded(run_in_onnxruntime, graph_of):
    norm = {name: per_channel("Gemm", 4) for name in ("scale", "shift", "mean", "var")}
    graph = layer_and(graph_of, "Conv", ("BatchNormalization", "x, scale, shift, mean, var"), (), **norm)
    require_same(run_in_onnxruntime, graph, ["Conv", "Relu"])


def test_scale_of_columns_is_folded_into_a_matmul_and_its_bias(run_in_onnxruntime, graph_of):
    weights = {"w": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32), "b": per_channel("Gemm", 6)}
    graph = graph_of(
        "g (float[2, 3, 4] x) => (float[2, 3, 6] y) { p = MatMul (x, w)  q = Add (b, p)  y = Mul (q, c) }",
        **weights,
        c=per_channel("Gemm", 6),
    )
    require_same(run_in_onnxruntime, graph, ["MatMul", "Add"])


def test_scale_behind_a_transpose_is_folded(run_in_onnxruntime, graph_of):
    """As in ConvNeXt, whose blocks end in a MatMul with channels last and a scale with channels first."""
    text = """g (float[2, 3, 3, 4] x) => (float[2, 6, 3, 3] y) {
        p = MatMul (x, w)  q = Add (p, b)  t = Transpose <perm = [0, 3, 1, 2]> (q)  y = Mul (t, c) }"""
    w = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    graph = graph_of(text, w=w, b=per_channel("Gemm", 6), c=per_channel("Conv", 6))
    require_same(run_in_onnxruntime, graph, ["MatMul", "Add", "Transpose"])


def test_scale_of_another_axis_behind_a_transpose_stays(run_in_onnxruntime, graph_of):
    text = """g (float[2, 4, 4, 4] x) => (float[2, 4, 4, 4] y) {
        p = MatMul (x, w)  t = Transpose <perm = [0, 3, 1, 2]> (p)  y = Mul (t, c) }"""
    w = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    graph = graph_of(text, w=w, c=per_channel("Gemm", 4))
    require_same(run_in_onnxruntime, graph, ["MatMul", "Transpose", "Mul"])


@pytest.mark.parametrize(
    ("layer", "behind", "shape"),
    [
        ("MatMul", "Mul", ()),  # the scale of an attention
        ("MatMul", "Add", (6,)),  # its bias
        ("Conv", "Add", (6, 4, 4)),  # by pixel
        ("Conv", "Add", (4,)),  # by column
        ("Conv", "Add", (2, 1, 1, 1)),  # by image
        ("Conv", "Add", (1, 1, 6, 1, 1)),  # of another rank
        ("Gemm", "Mul", (2, 1)),
    ],
)
def test_other_arithmetic_stays(run_in_onnxruntime, graph_of, layer, behind, shape):
    given, text, weight, result = LAYERS[layer]
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal(weight).astype(np.float32), "b": rng.standard_normal(6).astype(np.float32)}
    sizes = ", ".join(map(str, np.broadcast_shapes(result, shape)))
    text = f"g ({given}) => (float[{sizes}] y) {{ p = {text}  y = {behind} (p, c) }}"
    used = {name: array for name, array in weights.items() if f", {name}" in text}
    graph = graph_of(text, **used, c=rng.standard_normal(shape).astype(np.float32))
    require_same(run_in_onnxruntime, graph, [layer, behind])


@pytest.mark.parametrize("number", [np.inf, np.nan, 1e-44, 3e38], ids=str)
def test_numbers_that_weights_cannot_hold_stay(graph_of, number):
    graph = layer_and(graph_of, "Conv", (), ("Mul", "p, c"), c=np.asarray(number, np.float32))
    assert not FoldAffine()(graph).modified


def test_an_offset_that_would_take_the_digits_of_the_bias_stays(graph_of):
    graph = layer_and(graph_of, "Conv", (), ("Add", "p, c"), c=np.asarray(1e6, np.float32))
    assert not FoldAffine()(graph).modified


def test_arithmetic_that_broadcasts_its_input_stays(run_in_onnxruntime, graph_of):
    text = "g (float[2, 1, 4, 4] x) => (float[2, 6, 4, 4] y) { m = Mul (x, c)  y = Conv (m, w) }"
    weight = np.random.default_rng(1).standard_normal((6, 4, 1, 1)).astype(np.float32)
    graph = graph_of(text, w=weight, c=per_channel("Conv", 4))
    require_same(run_in_onnxruntime, graph, ["Mul", "Conv"])


def test_folded_parameters_are_counted(graph_of):
    graph = layer_and(graph_of, "grouped Conv", (), ("Add", "p, c"), c=per_channel("Conv", 6))
    before = stats_from_graph(graph).parameters
    optimize(graph)
    assert stats_from_graph(graph).parameters == before == 6 * 2 * 3 * 3 + 6


def test_layers_in_the_branches_of_an_if_are_folded(run_in_onnxruntime, graph_of):
    text = """g (float[1, 4, 3, 3] x, bool c) => (float[1, 6, 3, 3] y) {
        y = If (c) <then_branch = then () => (float[1, 6, 3, 3] t) { p = Conv (x, w)  t = Mul (p, s) },
                    else_branch = else () => (float[1, 6, 3, 3] e) { q = Conv (x, w)  e = Add (q, s) }> }"""
    weight = np.random.default_rng(1).standard_normal((6, 4, 1, 1)).astype(np.float32)
    graph = graph_of(text, w=weight, s=per_channel("Conv", 6))
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 4, 3, 3)).astype(np.float32)}
    expected = [run_in_onnxruntime(graph, {**feeds, "c": np.asarray(c)})[0] for c in (True, False)]
    assert FoldAffine()(graph).modified
    assert sorted(node.op_type for node in graph.graph.all_nodes()) == ["Conv", "Conv", "If"]
    for c, array in zip((True, False), expected, strict=True):
        got = run_in_onnxruntime(graph, {**feeds, "c": np.asarray(c)})[0]
        np.testing.assert_allclose(got, array, rtol=1e-5, atol=1e-5)


MOVED = {
    # A product of tokens, and channels of pixels: text between the layer and the arithmetic, shape of the result.
    "LeViT": ("m = MatMul (x, w) r = Reshape (m, rows) n = BatchNormalization (r, s, b, mean, var) "
              "y = Reshape (n, tokens)", "2, 6, 8", ["MatMul", "Add"]),
    "BatchNorm1d": ("m = MatMul (x, w) t = Transpose <perm = [0, 2, 1]> (m) "
                    "y = BatchNormalization (t, s, b, mean, var)",
                    "2, 8, 6", ["MatMul", "Add", "Transpose"]),
    "with a bias": ("m = MatMul (x, w) a = Add (m, s) r = Reshape (a, rows) "
                    "n = BatchNormalization (r, s, b, mean, var) y = Reshape (n, tokens)", "2, 6, 8",
                    ["MatMul", "Add"]),
    "heads apart": ("m = MatMul (x, w) a = Add (m, s) r = Reshape (a, heads) y = Add (r, four)",
                    "2, 6, 2, 4", ["MatMul", "Add", "Reshape", "Add"]),
    "rows of another width": ("m = MatMul (x, w) a = Add (m, s) r = Reshape (a, wide) "
                              "y = BatchNormalization (r, s, b, mean, var)", "2, 8, 6",
                              ["MatMul", "Add", "Reshape", "BatchNormalization"]),
    "something else reads the product": ("m = MatMul (x, w) r = Reshape (m, rows) "
                                         "n = BatchNormalization (r, s, b, mean, var) e = Reshape (n, tokens) "
                                         "y = Add (e, m)", "2, 6, 8",
                                         ["MatMul", "Reshape", "BatchNormalization", "Reshape", "Add"]),
}  # fmt: skip


@pytest.mark.parametrize("form", MOVED)
def test_channels_may_be_moved_in_between(run_in_onnxruntime, graph_of, form):
    text, shape, expected = MOVED[form]
    rng = np.random.default_rng(0)
    constants = {name: rng.uniform(0.2, 3, 8).astype(np.float32) for name in ("s", "b", "mean", "var")}
    constants |= {"w": rng.standard_normal((5, 8)).astype(np.float32), "four": np.arange(4, dtype=np.float32)}
    constants |= {"rows": np.array([12, 8]), "tokens": np.array([2, 6, 8])}
    constants |= {"heads": np.array([2, 6, 2, 4]), "wide": np.array([2, 8, 6])}
    used = {name: array for name, array in constants.items() if re.search(rf"\b{name}\b", text)}
    graph = graph_of(f"g (float[2, 6, 5] x) => (float[{shape}] y) {{ {text} }}", **used)
    feeds = {"x": rng.standard_normal((2, 6, 5)).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)[0]
    optimize(graph)
    assert operators(graph) == expected
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], before, rtol=1e-4, atol=1e-5)


def test_a_bias_behind_the_squeeze_of_a_convolution(run_in_onnxruntime, graph_of):
    text = "c = Conv (x, w) q = Squeeze (c, last) a = Add (q, b) y = Mul (a, s)"
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 3, 5, 1)), "b": rng.standard_normal((1, 4, 1)), "s": rng.random((4, 1))}
    used = {name: array.astype(np.float32) for name, array in constants.items()}
    graph = graph_of(f"g (float[2, 3, 9, 1] x) => (float[2, 4, 5] y) {{ {text} }}", **used, last=np.array([3]))
    feeds = {"x": rng.standard_normal((2, 3, 9, 1)).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)[0]
    optimize(graph)
    assert operators(graph) == ["Conv", "Squeeze"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], before, rtol=1e-4, atol=1e-5)
