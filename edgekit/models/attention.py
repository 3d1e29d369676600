"""Attention: a token looks at other tokens, and takes over a mixture of what they say.

It is section 3.2 of Vaswani et al. 2017 (arXiv:1706.03762). Read from the top: one attention, masks that say who may
look at whom, and several attentions side by side.

A mask is written in two ways here. For people it is *visibility*: 1 where a query may look at a key and 0 where it may
not, which is also what tokenizers call an attention mask. For the arithmetic it is a *bias* that is added to the
scores: 0, or a number so low that the softmax makes nothing of it. That number is finite. A row of minus infinities
would be a division of zero by zero, and such a row comes with every sentence that is all padding; with `HIDDEN` it is a
mean of values that nobody reads. It also fits into half precision.
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
"""What is added to the score of a hidden key: ``exp(-1e4)`` is 0, and half precision ends at -65504."""


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Each query gets a mean of the values, weighted by how well their keys fit it.

    Equation 1 of the paper::

        attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V

    The dot product of two vectors of ``d_k`` independent numbers of variance 1 has the variance ``d_k``. Divided by the
    square root it has 1 again, or the softmax would have one large weight and no gradient. The division is done to the
    queries, which are fewer numbers than the scores and stay small enough for half precision.

    Multiply-accumulates: ``targets * sources * d_k`` for the scores and as many for the mean, for every head; both
    grow with the square of the length.

    Args:
        query: ``(..., targets, d_k)``.
        key: ``(..., sources, d_k)``.
        value: ``(..., sources, d_v)``.
        bias: is added to the scores ``(..., targets, sources)``; see `bias_from_visibility`.

    Returns:
        ``(..., targets, d_v)``. A query to which every key is hidden gets a mean of all values, and no NaN.
    """
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ value


def bias_from_visibility(visibility: torch.Tensor) -> torch.Tensor:
    """0 where ``visibility`` is 1 or true, `HIDDEN` where it is 0 or false; float32 of the same shape."""
    return (1.0 - visibility.to(torch.float32)) * HIDDEN


def padding_visibility(tokens: torch.Tensor, pad: int = 0) -> torch.Tensor:
    """Every token but padding may be looked at: booleans ``(N, S)`` of the ids ``(N, S)``."""
    return tokens != pad


def causal_visibility(length: int, device: torch.device | None = None) -> torch.Tensor:
    """Nobody looks ahead: booleans ``(length, length)``, true at and below the diagonal.

    Row ``t`` may look at columns ``0 … t``, so that what is predicted from token ``t`` knows of no later one.
    """
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on a narrow projection of its own.

    Section 3.2.2 of the paper::

        head_i = attention(Q W_i^Q, K W_i^K, V W_i^V)
        output = concat(head_1, ..., head_h) W^O

    One softmax is one mean and says one thing; ``heads`` of them say as many, at the cost of one of full width, since
    each is ``width / heads`` wide. Parameters: ``4 * width * width + 4 * width``.

    The state dict is that of `torch.nn.MultiheadAttention`: ``in_proj_weight`` is W^Q, W^K and W^V, one below another.

    Args:
        width: of a token, ``d_model`` in the paper.
        heads: a divisor of ``width``.
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
        """Tokens ``x`` look at tokens ``memory``; at themselves where both are the same.

        Args:
            x: ``(N, T, width)``.
            memory: ``(N, S, width)``.
            bias: is added to the scores ``(N, heads, T, S)``, so of any shape that broadcasts to it.

        Returns:
            ``(N, T, width)``.
        """
        keys, values = self.remember(memory)
        return self.recall(x, keys, values, bias)

    def remember(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of ``memory (N, S, width)``, each ``(N, heads, S, width / heads)``: what a cache keeps."""
        return self._projected(memory, 1), self._projected(memory, 2)

    def recall(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens ``x (N, T, width)`` look at keys and values that `remember` gave."""
        mixed = scaled_dot_product_attention(self._projected(x, 0), keys, values, bias)
        y: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return y

    def _projected(self, tokens: torch.Tensor, which: int) -> torch.Tensor:
        """Queries, keys or values, whichever is 0, 1 or 2, with the heads apart: ``(N, heads, length, width / heads)``.

        Three products and not one of threefold width: each gets a range of its own in INT8.
        """
        width = tokens.shape[2]
        rows = slice(which * width, (which + 1) * width)
        projected = functional.linear(tokens, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return projected.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class SelfAttention(MultiHeadAttention):
    """Multi-head attention of a sequence at itself, with padding in it."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__(width, heads)
        self.causal = causal

    def forward(self, x: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Each token looks at all that may be looked at; if causal, at none that comes after it.

        Args:
            x: ``(N, T, width)``.
            visibility: ``(N, T)``, 1 for tokens and 0 for padding.

        Returns:
            ``(N, T, width)``.
        """
        bias = bias_from_visibility(visibility)[:, None, None, :]
        if self.causal:
            # The sum of both reaches -2e4 where both hide: as little as one of them, and no overflow.
            bias = bias + bias_from_visibility(causal_visibility(x.shape[1], x.device))
        return super().forward(x, x, bias)


def self_attention(width: int = 512, heads: int = 8, causal: bool = False) -> nn.Module:
    """Multi-head self-attention alone, of the size that the paper's base model has: 1,050,624 parameters.

    Returns:
        A module that takes ``(N, T, width)`` and a mask ``(N, T)``, 1 for tokens and 0 for padding, and returns
        ``(N, T, width)``; see `SelfAttention`.
    """
    return SelfAttention(width, heads, causal=causal)
