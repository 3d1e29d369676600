from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgekit.graph.export.module import graph_from_module
from edgekit.graph.passes import FoldSelections, optimize
from edgekit.models.attention import self_attention
from edgekit.specs import TensorSpec

RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 8)).astype(np.float32)


def operators(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def assert_folds(run, graph: ir.Model, left: list[str]) -> None:
    x = {"x": RNG.standard_normal((2, 8)).astype(np.float32)}
    expected = run(graph, x)
    assert FoldSelections()(graph).modified
    assert operators(graph) == left
    for got, reference in zip(run(graph, x), expected, strict=True):
        np.testing.assert_array_equal(got, reference)


@pytest.mark.parametrize(
    "limits",
    [
        {"a": ints(1), "b": ints(5)},
        {"a": ints(-5), "b": ints(2**63 - 1)},
        {"a": ints(1, 0), "b": ints(4, 8), "c": ints(0, 1)},
        {"a": ints(5), "b": ints(-(2**63)), "c": ints(-2), "d": ints(-2)},
        {"a": ints(0), "b": ints(5), "c": ints(0), "d": ints(2)},
    ],
    ids=["rows", "from-the-end", "two-axes", "backwards", "every-second"],
)
def test_slice_of_a_weight_becomes_a_weight(run_in_onnxruntime, graph_of, limits):
    text = (
        f"agraph (float[2, 8] x) => (float[n, 8] z) {{ s = Slice (w, {', '.join(limits)}) z = Concat <axis=0> (x, s) }}"
    )
    assert_folds(run_in_onnxruntime, graph_of(text, w=W, **limits), ["Concat"])


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("Split <axis = 0> (w, sizes)", {"sizes": ints(1, 3, 2)}),
        ("Split <axis = 0, num_outputs = 3> (w)", {}),
        ("Split <axis = 0, num_outputs = 4> (w)", {}),
    ],
    ids=["sizes", "equal", "last-is-smaller"],
)
def test_each_part_of_a_split_weight_becomes_a_weight(run_in_onnxruntime, graph_of, split, sizes):
    names = "abcd"[: 4 if "4" in split else 3]
    if "4" in split:
        weight = RNG.standard_normal((7, 8)).astype(np.float32)
    else:
        weight = W
    text = f"""agraph (float[2, 8] x) => (float[n, 8] z) {{
        {", ".join(names)} = {split}
        z = Concat <axis=0> (x, {", ".join(reversed(names))})
    }}"""
    assert_folds(run_in_onnxruntime, graph_of(text, w=weight, **sizes), ["Concat"])


@pytest.mark.parametrize("order", ["<perm = [1, 0]>", ""])
def test_transposed_weight_with_another_user_becomes_a_weight(run_in_onnxruntime, graph_of, order):
    text = f"""agraph (float[2, 8] x) => (float[2, 6] y, float[6, 8] z) {{
        t = Transpose {order} (w) y = MatMul (x, t) z = Neg (w)
    }}"""
    assert_folds(run_in_onnxruntime, graph_of(text, w=W), ["MatMul", "Neg"])


@pytest.mark.parametrize(
    "body", ["t = Transpose (x) z = Neg (t)", "z = Transpose (w) d = Neg (x)", "t = Slice (x, a, b) z = Neg (t)"]
)
def test_selections_of_inputs_and_those_that_are_outputs_stay(graph_of, body):
    graph = graph_of(f"agraph (float[2, 8] x) => (float[n, m] z) {{ {body} }}", w=W, a=ints(0), b=ints(1))
    before = operators(graph)
    assert not FoldSelections()(graph).modified
    assert operators(graph) == before


def test_weights_that_a_caller_may_replace_stay(graph_of):
    graph = graph_of(
        "agraph (float[2, 8] x, float[6, 8] w) => (float[2, 6] y) { t = Transpose (w) y = MatMul (x, t) }", w=W
    )
    assert not FoldSelections()(graph).modified


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9000, 128)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.embedding(ids), self.embedding.weight)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x, memory)
        return y


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (Tied, [TensorSpec("ids", "int64", (1, 5))]),
        (Decoder, [TensorSpec("x", "float32", (1, 5, 32)), TensorSpec("memory", "float32", (1, 6, 32))]),
        (lambda: self_attention(640, 10), [TensorSpec("x", "float32", (1, 5, 640)), TensorSpec("v", "int64", (1, 5))]),
    ],
    ids=["tied", "torch-decoder", "wide-attention"],
)
def test_every_product_of_a_shared_or_packed_weight_reads_an_initializer(module, inputs):
    graph = optimize(graph_from_module(module(), inputs))
    products = [node for node in graph.graph if node.op_type in ("MatMul", "Gemm")]
    learned = [node for node in products if node.inputs[1].const_value is not None]
    of_two_activations = 2 * sum(node.op_type == "Softmax" for node in graph.graph)
    assert learned
    assert len(products) - len(learned) == of_two_activations
