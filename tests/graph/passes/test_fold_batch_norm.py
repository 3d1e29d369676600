from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import FoldBatchNorm, FoldConstants, InferShapes, optimize
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
    assert not FoldBatchNorm()(graph).modified
    assert "BatchNormalization" in operators(graph)


def test_weight_that_two_layers_share_is_copied(run_in_onnxruntime, graph_of):
    graph = conv_and_norm(graph_of, "c = Conv (x, w)\n y = Sub (b, c)", "float[1, 2, 2, 2] y")
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 2, 4, 4)).astype(np.float32)}
    before = run_in_onnxruntime(graph, feeds)
    assert FoldBatchNorm()(graph).modified
    assert operators(graph) == ["Conv", "Conv", "Sub"]
    np.testing.assert_allclose(run_in_onnxruntime(graph, feeds)[0], before[0], rtol=1e-4, atol=1e-5)


def test_folded_layer_keeps_its_name_and_takes_the_norms_output_name():
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    graph = graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 4, 4))], ["y"])
    for step in (InferShapes(), FoldConstants(), FoldBatchNorm()):
        step(graph)
    conv = next(node for node in graph.graph if node.op_type == "Conv")
    assert (conv.name, conv.outputs[0].name) == ("0", "1")
    assert [value.name for value in conv.inputs] == ["x", "0.weight", "0.bias"]


def test_module_keeps_its_weights():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), randomized(nn.BatchNorm2d(4)))
    before = module[0].weight.detach().clone()
    optimize(graph_from_module(module, [TensorSpec("x", "float32", (1, 3, 4, 4))]))
    assert torch.equal(module[0].weight, before)
