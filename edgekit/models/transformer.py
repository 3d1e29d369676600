"""The encoder-decoder Transformer of Vaswani et al. 2017 (arXiv:1706.03762).

The order follows the paper's figure 1 from bottom to top: positions, encoder and decoder layers, the encoder and
decoder stacks, and `Translator`, which maps tokens to logits. Token-by-token decoding is in `edgekit.models.decoding`.

`Transformer` has the state dict of `torch.nn.Transformer` and computes the same, including its norm at the end of each
stack, which the paper does not have. `Translator` adds ``embedding.weight``, shared by encoder, decoder and output as
in section 3.4 of the paper; its other names start with ``transformer.``.

An engine built from a `Translator` has the inputs ``source (1, S)`` and ``target (1, T)``, int64 token ids, and the
output ``logits (1, T, V)``, float32. Ids 0 to 3 are `edgekit.specs.SPECIAL_TOKENS`: ``<pad>``, ``<begin>``, ``<end>``
and ``<unknown>``. To run it:

1.  Set ``source`` to the sentence's tokens, then ``<end>``, then ``<pad>`` up to the length S.
2.  Set ``target`` to ``<begin>``, then ``<pad>`` up to the length T. Start with ``t = 0``.
3.  Run the engine. ``logits[0, t]`` are the logits of the token after ``target[0, t]``. Write the most likely token to
    ``target[0, t + 1]``, and repeat with ``t + 1``.
4.  Stop at ``<end>``, which is not part of the translation, or if ``target`` is full, at ``t = T - 1``.

``logits[0, t]`` does not depend on tokens after ``t``. To train, or to score a known translation, one run is enough:
``target`` is ``<begin>`` and the tokens, and the expected outputs are the tokens and ``<end>``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from edgekit.models.attention import MultiHeadAttention, bias_from_visibility, causal_visibility, padding_visibility
from edgekit.specs import PAD

__all__ = [
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "LayerMemory",
    "Transformer",
    "Translator",
    "sinusoidal_positions",
    "transformer",
]


def sinusoidal_positions(length: int, width: int) -> torch.Tensor:
    """Computes sinusoidal position encodings.

    Section 3.5 of the paper::

        P[t, 2i]     = sin(t / 10000^(2i / width))
        P[t, 2i + 1] = cos(t / 10000^(2i / width))

    Each pair is a point on a circle, with a period of 2 pi to 2 pi * 10000 tokens. A shift by ``k`` tokens is a
    rotation that does not depend on the position, a linear map, so relative positions are easy to learn.

    Args:
        length: number of tokens.
        width: token width; even.

    Returns:
        float32 ``(length, width)``.
    """
    if width % 2:
        raise ValueError(f"expected an even width, got {width}")
    time = torch.arange(length, dtype=torch.float64)[:, None]
    speed = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angles = time * speed
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1).to(torch.float32)


class _Layer(nn.Module):
    """Base of encoder and decoder layers: residual connections with norms, and the feed-forward network.

    The paper normalizes after the residual sum, ``norm(x + f(x))``. With ``norm_first`` it is ``x + f(norm(x))``, which
    trains without warmup (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(self, width: int, hidden: int, *, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes ``relu(x W1 + b1) W2 + b2`` for each token (equation 2); ``2 * width * hidden`` weights."""
        y: torch.Tensor = self.linear2(functional.relu(self.linear1(x)))
        return y

    def residual(self, x: torch.Tensor, norm: nn.Module, part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Adds ``part(x)`` to ``x``, with norm and dropout."""
        y: torch.Tensor = x + self.dropout(part(norm(x))) if self.norm_first else norm(x + self.dropout(part(x)))
        return y


class EncoderLayer(_Layer):
    """Self-attention and feed-forward network; the state dict is that of `torch.nn.TransformerEncoderLayer`."""

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__(width, hidden, dropout=dropout, norm_first=norm_first)
        self.self_attn = MultiHeadAttention(width, heads)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Encodes ``x (N, S, width)``; ``bias`` is added to the scores ``(N, heads, S, S)``."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y, y, bias))
        return self.residual(x, self.norm2, self.feed_forward)


class LayerMemory:
    """The key-value cache of one decoder layer: of the encoder output, and of the previous tokens.

    With causal attention, the key and value of a token do not depend on later tokens. Caching them avoids computing the
    whole sentence again at each step: the work of ``T`` steps shrinks from ``T * T`` tokens to ``T``.

    Args:
        layer: the decoder layer.
        memory: the encoder's output ``(N, S, width)``.
    """

    def __init__(self, layer: DecoderLayer, memory: torch.Tensor) -> None:
        self.read = layer.multihead_attn.remember(memory)
        self.written: tuple[torch.Tensor, torch.Tensor] | None = None

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends keys and values ``(N, heads, T, width / heads)``, and returns all cached keys and values."""
        if self.written is not None:
            keys = torch.cat((self.written[0], keys), dim=2)
            values = torch.cat((self.written[1], values), dim=2)
        self.written = (keys, values)
        return self.written

    def select(self, rows: torch.Tensor) -> None:
        """Continues with the given rows of the batch, in this order; a row may be repeated."""
        self.read = (self.read[0][rows], self.read[1][rows])
        if self.written is not None:
            self.written = (self.written[0][rows], self.written[1][rows])


class DecoderLayer(_Layer):
    """Causal self-attention, cross-attention to the encoder output, and feed-forward network.

    The state dict is that of `torch.nn.TransformerDecoderLayer`.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__(width, hidden, dropout=dropout, norm_first=norm_first)
        self.norm3 = nn.LayerNorm(width)
        self.self_attn = MultiHeadAttention(width, heads)
        self.multihead_attn = MultiHeadAttention(width, heads)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        bias: torch.Tensor | None = None,
        memory_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Computes all tokens at once.

        Args:
            x: ``(N, T, width)``.
            memory: the encoder output, ``(N, S, width)``.
            bias: added to the self-attention scores ``(N, heads, T, T)``; masks later tokens.
            memory_bias: added to the cross-attention scores ``(N, heads, T, S)``; masks padding.
        """
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y, y, bias))
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn(y, memory, memory_bias))
        return self.residual(x, self.norm3, self.feed_forward)

    def step(self, x: torch.Tensor, memory: LayerMemory, memory_bias: torch.Tensor | None = None) -> torch.Tensor:
        """Computes one more token, ``x (N, 1, width)``, from the cache ``memory``, and appends it to the cache."""

        def look_back(y: torch.Tensor) -> torch.Tensor:
            return self.self_attn.recall(y, *memory.append(*self.self_attn.remember(y)))

        x = self.residual(x, self.norm1, look_back)
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn.recall(y, *memory.read, memory_bias))
        return self.residual(x, self.norm3, self.feed_forward)


class Encoder(nn.Module):
    """Encoder layers and a norm; the state dict is that of `torch.nn.TransformerEncoder`."""

    def __init__(self, layers: Sequence[EncoderLayer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """See `EncoderLayer.forward`."""
        for layer in self.layers:
            x = layer(x, bias)
        y: torch.Tensor = self.norm(x)
        return y


class Decoder(nn.Module):
    """Decoder layers and a norm; the state dict is that of `torch.nn.TransformerDecoder`."""

    def __init__(self, layers: Sequence[DecoderLayer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        bias: torch.Tensor | None = None,
        memory_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `DecoderLayer.forward`."""
        for layer in self.layers:
            x = layer(x, memory, bias, memory_bias)
        y: torch.Tensor = self.norm(x)
        return y

    def remember(self, memory: torch.Tensor) -> list[LayerMemory]:
        """Creates an empty cache for the encoder output ``memory (N, S, width)``."""
        return [LayerMemory(layer, memory) for layer in self.layers if isinstance(layer, DecoderLayer)]

    def step(
        self, x: torch.Tensor, memories: Sequence[LayerMemory], memory_bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `DecoderLayer.step`; ``memories`` comes from `remember`, and is extended in place."""
        for layer, memory in zip(self.layers, memories, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, memory, memory_bias)
        y: torch.Tensor = self.norm(x)
        return y


class Transformer(nn.Module):
    """Encoder and decoder on token vectors; the state dict is that of `torch.nn.Transformer`.

    Args:
        width: token width, ``d_model``.
        heads: number of attention heads.
        hidden: hidden width of the feed-forward network, ``d_ff``.
        layers: number of encoder layers, and of decoder layers.
        dropout: dropout probability in training.
        norm_first: normalize before each part instead of after the residual sum.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, layers: int, *, dropout: float = 0.0, norm_first: bool = False
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            [EncoderLayer(width, heads, hidden, dropout=dropout, norm_first=norm_first) for _ in range(layers)], width
        )
        self.decoder = Decoder(
            [DecoderLayer(width, heads, hidden, dropout=dropout, norm_first=norm_first) for _ in range(layers)], width
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        source_bias: torch.Tensor | None = None,
        target_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes ``source`` and decodes ``target``.

        Args:
            source: ``(N, S, width)``.
            target: ``(N, T, width)``.
            source_bias: masks source padding; added to scores ``(N, heads, S, S)`` and ``(N, heads, T, S)``.
            target_bias: masks later tokens; added to scores ``(N, heads, T, T)``.

        Returns:
            ``(N, T, width)``.
        """
        y: torch.Tensor = self.decoder(target, self.encoder(source, source_bias), target_bias, source_bias)
        return y


class Translator(nn.Module):
    """A Transformer with embeddings: token ids in, logits of the next token out.

    One embedding table is shared three times: scaled by ``sqrt(width)`` it embeds the tokens of encoder and decoder,
    and its product with the decoder output gives the logits (section 3.4).

    Args:
        vocabulary: vocabulary size, for both languages together.
        length: maximum number of tokens of source and target.
        width: token width, ``d_model``.
        heads: number of attention heads.
        hidden: hidden width of the feed-forward network, ``d_ff``.
        layers: number of encoder layers, and of decoder layers.
        dropout: dropout probability in training.
        norm_first: normalize before each part instead of after the residual sum.
    """

    positions: torch.Tensor

    def __init__(
        self,
        vocabulary: int,
        *,
        length: int,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        dropout: float = 0.1,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.length = length
        self.scale = math.sqrt(width)
        self.embedding = nn.Embedding(vocabulary, width)
        self.transformer = Transformer(width, heads, hidden, layers, dropout=dropout, norm_first=norm_first)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("positions", sinusoidal_positions(length, width), persistent=False)
        # Vectors of norm 1: after scaling they are as large as the position encodings, and logits have variance 1.
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Computes the logits of the token after each token of ``target``.

        Args:
            source: ids ``(N, S)``; `PAD` is masked.
            target: ids ``(N, T)``, ``<begin>`` first.

        Returns:
            Logits ``(N, T, vocabulary)``; those at ``t`` depend on the target up to ``t`` and on the whole source.
        """
        memory, source_bias = self.encode(source)
        causal_bias = bias_from_visibility(causal_visibility(target.shape[1], target.device))
        return self.scores(self.transformer.decoder(self.embedded(target), memory, causal_bias, source_bias))

    def encode(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the encoder output for ``source``, ``(N, S, width)``, and the bias that masks its padding."""
        bias = bias_from_visibility(padding_visibility(source, PAD))[:, None, None, :]
        return self.transformer.encoder(self.embedded(source), bias), bias

    def embedded(self, tokens: torch.Tensor, begin: int = 0) -> torch.Tensor:
        """Embeds ids ``(N, T)`` as vectors ``(N, T, width)``, with positions starting at ``begin``."""
        positions = self.positions[begin : begin + tokens.shape[1]]
        y: torch.Tensor = self.dropout(self.embedding(tokens) * self.scale + positions)
        return y

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits ``(N, T, vocabulary)`` from ``x (N, T, width)``."""
        # One matrix for all tokens makes the exporter use the embedding directly, without a transposed copy.
        return functional.linear(x.flatten(0, 1), self.embedding.weight).reshape(*x.shape[:2], -1)

    def own_name(self, published: str) -> str | None:
        """Maps the names of a `torch.nn.Transformer`, so that its weights with ``embedding.weight`` fit too."""
        return f"transformer.{published}" if published.startswith(("encoder.", "decoder.")) else published


def transformer(
    vocabulary: int,
    length: int = 64,
    width: int = 512,
    heads: int = 8,
    hidden: int = 2048,
    layers: int = 6,
    dropout: float = 0.1,
    norm_first: bool = False,
) -> nn.Module:
    """A `Translator`, by default in the size of the paper's base model (table 3).

    Returns:
        A module that takes int64 ids ``source (N, S)`` and ``target (N, T)``, both of at most ``length`` tokens, and
        returns logits ``(N, T, vocabulary)``.
    """
    return Translator(
        vocabulary,
        length=length,
        width=width,
        heads=heads,
        hidden=hidden,
        layers=layers,
        dropout=dropout,
        norm_first=norm_first,
    )
