"""Beam search with a `Translator`.

It uses a key-value cache, so that a step computes only one token. Greedy decoding of engines, which have no cache, is
in `edgekit.runtime.tasks.translate`; a beam of width 1 gives the same tokens.
"""

from __future__ import annotations

import torch

from edgekit.models.transformer import LayerMemory, Translator
from edgekit.specs import BEGIN, END

__all__ = ["Writer", "beam_search"]


class Writer:
    """Decodes a batch of sentences step by step, with a key-value cache.

    Args:
        model: in evaluation mode.
        source: ids ``(N, S)``.
    """

    def __init__(self, model: Translator, source: torch.Tensor) -> None:
        self._model = model
        memory, self._bias = model.encode(source)
        self._memories: list[LayerMemory] = model.transformer.decoder.remember(memory)
        self._written = 0

    def write(self, tokens: torch.Tensor) -> torch.Tensor:
        """Appends a token to every sentence; the first is `BEGIN`.

        Args:
            tokens: ids ``(N,)``.

        Returns:
            Logits ``(N, vocabulary)`` of the next token, equal to those of `Translator.forward` at this position.
        """
        model = self._model
        x = model.transformer.decoder.step(
            model.embedded(tokens[:, None], begin=self._written), self._memories, self._bias
        )
        self._written += 1
        return model.scores(x)[:, 0]

    def select(self, rows: torch.Tensor) -> None:
        """Continues with the given rows, in this order; a row may be repeated."""
        for memory in self._memories:
            memory.select(rows)
        self._bias = self._bias[rows]


@torch.no_grad()
def beam_search(
    model: Translator,
    source: torch.Tensor,
    *,
    width: int = 4,
    length_penalty: float = 0.6,
    limit: int | None = None,
) -> list[list[int]]:
    """Beam search: keeps the ``width`` most likely sentences at each step.

    The result is the finished sentence with the highest score (Wu et al. 2016, arXiv:1609.08144, equation 14)::

        score = log P(sentence | source) / ((5 + length) / 6) ^ length_penalty

    where ``length`` includes `END`. Without the penalty, short sentences win, since each token lowers the probability.
    The Transformer paper uses a width of 4 and a penalty of 0.6 (section 6.1).

    Args:
        model: in evaluation mode.
        source: ids ``(N, S)``, int64; each row is searched alone.
        width: how many sentences are kept; with 1 the likeliest token is written each time.
        length_penalty: 0 compares sentences by their probability alone.
        limit: the most tokens of a sentence; the model's length if none is given.

    Returns:
        The ids of each sentence, without `BEGIN` and `END`.
    """
    if width < 1:
        raise ValueError(f"expected a beam width of at least 1, got {width}")
    steps = _limit(model, limit)
    return [_searched(model, row[None], width, length_penalty, steps) for row in source]


def _searched(model: Translator, source: torch.Tensor, width: int, penalty: float, steps: int) -> list[int]:
    writer = Writer(model, source)
    likelihoods = torch.zeros(1, device=source.device)
    sentences: list[list[int]] = [[]]
    ended: list[tuple[float, list[int]]] = []
    tokens = source.new_tensor([BEGIN])
    for step in range(1, steps + 1):
        next_tokens = likelihoods[:, None] + writer.write(tokens).log_softmax(dim=1)
        # Each sentence has one continuation that ends it, so at least `width` of 2 * width candidates do not end.
        best, indices = next_tokens.flatten().topk(min(2 * width, next_tokens.numel()))
        vocabulary = next_tokens.shape[1]
        found = [(index // vocabulary, index % vocabulary) for index in indices.tolist()]
        ended_ranks = [rank for rank, (_, token) in enumerate(found[:width]) if token == END]
        ended += [(_score(float(best[rank]), step, penalty), sentences[found[rank][0]]) for rank in ended_ranks]
        open_ranks = [rank for rank, (_, token) in enumerate(found) if token != END][:width]
        sentences = [[*sentences[found[rank][0]], found[rank][1]] for rank in open_ranks]
        likelihoods = best[open_ranks]
        if len(ended) >= width or not open_ranks or _is_settled(ended, float(likelihoods[0]), steps, penalty):
            break
        writer.select(source.new_tensor([found[rank][0] for rank in open_ranks]))
        tokens = source.new_tensor([found[rank][1] for rank in open_ranks])
    return max(ended, key=lambda pair: pair[0])[1] if ended else sentences[0]


def _score(likelihood: float, length: int, penalty: float) -> float:
    return float(likelihood / ((5 + length) / 6) ** penalty)


def _is_settled(ended: list[tuple[float, list[int]]], likelihood: float, steps: int, penalty: float) -> bool:
    """Whether no open sentence can exceed the best finished score, given its likelihood and maximum length."""
    reachable = max(_score(likelihood, 1, penalty), _score(likelihood, steps, penalty))
    return bool(ended) and max(score for score, _ in ended) >= reachable


def _limit(model: Translator, limit: int | None) -> int:
    if limit is not None and not 1 <= limit <= model.length:
        raise ValueError(f"expected a limit of 1 to {model.length} tokens, the length of the model, got {limit}")
    return limit or model.length
