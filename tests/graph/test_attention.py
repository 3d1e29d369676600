from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import attention_graphs as small
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.graph.attention import Attention, find_attention
from edgekit.graph.load.onnx_file import graph_from_onnx
from edgekit.graph.passes import optimize
from edgekit.models.attention import self_attention


def found(model: onnx.ModelProto) -> list[Attention]:
    graph = ir.from_proto(model)
    before = ir.to_proto(graph).SerializeToString()
    attentions = find_attention(graph)
    assert ir.to_proto(graph).SerializeToString() == before
    return list(attentions)


def the_only(model: onnx.ModelProto) -> Attention:
    (attention,) = found(model)
    return attention


def test_an_attention_is_described_by_its_values_heads_and_nodes() -> None:
    attention = the_only(small.graph())
    values = (attention.query, attention.key, attention.value, attention.output)
    assert [value.name for value in values] == ["qh", "kt", "vh", "mean"]
    assert (attention.heads, attention.head_size, attention.scale) == (3, 8, 0.25)
    assert attention.key_turned and not attention.causal and not attention.pairs
    assert not attention.masks and not attention.guard and not attention.score_scales
    assert [node.op_type for node in attention.path] == ["MatMul", "Softmax", "MatMul"]
    assert attention.query_heads is not None and attention.key_heads is not None and attention.merge is not None
    assert [heads.source.name for heads in (attention.query_heads, attention.key_heads)] == ["q4", "k4"]


SEPARATE = "kh = Transpose<perm = [0, 2, 1, 3]>(k4)\n kt = Transpose<perm = [0, 1, 3, 2]>(kh)"


@pytest.mark.parametrize(
    "scores",
    [
        "qs = Mul(qh, scale)\n scores = MatMul(qs, kt)",
        "qs = Div(qh, four)\n scores = MatMul(qs, kt)",
        "qs = Mul(scale, qh)\n scores = MatMul(qs, kt)",
        "ks = Mul(kt, scale)\n scores = MatMul(qh, ks)",
        "qs = Mul(qh, root)\n ks = Mul(kt, root)\n scores = MatMul(qs, ks)",
        "dots = MatMul(qh, kt)\n scores = Mul(dots, scale)",
        "dots = MatMul(qh, kt)\n scores = Div(dots, four)",
    ],
)
@pytest.mark.parametrize("turned", [small.TURNED, SEPARATE])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_scale_is_found_on_the_query_the_key_both_and_the_scores(scores: str, turned: str, dynamic: bool) -> None:
    attention = the_only(small.graph(f"{turned}\n{scores}\n{small.SOFTMAX}", dynamic=dynamic))
    assert attention.scale == pytest.approx(0.25)
    assert attention.query.name == "qh"
    assert attention.key.name == ("kt" if turned == small.TURNED else "kh")
    assert bool(attention.score_scales) == ("dots" in scores)


def test_a_scale_between_two_transposes_of_the_key_is_found() -> None:
    body = "kh = Transpose<perm = [0, 2, 1, 3]>(k4)\n ks = Mul(kh, scale)\n kt = Transpose<perm = [0, 1, 3, 2]>(ks)"
    attention = the_only(small.graph(f"{body}\n scores = MatMul(qh, kt)\n {small.SOFTMAX}"))
    assert (attention.key.name, attention.scale, attention.key_turned) == ("kh", 0.25, False)


def masked(apply: str, mask: str = "float[2, 1, 1, 7] m", constants: str = "") -> onnx.ModelProto:
    body = f"{small.TURNED}\n qs = Mul(qh, scale)\n dots = MatMul(qs, kt)\n {apply}\n {small.SOFTMAX}"
    return small.graph(body, inputs=f", {mask}" if mask else "", constants=constants)


@pytest.mark.parametrize(
    ("apply", "mask", "kind"),
    [
        ("scores = Add(dots, m)", "float[2, 1, 1, 7] m", "added"),
        ("scores = Add(m, dots)", "float[5, 7] m", "added"),
        ("scores = Where(m, dots, minus)", "bool[2, 1, 5, 7] m", "visible"),
        ("scores = Where(m, hidden, dots)", "bool[2, 1, 5, 7] m", "hidden"),
    ],
)
def test_masks_are_found_with_their_kind(apply: str, mask: str, kind: str) -> None:
    (found_mask,) = the_only(masked(apply, mask)).masks
    assert (found_mask.kind, found_mask.value.name) == (kind, "m")
    if kind != "added":
        assert found_mask.fill == (-math.inf if "minus" in apply else -1e4)


