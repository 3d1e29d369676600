"""The Transformer of Vaswani et al. 2017 (arXiv:1706.03762): an encoder reads a sentence, a decoder writes another.

Read from the bottom of the paper's figure 1 to its top: positions, one layer of the encoder and one of the decoder, the
stacks of them, and `Translator`, which has tokens at both ends. Decoding, token after token, is in
`edgekit.models.decoding`.

`Transformer` has the state dict of `torch.nn.Transformer` and computes the same, with its norm at the end of each
stack, which the paper does not have. The names of `Translator` around it are ``embedding.weight`` (shared by both ends
and by the scores, as in section 3.4 of the paper) and ``transformer.*``.

An engine made of a `Translator` has the inputs ``source (1, S)`` and ``target (1, T)``, int64 ids of the vocabulary,
and the output ``logits (1, T, V)``, float32. Ids 0 to 3 are those of `edgekit.specs.SPECIAL_TOKENS`: ``<pad>``,
``<begin>``, ``<end>`` and ``<unknown>``. It is run like this:

1.  ``source`` is the sentence's tokens, then ``<end>``, then ``<pad>`` up to the length S.
2.  ``target`` is ``<begin>``, then ``<pad>`` up to the length T.
3.  After a run, ``logits[0, t]`` says what follows ``target[0, t]``; ``t`` is 0 at first. The likeliest token is
    written to ``target[0, t + 1]``, and the engine is run again with ``t + 1``.
4.  ``<end>`` ends the translation and is no part of it; so does a full ``target``, at ``t = T - 1``.

Nothing that comes after ``t`` changes ``logits[0, t]``. To train, or to score a known translation, one run is enough:
``target`` is ``<begin>`` and the tokens, and what it is to say is the tokens and ``<end>``.
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
    """What is added to tokens so that they know their place.

    Section 3.5 of the paper::

        P[t, 2i]     = sin(t / 10000^(2i / width))
        P[t, 2i + 1] = cos(t / 10000^(2i / width))

    Each pair is the hand of a clock; the clocks turn once in 2 pi to 2 pi * 10000 tokens. A step of ``k`` turns every
    hand by the same angle wherever it begins, which is a linear map, so that distances are easy to learn.

    Args:
        length: how many tokens.
        width: of a token; even.

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
    """What layers of both stacks have in common: residuals with their norms, and the feed forward.

    The paper has the norm after the residual sum, ``norm(x + f(x))``; with ``norm_first`` it is ``x + f(norm(x))``,
    which trains without a warm-up (Xiong et al. 2020, arXiv:2002.04745).
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
        """``relu(x W1 + b1) W2 + b2``, for every token alone (equation 2): ``2 * width * hidden`` weights."""
        y: torch.Tensor = self.linear2(functional.relu(self.linear1(x)))
        return y

    def residual(self, x: torch.Tensor, norm: nn.Module, part: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """``x`` and what ``part`` has to add to it."""
        y: torch.Tensor = x + self.dropout(part(norm(x))) if self.norm_first else norm(x + self.dropout(part(x)))
        return y


class EncoderLayer(_Layer):
    """Tokens look at each other, then think alone; the state dict is that of `torch.nn.TransformerEncoderLayer`."""

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__(width, hidden, dropout=dropout, norm_first=norm_first)
        self.self_attn = MultiHeadAttention(width, heads)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x (N, S, width)``; ``bias`` is added to the scores ``(N, heads, S, S)``."""
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y, y, bias))
        return self.residual(x, self.norm2, self.feed_forward)


class LayerMemory:
    """The key-value cache of one layer of the decoder: what it has read, and what it has written so far.

    A token's key and value do not change when later ones come, as no token looks ahead. Kept, they save computing all
    of a sentence again for each of its tokens: the work of ``T`` steps shrinks from ``T * T`` tokens to ``T``.

    Args:
        layer: the layer that it belongs to.
        memory: the encoder's output ``(N, S, width)``.
    """

    def __init__(self, layer: DecoderLayer, memory: torch.Tensor) -> None:
        self.read = layer.multihead_attn.remember(memory)
        self.written: tuple[torch.Tensor, torch.Tensor] | None = None

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds tokens ``(N, heads, T, width / heads)`` after the others; all keys and values there are now."""
        if self.written is not None:
            keys = torch.cat((self.written[0], keys), dim=2)
            values = torch.cat((self.written[1], values), dim=2)
        self.written = (keys, values)
        return self.written

    def select(self, rows: torch.Tensor) -> None:
        """Goes on with these rows of the batch, in this order; one may be there many times."""
        self.read = (self.read[0][rows], self.read[1][rows])
        if self.written is not None:
            self.written = (self.written[0][rows], self.written[1][rows])


class DecoderLayer(_Layer):
    """Tokens look back at each other, then at what the encoder read, then think alone.

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
        """All tokens at once.

        Args:
            x: ``(N, T, width)``.
            memory: what the encoder gave, ``(N, S, width)``.
            bias: is added to the scores ``(N, heads, T, T)``; hides what lies ahead.
            memory_bias: is added to the scores ``(N, heads, T, S)``; hides padding.
        """
        x = self.residual(x, self.norm1, lambda y: self.self_attn(y, y, bias))
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn(y, memory, memory_bias))
        return self.residual(x, self.norm3, self.feed_forward)

    def step(self, x: torch.Tensor, memory: LayerMemory, memory_bias: torch.Tensor | None = None) -> torch.Tensor:
        """One token more, ``x (N, 1, width)``, which looks at all that ``memory`` keeps, and is kept too."""

        def look_back(y: torch.Tensor) -> torch.Tensor:
            return self.self_attn.recall(y, *memory.append(*self.self_attn.remember(y)))

        x = self.residual(x, self.norm1, look_back)
        x = self.residual(x, self.norm2, lambda y: self.multihead_attn.recall(y, *memory.read, memory_bias))
        return self.residual(x, self.norm3, self.feed_forward)


