"""BERT (Devlin et al. 2018, arXiv:1810.04805), a Transformer encoder, and a sentence encoder based on it.

Differences from `edgekit.models.transformer`: positions are learned, a norm follows the embeddings instead of the last
layer, and the feed-forward network uses GELU. Submodules are named as in Hugging Face's ``BertModel``, so that its
weights fit; hence names such as ``self`` and ``LayerNorm``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.attention import bias_from_visibility, scaled_dot_product_attention

__all__ = ["Bert", "SentenceEncoder", "minilm"]

NORM_EPSILON = 1e-12
"""``layer_norm_eps`` of BERT's configuration."""

MIN_NORM = 1e-6
"""Minimum norm for normalization: vectors shorter than this are not scaled up to length 1, so that the division is
safe in half precision."""

INITIAL_STD = 0.02
"""``initializer_range`` of BERT's configuration."""


class _Embeddings(nn.Module):
    """Sum of token, position and segment embeddings; the segment is always the first."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(length, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        y: torch.Tensor = self.LayerNorm(
            self.word_embeddings(tokens) + (positions + self.token_type_embeddings.weight[0])
        )
        return y


class _SelfAttention(nn.Module):
    """Multi-head attention without the output projection, which is in `_SumAndNorm`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._split_heads(part(x)) for part in (self.query, self.key, self.value))
        return scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _SumAndNorm(nn.Module):
    """Linear layer, residual sum and norm: ``norm(x + dense(y))``."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.LayerNorm(x + self.dense(y))
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self = _SelfAttention(width, heads)
        self.output = _SumAndNorm(width, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.output(self.self(x, bias), x)
        return y


class _Intermediate(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.dense(x))


class _Layer(nn.Module):
    """Attention and feed-forward network with residual sums and norms: `torch.nn.TransformerEncoderLayer` with GELU."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = _Intermediate(width, hidden)
        self.output = _SumAndNorm(hidden, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, bias)
        y: torch.Tensor = self.output(self.intermediate(x), x)
        return y


class _Encoder(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(width, heads, hidden) for _ in range(layers))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer(x, bias)
        return x


class _Pooler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(x[:, 0]))


class Bert(nn.Module):
    """Encodes each token as a vector; the state dict is that of Hugging Face's ``BertModel``.

    Args:
        vocabulary: vocabulary size.
        length: maximum number of tokens of a sentence.
        width: token width, ``hidden_size``.
        heads: number of heads, ``num_attention_heads``.
        hidden: hidden width of the feed-forward network, ``intermediate_size``.
        layers: number of layers, ``num_hidden_layers``.
    """

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, hidden: int, layers: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that is a multiple of the {heads} heads, got {width}")
        self.embeddings = _Embeddings(vocabulary, length, width)
        self.encoder = _Encoder(layers, width, heads, hidden)
        self.pooler = _Pooler(width)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.normal_(part.weight, std=INITIAL_STD)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, tokens: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
        """Computes a vector for each token.

        Args:
            tokens: ids ``(N, T)``.
            visibility: ``(N, T)``, 1 for tokens and 0 for padding.

        Returns:
            ``(N, T, width)``.
        """
        bias = bias_from_visibility(visibility)[:, None, None, :]
        y: torch.Tensor = self.encoder(self.embeddings(tokens), bias)
        return y

    def pooled(self, vectors: torch.Tensor) -> torch.Tensor:
        """Applies the pooler, trained for next-sentence prediction, to the first token's vector."""
        y: torch.Tensor = self.pooler(vectors)
        return y

    def own_name(self, published: str) -> str | None:
        """Maps names of a model that contains a ``BertModel``; skips the constant position ids 0, 1, 2, …."""
        name = published.removeprefix("bert.")
        return None if name == "embeddings.position_ids" else name


class SentenceEncoder(Bert):
    """Encodes a sentence as the mean of its token vectors, normalized so that a dot product is the cosine similarity.

    From Reimers and Gurevych 2019 (arXiv:1908.10084). It has the weights of `Bert`, and does not use the pooler.
    """

    def forward(self, tokens: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
        """Computes one vector for each sentence.

        Args:
            tokens: ids ``(N, T)``.
            visibility: ``(N, T)``, 1 for tokens and 0 for padding.

        Returns:
            ``(N, width)``, rows of norm 1; zeros for a sentence that is all padding.
        """
        vectors = super().forward(tokens, visibility)
        weights = visibility.to(vectors.dtype)[:, :, None]
        mean = (vectors * weights).sum(1) / weights.sum(1).clamp(min=1)
        return functional.normalize(mean, dim=1, eps=MIN_NORM)


def minilm(
    vocabulary: int = 30522, length: int = 512, width: int = 384, heads: int = 12, hidden: int = 1536, layers: int = 6
) -> nn.Module:
    """The sentence encoder MiniLM-L6, as in ``sentence-transformers/all-MiniLM-L6-v2``: 22,713,216 parameters.

    147,840 of them belong to the pooler, which is unused and not part of an engine.

    Returns:
        A `SentenceEncoder` that takes ids and a mask, both int64 ``(N, T)``, and returns ``(N, width)``.
    """
    return SentenceEncoder(vocabulary, length, width, heads, hidden, layers)