def test_two_masks_are_listed_in_the_order_in_which_they_are_applied() -> None:
    model = masked("first = Add(dots, m)\n scores = Add(bias, first)", "float[2, 1, 1, 7] m, float[1, 3, 5, 7] bias")
    assert [mask.value.name for mask in the_only(model).masks] == ["m", "bias"]


def triangle(size: int, dtype: type, upper: float, lower: float) -> np.ndarray:
    return np.where(np.triu(np.ones((size, size), bool), 1), dtype(upper), dtype(lower))


@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (triangle(5, np.float32, -np.inf, 0), True),
        (triangle(5, np.float32, -1e4, 0), True),
        (triangle(5, np.float32, -1e4, 0).T, False),
        (triangle(5, np.float32, -1e4, 0.5), False),
        (triangle(5, np.float32, -1, 0), False),
        (np.zeros((5, 5), np.float32), False),
    ],
)
def test_a_constant_mask_that_hides_exactly_the_later_keys_is_causal(mask: np.ndarray, causal: bool) -> None:
    body = f"{small.TURNED}\n dots = MatMul(qh, kt)\n scores = Add(dots, m)\n {small.SOFTMAX}"
    model = small.graph(body, inputs=", float[5, 5] m", keys=5)
    del model.graph.input[3]
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "m"))
    assert the_only(model).causal == causal


@pytest.mark.parametrize(
    ("after", "guarded"),
    [
        ("kept = Softmax<axis = -1>(scores)\n weights = Identity(kept)", False),
        ("kept = Softmax<axis = 3>(scores)\n weights, unused = Dropout(kept)", False),
        ("kept = Softmax<axis = -1>(scores)\n nan = IsNaN(kept)\n weights = Where(nan, zero, kept)", True),
        (
            "s16 = Cast<to = 11>(scores)\n kept = Softmax<axis = -1>(s16)\n weights = Cast<to = 1>(kept)",
            False,
        ),
    ],
)
def test_dropout_identity_casts_and_a_guard_against_nan_are_followed(after: str, guarded: bool) -> None:
    attention = the_only(small.graph(f"{small.TURNED}\n {small.SCORES}\n {after}"))
    assert bool(attention.guard) == guarded


NEAR_MISSES = {
    "the Softmax is over another axis": f"{small.TURNED}\n {small.SCORES}\n weights = Softmax<axis = 1>(scores)",
    "the scores are read elsewhere": f"{small.PLAIN}\n other = Relu(scores)",
    "the weights are read elsewhere": f"{small.PLAIN}\n other = Relu(weights)",
    "there is another function before the Softmax": (
        f"{small.TURNED}\n {small.SCORES}\n r = Tanh(scores)\n weights = Softmax<axis = -1>(r)"
    ),
    "there is another function after the Softmax": (
        f"{small.TURNED}\n {small.SCORES}\n w = Softmax<axis = -1>(scores)\n weights = Sqrt(w)"
    ),
    "the mask is scaled too": (
        f"{small.TURNED}\n d = MatMul(qh, kt)\n a = Add(d, minor)\n scores = Mul(a, scale)\n {small.SOFTMAX}"
    ),
    "the guard replaces NaN by another number": (
        f"{small.TURNED}\n {small.SCORES}\n w = Softmax<axis = -1>(scores)\n nan = IsNaN(w)\n"
        " weights = Where(nan, four, w)"
    ),
    "a Where shows what is hidden elsewhere": (
        f"{small.TURNED}\n d = MatMul(qh, kt)\n f = Greater(d, zero)\n scores = Where(f, d, zero)\n {small.SOFTMAX}"
    ),
    "the scores are no product": f"{small.TURNED}\n d = MatMul(qh, kt)\n scores = Sigmoid(d)\n {small.SOFTMAX}",
}


@pytest.mark.parametrize("reason", NEAR_MISSES)
def test_near_misses_are_not_found(reason: str) -> None:
    constants = ", float[1, 1, 1, 7] minor = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0}"
    assert found(small.graph(NEAR_MISSES[reason], constants=constants)) == []


@pytest.mark.parametrize("output", ["weights", "scores"])
def test_an_attention_whose_weights_or_scores_are_graph_outputs_is_not_found(output: str) -> None:
    assert found(small.graph(outputs=f", float[2, 3, 5, 7] {output}")) == []


def test_products_with_constants_and_unknown_ranks_are_not_found() -> None:
    weight = f"{small.TURNED}\n qs = Mul(qh, scale)\n scores = MatMul(qs, fixed)\n {small.SOFTMAX}"
    model = small.graph(weight, inputs=", float[8, 7] fixed")
    del model.graph.input[3]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 7), np.float32), "fixed"))
    assert found(model) == []
    model = small.graph()
    del model.graph.value_info[:]
    assert found(model) == []