class Encoder(nn.Module):
    """Layers, and a norm; the state dict is that of `torch.nn.TransformerEncoder`."""

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
    """Layers, and a norm; the state dict is that of `torch.nn.TransformerDecoder`."""

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
        """An empty cache for sentences whose encoding is ``memory (N, S, width)``."""
        return [LayerMemory(layer, memory) for layer in self.layers if isinstance(layer, DecoderLayer)]

    def step(
        self, x: torch.Tensor, memories: Sequence[LayerMemory], memory_bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `DecoderLayer.step`; ``memories`` is what `remember` gave, and grows."""
        for layer, memory in zip(self.layers, memories, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, memory, memory_bias)
        y: torch.Tensor = self.norm(x)
        return y


class Transformer(nn.Module):
    """Encoder and decoder on vectors; the state dict is that of `torch.nn.Transformer`.

    Args:
        width: of a token, ``d_model``.
        heads: of each attention.
        hidden: width inside of the feed forward, ``d_ff``.
        layers: of the encoder, and as many of the decoder.
        dropout: share of what each part adds that is dropped in training.
        norm_first: norms stand before the parts and not after the sums.
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
        """What the decoder makes of ``target``, having read ``source``.

        Args:
            source: ``(N, S, width)``.
            target: ``(N, T, width)``.
            source_bias: hides padding of the source; is added to scores ``(N, heads, S, S)`` and ``(N, heads, T, S)``.
            target_bias: hides what lies ahead; is added to scores ``(N, heads, T, T)``.

        Returns:
            ``(N, T, width)``.
        """
        y: torch.Tensor = self.decoder(target, self.encoder(source, source_bias), target_bias, source_bias)
        return y


class Translator(nn.Module):
    """A Transformer with tokens at both ends: ids in, logits of what comes next out.

    One table of vectors, one a token of the vocabulary, stands at all three places: times ``sqrt(width)`` it is what
    goes into the encoder and the decoder, and its product with what comes out is how well each token fits (section
    3.4).

    Args:
        vocabulary: how many tokens there are, of both languages.
        length: the longest sentence, on either side.
        width: of a token, ``d_model``.
        heads: of each attention.
        hidden: width inside of the feed forward, ``d_ff``.
        layers: of the encoder, and as many of the decoder.
        dropout: share of what each part adds that is dropped in training.
        norm_first: norms stand before the parts and not after the sums.
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
        # Vectors of length 1: as large as their positions once they are scaled, and logits of variance 1.
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What follows each token of ``target``.

        Args:
            source: ids ``(N, S)``; `PAD` is not looked at.
            target: ids ``(N, T)``, ``<begin>`` first.

        Returns:
            Logits ``(N, T, vocabulary)``; those at ``t`` know the target up to ``t`` and the whole source.
        """
        memory, source_bias = self.encode(source)
        ahead = bias_from_visibility(causal_visibility(target.shape[1], target.device))
        return self.scores(self.transformer.decoder(self.embedded(target), memory, ahead, source_bias))

    def encode(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder makes of ``source``, ``(N, S, width)``, and the bias that hides its padding."""
        bias = bias_from_visibility(padding_visibility(source, PAD))[:, None, None, :]
        return self.transformer.encoder(self.embedded(source), bias), bias

    def embedded(self, tokens: torch.Tensor, begin: int = 0) -> torch.Tensor:
        """Vectors ``(N, T, width)`` of the ids ``(N, T)``, the first of which stands at place ``begin``."""
        places = self.positions[begin : begin + tokens.shape[1]]
        y: torch.Tensor = self.dropout(self.embedding(tokens) * self.scale + places)
        return y

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(N, T, vocabulary)`` of ``x (N, T, width)``."""
        # As one matrix of all tokens: the exporter then reads the embedding as it is, and makes no transposed one.
        return functional.linear(x.flatten(0, 1), self.embedding.weight).reshape(*x.shape[:2], -1)

    def own_name(self, published: str) -> str | None:
        """Takes the weights of a `torch.nn.Transformer`, beside ``embedding.weight``, under their own names too."""
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
    """A `Translator`, by default of the size of the paper's base model (table 3).

    Returns:
        A module that takes int64 ids ``source (N, S)`` and ``target (N, T)``, both up to ``length`` long, and returns
        logits ``(N, T, vocabulary)``.
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
