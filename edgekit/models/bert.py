"""BERT (Devlin et al. 2018, arXiv:1810.04805), the Transformer's encoder alone, and what embeds sentences with it.

What differs from `edgekit.models.transformer`: positions are learned, a norm stands after the embeddings and none
after the last layer, the feed forward has a GELU, and the weights are those of Hugging Face's ``BertModel``, names and
all; hence submodules that are called ``self`` and ``LayerNorm``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.attention import bias_from_visibility, scaled_dot_product_attention

__all__ = ["Bert", "SentenceEncoder", "minilm"]

NORM_EPSILON = 1e-12
"""``layer_norm_eps`` of BERT's configuration."""

NO_LENGTH = 1e-6
"""Vectors shorter than this are made no longer; half precision has no smaller number that a division bears."""

INITIAL_STD = 0.02
"""``initializer_range`` of BERT's configuration."""


class _Embeddings(nn.Module):
    """The sum of three vectors: which token, where it stands, and in which of two sentences (always the first)."""

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(length, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = self.position_embeddings.weight[: tokens.shape[1]]
        y: torch.Tensor = self.LayerNorm(self.word_embeddings(tokens) + (places + self.token_type_embeddings.weight[0]))
        return y


class _SelfAttention(nn.Module):
    """Multi-head attention without the product after it, which `_SumAndNorm` has."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._apart(part(x)) for part in (self.query, self.key, self.value))
        return scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)

    def _apart(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _SumAndNorm(nn.Module):
    """A product, the residual sum, and the norm: ``norm(x + dense(y))``."""

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
    """Attention and feed forward, each with its residual sum and norm: `torch.nn.TransformerEncoderLayer` with GELU."""

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
    """Tokens in, a vector for each out; the state dict is that of Hugging Face's ``BertModel``.

    Args:
        vocabulary: how many tokens there are.
        length: the longest sentence.
        width: of a token, ``hidden_size``.
        heads: ``num_attention_heads``.
        hidden: width inside of the feed forward, ``intermediate_size``.
        layers: ``num_hidden_layers``.
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
        """A vector for each token.

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
        """What BERT was trained to foretell the next sentence from: the first token's vector, one layer on."""
        y: torch.Tensor = self.pooler(vectors)
        return y

    def own_name(self, published: str) -> str | None:
        """Takes weights of a model that has a ``BertModel`` in it, and leaves out the numbers 0, 1, 2, … of places."""
        name = published.removeprefix("bert.")
        return None if name == "embeddings.position_ids" else name


class SentenceEncoder(Bert):
    """The mean of a sentence's vectors, of length 1, so that a dot product of two says how alike they are.

    (Reimers and Gurevych 2019, arXiv:1908.10084.) Its weights are those of its `Bert`, whose pooler it does not use.
    """

    def forward(self, tokens: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
        """One vector for each sentence.

        Args:
            tokens: ids ``(N, T)``.
            visibility: ``(N, T)``, 1 for tokens and 0 for padding.

        Returns:
            ``(N, width)``, each row of length 1; zeros for a sentence that is all padding.
        """
        vectors = super().forward(tokens, visibility)
        weights = visibility.to(vectors.dtype)[:, :, None]
        mean = (vectors * weights).sum(1) / weights.sum(1).clamp(min=1)
        return functional.normalize(mean, dim=1, eps=NO_LENGTH)


def minilm(
    vocabulary: int = 30522, length: int = 512, width: int = 384, heads: int = 12, hidden: int = 1536, layers: int = 6
) -> nn.Module:
    """MiniLM-L6 that embeds sentences, as in ``sentence-transformers/all-MiniLM-L6-v2``: 22,713,216 parameters.

    147,840 of them are the pooler's, which nothing reads and no engine has.

    Returns:
        A `SentenceEncoder`: ids and a mask, both int64 ``(N, T)``, in; ``(N, width)`` out.
    """
    return SentenceEncoder(vocabulary, length, width, heads, hidden, layers)