def test_pairs_of_quantization_are_counted_and_their_sources_returned() -> None:
    def pair(source: str, name: str) -> str:
        return f"{name}q = QuantizeLinear({source}, s, z)\n {name} = DequantizeLinear({name}q, s, z)"

    body = (
        f"{small.TURNED}\n qs = Mul(qh, scale)\n {pair('qs', 'qd')}\n {pair('kt', 'kd')}\n"
        f" scores = MatMul(qd, kd)\n w = Softmax<axis = -1>(scores)\n {pair('w', 'weights')}"
    )
    attention = the_only(small.graph(body, constants=", float s = {0.01}, uint8 z = {128}"))
    assert (attention.pairs, attention.query.name, attention.key.name) == (3, "qh", "kt")


# What PyTorch's two exporters write.


class Vit(nn.Module):
    """Attention as in timm's ViT: one projection for queries, keys and values."""

    def __init__(self, *, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.fused, self.causal = nn.Linear(24, 72), fused, causal

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        else:
            y = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return y.transpose(1, 2).reshape(batch, length, width)


class Bert(nn.Module):
    """Attention as in Hugging Face's BERT: three projections, scores that are divided, an added mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).view(*x.shape[:2], 3, 8).permute(0, 2, 1, 3) for part in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(8) + (1.0 - mask)[:, None, None, :] * -1e4
        return (scores.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(*x.shape[:2], 24)


class Cached(Bert):
    """A decoder's step as in Whisper: keys and values of earlier tokens are inputs, and outputs with the new ones."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = (part(x).view(*x.shape[:2], 3, 8).transpose(1, 2) for part in (self.q, self.k, self.v))
        k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        y = functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(*x.shape[:2], 24), k, v


class Windows(nn.Module):
    """Attention as in Swin: four windows of one image, a bias for relative positions, a mask for shifted windows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 72)
        self.bias = nn.Parameter(torch.randn(1, 3, 9, 9))
        self.register_buffer("mask", torch.where(torch.rand(1, 4, 1, 9, 9) < 0.5, -100.0, 0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        windows, length, width = x.shape
        q, k, v = self.qkv(x).reshape(windows, length, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * 8**-0.5) @ k.transpose(-2, -1) + self.bias
        scores = (scores.view(-1, 4, 3, length, length) + self.mask).view(-1, 3, length, length)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(windows, length, width)


class Decoder(nn.Module):
    """Self- and cross-attention as in DETR's decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(24, 3, 32, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.layer(x, memory)


X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
VISIBLE = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...], int, int, bool]] = {
    # module, inputs, attentions, masks of each, causal
    "ViT": (lambda: Vit(fused=False), (X,), 1, 0, False),
    "ViT, fused": (lambda: Vit(fused=True), (X,), 1, 0, False),
    "CLIP text": (lambda: Vit(fused=True, causal=True), (X,), 1, 1, True),
    "boolean mask": (lambda: Vit(fused=True), (X, VISIBLE), 1, 1, False),
    "BERT": (Bert, (X, torch.ones(2, 9)), 1, 1, False),
    "Whisper, cached": (Cached, (X[:, :1], torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)), 1, 0, False),
    "Swin": (Windows, (torch.randn(4, 9, 24),), 1, 2, False),
    "EdgeKit": (lambda: self_attention(24, 3), (X, torch.ones(2, 9)), 1, 1, False),
    "DETR decoder": (Decoder, (X, torch.randn(2, 11, 24)), 2, 0, False),
}


def exported(module: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, *, dynamo: bool) -> ir.Model:
    path = folder / "graph.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            path,
            dynamo=dynamo,
            opset_version=18 if dynamo else 17,
            external_data=False,
            verbose=False,
        )
    return graph_from_onnx(path)


FAST = {"ViT, fused", "boolean mask", "Swin"}
"""Cases that are exported by torch.export too in each test run; it takes one or two seconds each."""


@pytest.mark.parametrize(
    ("case", "dynamo"),
    [
        *((case, False) for case in CASES),
        *(pytest.param(case, True, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES),
    ],
    ids=lambda value: {True: "torch.export", False: "TorchScript"}.get(value, value),
)
def test_what_pytorch_exports_is_found_before_and_after_optimization(case: str, dynamo: bool, tmp_path: Path) -> None:
    make, inputs, count, masks, causal = CASES[case]
    torch.manual_seed(0)
    graph = optimize(exported(make(), inputs, tmp_path, dynamo=dynamo))
    attentions = find_attention(graph)
    assert len(attentions) == count
    for attention in attentions:
        assert attention.scale == pytest.approx(8**-0.5)
        assert (len(attention.masks), attention.causal, attention.head_size) == (masks, causal, 8)
        assert not attention.guard and not attention.score_scales
