"""Attention as a plugin's node: the graph before and after, with the reference in place of the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attention_graphs as small
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from small_graphs import rewritten, stays
from torch import nn

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import UsageError
from edgekit.kernels.sdpa.node import DOMAIN, PLUGINS
from edgekit.kernels.sdpa.reference import attention
from edgekit.lower.attention_as_plugin import AttentionAsPlugin

BATCH, HEADS, TOKENS, SIZE = 2, 2, 12, 32
WIDTH = HEADS * SIZE


class AttentionPlugin(OpRun):
    op_domain = DOMAIN

    def _run(self, q: Any, k: Any, v: Any, more: Any = None, **given: Any) -> tuple[np.ndarray]:
        assert (given["plugin_namespace"], given["aot"], given["head_size"]) == ("edgekit", 1, q.shape[3])
        named = {name: more for name in PLUGINS[type(self).__name__]}
        if "mask" in named:
            assert more.dtype == q.dtype and more.ndim == 4
            repeated = [size == 1 for size in more.shape[:3]]
            whole = [size == 1 for size in (q.shape[0], q.shape[1], q.shape[2])]
            told = [bool(given["repeated"] & 2**axis) for axis in range(3)]
            assert all(a == b or c for a, b, c in zip(told, repeated, whole, strict=True))
        if "key_lengths" in named:
            assert more.dtype == np.int32 and more.shape == q.shape[:1]
        offset = (k.shape[2] - q.shape[2] if given["bottom_right"] else 0) if given["causal"] else None
        return (attention(q, k, v, scale=given["scale"], causal_offset=offset, **named).astype(q.dtype),)


RUNNERS = [type(name, (AttentionPlugin,), {}) for name in PLUGINS]


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with np.errstate(over="ignore"):  # float32's least number is minus infinity in float16
        (result,) = ReferenceEvaluator(model, new_ops=RUNNERS).run(None, feeds)
    return np.asarray(result)


def nodes_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN]


def attribute(node: onnx.NodeProto, name: str) -> Any:
    found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return found.get(name)


class Block(nn.Module):
    """Attention between two projections, as in a vision transformer; ``mask`` says what is made of the second input."""

    def __init__(self, mask: str = "", causal: bool = False) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mask, self.causal = mask, causal

    def forward(self, x: torch.Tensor, m: torch.Tensor | None = None) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.into(x).reshape(batch, tokens, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        mask = m
        if self.mask == "visible" and m is not None:
            mask = m > 0
        if self.mask == "lengths" and m is not None:
            mask = (torch.arange(TOKENS) < m.clamp(1)[:, None])[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        y = self.out(y.transpose(1, 2).reshape(batch, tokens, WIDTH))
        assert isinstance(y, torch.Tensor)
        return y


def inputs_of(mask: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((BATCH, TOKENS, WIDTH), np.float32)
    masks: dict[str, np.ndarray] = {
        "keys": rng.standard_normal((BATCH, 1, 1, TOKENS), np.float32),
        "visible": np.where(rng.random((BATCH, 1, TOKENS, TOKENS)) < 0.5, -1, 1).astype(np.float32),
        "lengths": np.array([5, TOKENS], np.int64),
    }
    if mask == "visible":
        masks["visible"][0, 0, 4] = -1  # a row that sees nothing gives zeros, as in PyTorch
    return {"input": x, **({"m": masks[mask]} if mask else {})}


CASES = {
    "plain": ("", False, "EdgeKitAttention", None),
    "causal": ("", True, "EdgeKitAttention", None),
    "mask of the keys": ("keys", False, "EdgeKitMaskedAttention", 6),
    "boolean mask": ("visible", False, "EdgeKitMaskedAttention", 2),
    "key lengths": ("lengths", False, "EdgeKitPaddedAttention", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_module_gives_the_same_numbers_with_the_plugin(case: str, tmp_path: Path) -> None:
    mask, causal, operator, repeated = CASES[case]
    torch.manual_seed(0)
    module = Block(mask, causal).eval()
    feeds = inputs_of(mask)
    kinds = {"" if name == "input" else name: list(array.shape) for name, array in feeds.items()}
    if mask == "lengths":
        kinds = {"": kinds[""], "m:int64": kinds["m"]}
    place = edgekit.build(
        module,
        precision="fp16",
        target="tensorrt",
        attention="edgekit",
        graph_only=True,
        input=kinds,
        output=tmp_path / "engine",
    )
    model = onnx.load(place / "graph.onnx")
    (node,) = nodes_of(model)
    assert (node.op_type, attribute(node, "repeated"), attribute(node, "causal")) == (operator, repeated, int(causal))
    assert attribute(node, "int8") is None
    assert not {"Softmax", "Trilu"} & {each.op_type for each in model.graph.node}
    manifest = read_manifest(place)
    assert "attention: 1 of 1 run as EdgeKit's kernel, a plugin of TensorRT" in manifest.notes
    assert "--attention edgekit" in manifest.build_command or not manifest.build_command
    assert manifest.options["attention"] == "edgekit"
    with torch.no_grad():
        right = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    np.testing.assert_allclose(run(model, feeds), right, rtol=0, atol=2e-3 * np.abs(right).max())


def half(body: str = small.PLAIN, *, size: int = SIZE, dtype: str = "float16", **options: Any) -> onnx.ModelProto:
    """One of the small graphs in half precision, with heads that have a kernel."""
    return small.graph(body, dtype=dtype, size=size, **options)


def feeds(*, keys: int = small.KEYS, **more: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    lengths = {"q": small.QUERIES, "k": keys, "v": keys}
    shapes = {name: (small.BATCH, length, 3 * SIZE) for name, length in lengths.items()}
    return {name: rng.standard_normal(shape, np.float32).astype(np.float16) for name, shape in shapes.items()} | more


SCALED = f"{small.TURNED}\n qs = Mul(qh, scale)\n d = MatMul(qs, kt)"
TWO = f"{SCALED}\n e = Add(d, m)\n scores = Add(e, n)\n {small.SOFTMAX}"
HIDES = f"{SCALED}\n scores = Where(b, hidden, d)\n {small.SOFTMAX}"
FLAT = """
qf = Reshape(qh, flat)
vf = Reshape(vh, flat)
kh = Transpose<perm = [0, 2, 1, 3]>(k4)
kf = Reshape(kh, flat)
kt = Transpose<perm = [0, 2, 1]>(kf)
qs = Mul(qf, scale)
scores = MatMul(qs, kt)
weights = Softmax<axis = -1>(scores)
"""


@pytest.mark.parametrize("dynamic", [False, True])
def test_unequal_lengths_and_keys_that_are_turned_at_once(dynamic: bool) -> None:
    model = half(dynamic=dynamic)
    fused, modified = rewritten(model, AttentionAsPlugin())
    assert modified
    assert [node.op_type for node in fused.graph.node if node.op_type in ("MatMul", "Softmax")] == []
    expected = run(model, feeds())
    np.testing.assert_allclose(run(fused, feeds()), expected, rtol=0, atol=4e-3 * np.abs(expected).max())


def test_several_masks_are_added_first() -> None:
    model = half(TWO, inputs=", float[1, 3, 5, 7] m, float[2, 1, 1, 7] n")
    rng = np.random.default_rng(2)
    given = feeds(
        m=rng.standard_normal((1, 3, 5, 7), np.float32).astype(np.float16),
        n=rng.standard_normal((2, 1, 1, 7), np.float32).astype(np.float16),
    )
    fused, _ = rewritten(model, AttentionAsPlugin())
    (node,) = nodes_of(fused)
    assert attribute(node, "repeated") == 0
    expected = run(model, given)
    np.testing.assert_allclose(run(fused, given), expected, rtol=0, atol=4e-3 * np.abs(expected).max())


def test_a_mask_that_hides_keys_is_added_as_minus_infinity() -> None:
    model = half(HIDES, inputs=", bool[5, 7] b")
    given = feeds(b=np.random.default_rng(2).random((5, 7)) < 0.5)
    fused, _ = rewritten(model, AttentionAsPlugin())
    (node,) = nodes_of(fused)
    assert attribute(node, "repeated") == 3
    expected = run(model, given)
    np.testing.assert_allclose(run(fused, given), expected, rtol=0, atol=4e-3 * np.abs(expected).max())


def flat() -> onnx.ModelProto:
    """Heads and images in one dimension, as `torch.nn.MultiheadAttention` writes them."""
    shapes = f", int64[3] flat = {{6, -1, {SIZE}}}, int64[4] whole = {{2, 3, -1, {SIZE}}}"
    return half(FLAT, constants=shapes, mean="flat_mean = MatMul(weights, vf)\n mean = Reshape(flat_mean, whole)")


def test_heads_and_images_in_one_dimension() -> None:
    fused, modified = rewritten(flat(), AttentionAsPlugin())
    assert modified and len(nodes_of(fused)) == 1
    expected = run(flat(), feeds())
    np.testing.assert_allclose(run(fused, feeds()), expected, rtol=0, atol=4e-3 * np.abs(expected).max())


def test_int8_is_an_attribute_of_the_node() -> None:
    fused, _ = rewritten(half(), AttentionAsPlugin(int8=True))
    assert [attribute(node, "int8") for node in nodes_of(fused)] == [1]


ADDED = f"{SCALED}\n scores = Add(d, m)\n {small.SOFTMAX}"


@pytest.mark.parametrize(
    ("model", "int8", "reason"),
    [
        (half(dtype="float"), False, "it is not half precision"),
        (half(dtype="bfloat16"), True, "it is bfloat16, and INT8 needs float16"),
        (half(size=8), False, "its head size is 8, and kernels have 32, 64, 80, 96, 128"),
        (
            half(ADDED, inputs=", float[K, 1, 1, 7] m"),
            False,
            "its mask is not known to have the shape of the scores",
        ),
    ],
)
def test_what_does_not_fit_stays_and_the_note_says_why(model: onnx.ModelProto, int8: bool, reason: str) -> None:
    one = AttentionAsPlugin(int8=int8)
    assert stays(model, one)
    (note,) = one.notes()
    assert note == (
        f"attention: 0 of 1 run as EdgeKit's kernel, a plugin of TensorRT; the others stay as they are: {reason}"
    )


COMPARED = """
shown = {compare}
added = Where(shown, {then}, {other})
"""


@pytest.mark.parametrize(
    ("compare", "then", "other", "padded"),
    [
        ("Less(count, n)", "zero", "minus", True),
        ("Greater(n, count)", "zero", "hidden", True),
        ("GreaterOrEqual(count, n)", "minus", "zero", True),
        ("LessOrEqual(n, count)", "minus", "zero", True),
        ("LessOrEqual(count, n)", "zero", "minus", False),  # one key more
        ("Less(count, n)", "minus", "zero", False),  # the last keys
        ("Less(count, n)", "zero", "root", False),  # hides nothing
        ("Less(odd, n)", "zero", "minus", False),
    ],
)
def test_key_lengths_are_found_where_the_mask_compares_them_with_places(
    compare: str, then: str, other: str, padded: bool
) -> None:
    body = (
        f"{SCALED}\n{COMPARED.format(compare=compare, then=then, other=other)} scores = Add(d, added)\n{small.SOFTMAX}"
    )
    constants = ", int64[7] count = {0, 1, 2, 3, 4, 5, 6}, int64[7] odd = {0, 1, 2, 3, 4, 6, 5}"
    model = half(body, inputs=", int64[2, 1, 1, 1] n", constants=constants)
    given = feeds(n=np.array([3, 6]).reshape(2, 1, 1, 1))
    fused, _ = rewritten(model, AttentionAsPlugin())
    (node,) = nodes_of(fused)
    assert node.op_type == ("EdgeKitPaddedAttention" if padded else "EdgeKitMaskedAttention")
    expected = run(model, given)
    np.testing.assert_allclose(run(fused, given), expected, rtol=0, atol=4e-3 * np.abs(expected).max())


@pytest.mark.parametrize("target", ["cpu", "openvino", "tensorrt-rtx"])
@pytest.mark.parametrize("choice", ["edgekit", "edgekit-int8"])
def test_other_targets_take_no_plugins(target: Any, choice: Any, tmp_path: Path) -> None:
    why = "TensorRT-RTX takes no plugins" if target == "tensorrt-rtx" else "its kernels run on GPUs"
    with pytest.raises(UsageError, match=rf"attention='{choice}' goes with target tensorrt, .*: {why}") as e:
        edgekit.build("yolov3-tiny", target=target, attention=choice, output=tmp_path / "engine")
    assert e.value.hint == "leave it out, or add target='tensorrt'"


def test_an_int8_graph_has_the_plugin_between_its_quantized_projections(tmp_path: Path) -> None:
    place = edgekit.build(
        Block(),
        precision="int8",
        target="tensorrt",
        attention="edgekit-int8",
        graph_only=True,
        input={"": [BATCH, TOKENS, WIDTH]},
        output=tmp_path / "engine",
    )
    nodes = onnx.load(place / "graph.onnx").graph.node
    assert [attribute(node, "int8") for node in nodes if node.domain == DOMAIN] == [1]
    assert sum(node.op_type == "MatMul" for node in nodes) == 2
    assert any(node.op_type == "DequantizeLinear" for node in nodes)
