"""Attention: each token receives a weighted mean of values from other tokens.

It implements section 3.2 of Vaswani et al. 2017 (arXiv:1706.03762). From top to bottom: single attention, masks, and
multi-head attention.

A mask has two forms here. *Visibility* is 1 where a query may attend to a key and 0 where it may not; tokenizers call
it an attention mask. A *bias* is added to the scores: 0, or a value so low that the softmax gives 0. This value is
finite: a row of minus infinity, as in a sentence that is all padding, would give 0 / 0, whereas `HIDDEN` gives a mean
of values that is never read. It also fits into half precision.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = [
    "HIDDEN",
    "MultiHeadAttention",
    "SelfAttention",
    "bias_from_visibility",
    "causal_visibility",
    "padding_visibility",
    "scaled_dot_product_attention",
    "self_attention",
]

HIDDEN = -1e4
"""Bias for the score of a masked key: ``exp(-1e4)`` is 0, and half precision ends at -65504."""


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes for each query a mean of the values, weighted by the similarity of their keys.

    Equation 1 of the paper::

        attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V

    The dot product of two vectors of ``d_k`` independent numbers of variance 1 has the variance ``d_k``. Dividing by
    the square root restores a variance of 1; without it, the softmax would have one large weight and no gradient. The
    code scales the queries, which have fewer elements than the scores and stay small enough for half precision.

    Multiply-accumulates per head: ``targets * sources * d_k`` for the scores and the same for the mean; both grow with
    the square of the length.

    Args:
        query: ``(..., targets, d_k)``.
        key: ``(..., sources, d_k)``.
        value: ``(..., sources, d_v)``.
        bias: added to the scores ``(..., targets, sources)``; see `bias_from_visibility`.

    Returns:
        ``(..., targets, d_v)``. If all keys are masked, the result is the mean of all values, not NaN.
    """
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ value


def bias_from_visibility(visibility: torch.Tensor) -> torch.Tensor:
    """Converts a mask to a bias: 0 where it is 1 or true, `HIDDEN` where it is 0 or false; float32, same shape."""
    return (1.0 - visibility.to(torch.float32)) * HIDDEN


def padding_visibility(tokens: torch.Tensor, pad: int = 0) -> torch.Tensor:
    """Returns a mask that hides padding: bool ``(N, S)`` for ids ``(N, S)``."""
    return tokens != pad


def causal_visibility(length: int, device: torch.device | None = None) -> torch.Tensor:
    """Returns a causal mask: bool ``(length, length)``, true at and below the diagonal.

    Row ``t`` sees columns ``0 … t``, so the prediction from token ``t`` does not depend on later tokens.
    """
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class MultiHeadAttention(nn.Module):
    """Multi-head attention: parallel attentions, each on its own projection.

    Section 3.2.2 of the paper::

        head_i = attention(Q W_i^Q, K W_i^K, V W_i^V)
        output = concat(head_1, ..., head_h) W^O

    Each head has a width of ``width / heads``, so all heads together cost as much as one attention of full width.
    Parameters: ``4 * width * width + 4 * width``.

    The state dict is that of `torch.nn.MultiheadAttention`: ``in_proj_weight`` is W^Q, W^K and W^V, stacked by rows.

    Args:
        width: token width, ``d_model`` in the paper.
        heads: number of heads, a divisor of ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that is a multiple of the {heads} heads, got {width}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Attends from tokens ``x`` to tokens ``memory``; self-attention if both are the same.

        Args:
            x: ``(N, T, width)``.
            memory: ``(N, S, width)``.
            bias: added to the scores; any shape that broadcasts to ``(N, heads, T, S)``.

        Returns:
            ``(N, T, width)``.
        """
        keys, values = self.remember(memory)
        return self.recall(x, keys, values, bias)

    def remember(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes keys and values of ``memory (N, S, width)`` for a cache, each ``(N, heads, S, width / heads)``."""
        return self._projected(memory, 1), self._projected(memory, 2)

    def recall(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attends from tokens ``x (N, T, width)`` to keys and values from `remember`."""
        mixed = scaled_dot_product_attention(self._projected(x, 0), keys, values, bias)
        y: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return y

    def _projected(self, tokens: torch.Tensor, which: int) -> torch.Tensor:
        """Projects to queries (0), keys (1) or values (2), split by head: ``(N, heads, length, width / heads)``.

        Three products instead of one of triple width, so that each has its own INT8 range.
        """
        width = tokens.shape[2]
        rows = slice(which * width, (which + 1) * width)
        projected = functional.linear(tokens, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return projected.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class SelfAttention(MultiHeadAttention):
    """Multi-head self-attention with a padding mask."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__(width, heads)
        self.causal = causal

    def forward(self, x: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Attends from each token to all visible tokens; if causal, not to later ones.

        Args:
            x: ``(N, T, width)``.
            visibility: ``(N, T)``, 1 for tokens and 0 for padding.

        Returns:
            ``(N, T, width)``.
        """
        bias = bias_from_visibility(visibility)[:, None, None, :]
        if self.causal:
            # The sum reaches -2e4 where both masks apply, which still gives 0 and does not overflow in half precision.
            bias = bias + bias_from_visibility(causal_visibility(x.shape[1], x.device))
        return super().forward(x, x, bias)


def self_attention(width: int = 512, heads: int = 8, causal: bool = False) -> nn.Module:
    """Multi-head self-attention in the size of the paper's base model: 1,050,624 parameters.

    Returns:
        A module that takes ``(N, T, width)`` and a mask ``(N, T)``, 1 for tokens and 0 for padding, and returns
        ``(N, T, width)``; see `SelfAttention`.
    """
    return SelfAttention(width, heads, causal=causal)
