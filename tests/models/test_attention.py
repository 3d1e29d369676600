from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.models.attention import (
    MultiHeadAttention,
    bias_from_visibility,
    causal_visibility,
    padding_visibility,
    scaled_dot_product_attention,
    self_attention,
)

BATCH, SOURCES, TARGETS, WIDTH, HEADS = 3, 7, 5, 32, 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def theirs_and_ours() -> tuple[nn.MultiheadAttention, MultiHeadAttention]:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention(WIDTH, HEADS).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def padded(lengths: list[int], longest: int) -> torch.Tensor:
    """1 for tokens and 0 for padding, ``(N, longest)``."""
    return (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()


def test_state_dict_is_that_of_torch() -> None:
    theirs, ours = theirs_and_ours()
    assert {name: value.shape for name, value in theirs.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "both"])
def test_self_attention_agrees_with_torch(mask: str) -> None:
    theirs, ours = theirs_and_ours()
    x = torch.randn(BATCH, SOURCES, WIDTH)
    seen = padded([SOURCES, 4, 1], SOURCES)
    causal = causal_visibility(SOURCES)
    bias = torch.zeros(())
    if mask in ("padding", "both"):
        bias = bias + bias_from_visibility(seen)[:, None, None, :]
    if mask in ("causal", "both"):
        bias = bias + bias_from_visibility(causal)
    expected, _ = theirs(
        x,
        x,
        x,
        key_padding_mask=seen == 0 if mask in ("padding", "both") else None,
        attn_mask=~causal if mask in ("causal", "both") else None,
    )
    torch.testing.assert_close(ours(x, x, bias), expected, rtol=1e-5, atol=1e-5)


def test_cross_attention_agrees_with_torch() -> None:
    theirs, ours = theirs_and_ours()
    x, memory = torch.randn(BATCH, TARGETS, WIDTH), torch.randn(BATCH, SOURCES, WIDTH)
    seen = padded([2, SOURCES, 5], SOURCES)
    expected, _ = theirs(x, memory, memory, key_padding_mask=seen == 0)
    got = ours(x, memory, bias_from_visibility(seen)[:, None, None, :])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_scaled_dot_product_agrees_with_torch_for_any_leading_axes() -> None:
    for axes in ((), (2,), (2, 3)):
        query, key, value = torch.randn(*axes, 5, 16), torch.randn(*axes, 7, 16), torch.randn(*axes, 7, 4)
        seen = torch.rand(5, 7) > 0.4
        seen[:, 0] = True
        got = scaled_dot_product_attention(query, key, value, bias_from_visibility(seen))
        expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_masked_keys_have_no_weight() -> None:
    query, key, value = torch.randn(1, 5, 16), torch.randn(1, 7, 16), torch.randn(1, 7, 4)
    bias = bias_from_visibility(torch.tensor([1, 1, 1, 0, 1, 0, 0]))
    changed = value.clone()
    changed[:, [3, 5, 6]] = 1e6
    assert torch.equal(
        scaled_dot_product_attention(query, key, value, bias), scaled_dot_product_attention(query, key, changed, bias)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_that_is_all_padding_gives_the_mean_of_all_values_and_no_nan(dtype: torch.dtype) -> None:
    query, key, value = (torch.randn(2, 6, 8).to(dtype) for _ in range(3))
    bias = bias_from_visibility(torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]))[:, None, :].to(dtype)
    got = scaled_dot_product_attention(query, key * 0, value, bias)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got[1], value[1].mean(0).expand(6, -1), rtol=0.02, atol=0.02)


def test_causal_and_padding_masks_together_stay_in_the_range_of_half_precision() -> None:
    hidden_twice = bias_from_visibility(torch.zeros(1)) + bias_from_visibility(torch.zeros(1))
    assert math.isfinite(hidden_twice.half().item())


@pytest.mark.parametrize("causal", [False, True])
def test_the_recipes_module_takes_torch_s_weights_and_agrees_with_it(causal: bool) -> None:
    theirs, _ = theirs_and_ours()
    ours = self_attention(WIDTH, HEADS, causal).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, seen = torch.randn(BATCH, SOURCES, WIDTH), padded([SOURCES, 3, 1], SOURCES)
    expected, _ = theirs(x, x, x, key_padding_mask=seen == 0, attn_mask=~causal_visibility(SOURCES) if causal else None)
    torch.testing.assert_close(ours(x, seen), expected, rtol=1e-5, atol=1e-5)


def test_later_tokens_have_no_effect() -> None:
    module = self_attention(WIDTH, HEADS, causal=True).eval()
    x, seen = torch.randn(1, 6, WIDTH), torch.ones(1, 6)
    later = x.clone()
    later[:, 4:] = torch.randn(1, 2, WIDTH)
    before, after = module(x, seen), module(later, seen)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_masks_have_the_documented_values() -> None:
    assert padding_visibility(torch.tensor([[5, 2, 0, 0]])).tolist() == [[True, True, False, False]]
    assert causal_visibility(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_random_weights_keep_the_magnitude() -> None:
    module = self_attention().eval()
    got = module(torch.randn(1, 64, 512), torch.ones(1, 64))
    assert 0.05 < got.std() < 1


def test_error_if_heads_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of the 5 heads, got 32"):
        MultiHeadAttention(32, 5)
