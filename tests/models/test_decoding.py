from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgekit.models.decoding import Writer, beam_search
from edgekit.models.transformer import Translator
from edgekit.runtime.tasks.translate import greedy_tokens
from edgekit.specs import BEGIN, END, PAD

LETTERS, VOCABULARY, LENGTH = 5, 9, 8
SOURCE = torch.tensor([[4, 5, 6, 2, 0, 0], [7, 2, 0, 0, 0, 0], [8, 7, 6, 5, 4, 2], [2, 0, 0, 0, 0, 0]])


@pytest.fixture(scope="module", params=[False, True], ids=["norm-last", "norm-first"])
def model(request: pytest.FixtureRequest) -> Iterator[Translator]:
    """A partly trained copy model, which is certain of some letters and word ends."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small for threads
    torch.manual_seed(0)
    module = Translator(
        VOCABULARY, length=LENGTH, width=32, heads=4, hidden=64, layers=2, dropout=0, norm_first=request.param
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    places = torch.arange(LETTERS + 1)
    for _ in range(60):
        lengths = torch.randint(0, LETTERS + 1, (64, 1))
        word = (
            torch.randint(4, VOCABULARY, (64, LETTERS + 1)).where(places < lengths, END).where(places <= lengths, PAD)
        )
        target = torch.cat((torch.full((64, 1), BEGIN), word[:, :-1]), 1)
        loss = functional.cross_entropy(module(word, target).flatten(0, 1), word.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    yield module.eval()
    torch.set_num_threads(threads)


def greedy(module: Translator, source: torch.Tensor, **options: int) -> list[list[int]]:
    return beam_search(module, source, width=1, **options)


@torch.no_grad()
def uncached(module: Translator, source: torch.Tensor, limit: int) -> tuple[list[list[int]], torch.Tensor]:
    """Greedy decoding as documented for engines: computes the whole target at every step."""
    target = torch.full((len(source), limit), PAD)
    target[:, 0] = BEGIN
    rows = []
    for t in range(limit):
        logits = module(source, target)[:, t]
        rows.append(logits)
        if t + 1 < limit:
            target[:, t + 1] = logits.argmax(1)
    tokens = torch.stack(rows, 1).argmax(2).tolist()
    return [row[: row.index(END)] if END in row else row for row in tokens], torch.stack(rows, 1)


def test_the_cache_does_not_change_tokens_and_logits(model: Translator) -> None:
    expected, logits = uncached(model, SOURCE, LENGTH)
    assert greedy(model, SOURCE) == expected
    with torch.no_grad():
        writer = Writer(model, SOURCE)
        tokens = torch.full((len(SOURCE),), BEGIN)
        for t in range(LENGTH):
            got = writer.write(tokens)
            torch.testing.assert_close(got, logits[:, t], rtol=1e-5, atol=1e-5)
            tokens = logits[:, t].argmax(1)


def test_sentences_end_at_different_positions(model: Translator) -> None:
    lengths = {len(row) for row in greedy(model, SOURCE)}
    assert len(lengths) >= 3, "or the tests here would hold for decoders that never end, too"


def test_a_beam_of_one_writes_what_greedy_decoding_of_an_engine_writes(model: Translator) -> None:
    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"logits": model(*(torch.from_numpy(feeds[name]) for name in ("source", "target"))).numpy()}

    assert beam_search(model, SOURCE, width=1) == greedy_tokens(run, SOURCE.numpy(), LENGTH)


@torch.no_grad()
def log_probabilities(module: Translator, source: torch.Tensor, sentences: list[list[int]]) -> torch.Tensor:
    """Of sentences that are equally long."""
    ids = torch.tensor(sentences, dtype=torch.int64).reshape(len(sentences), -1)
    begin, end = torch.full((len(ids), 1), BEGIN), torch.full((len(ids), 1), END)
    scores = module(source.expand(len(ids), -1), torch.cat((begin, ids), 1)).log_softmax(2)
    return scores.gather(2, torch.cat((ids, end), 1)[:, :, None]).sum((1, 2))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_an_exhaustive_beam_finds_the_best_sentence(model: Translator, penalty: float) -> None:
    limit = 3
    tokens = [token for token in range(VOCABULARY) if token != END]
    for source in SOURCE:
        scores: dict[tuple[int, ...], float] = {}
        for length in range(limit):
            sentences = [list(letters) for letters in itertools.product(tokens, repeat=length)]
            likelihoods = log_probabilities(model, source, sentences) / ((6 + length) / 6) ** penalty
            scores |= zip(map(tuple, sentences), likelihoods.tolist(), strict=True)
        (got,) = beam_search(model, source[None], width=VOCABULARY**limit, length_penalty=penalty, limit=limit)
        assert scores[tuple(got)] == pytest.approx(max(scores.values()), abs=1e-5)


def test_a_wider_beam_finds_sentences_that_are_at_least_as_likely(model: Translator) -> None:
    wide = beam_search(model, SOURCE, width=40, length_penalty=0.0)
    for source, best, first in zip(SOURCE, wide, greedy(model, SOURCE), strict=True):
        likelihood, of_greedy = (log_probabilities(model, source, [words]).item() for words in (best, first))
        assert likelihood >= of_greedy - 1e-5


def test_sentences_of_a_batch_are_independent(model: Translator) -> None:
    assert greedy(model, SOURCE) == [greedy(model, row[None])[0] for row in SOURCE]
    assert beam_search(model, SOURCE, width=3) == [beam_search(model, row[None], width=3)[0] for row in SOURCE]


def test_a_cache_continues_with_the_selected_rows(model: Translator) -> None:
    with torch.no_grad():
        both, one = Writer(model, SOURCE), Writer(model, SOURCE[2:3])
        both.write(torch.full((4,), BEGIN))
        one.write(torch.tensor([BEGIN]))
        both.select(torch.tensor([2, 2, 0]))
        got = both.write(torch.tensor([5, 6, 5]))
        torch.testing.assert_close(got[:1], one.write(torch.tensor([5])), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(got[0], got[1])


def test_the_limit_is_respected(model: Translator) -> None:
    whole = greedy(model, SOURCE)
    assert max(map(len, whole)) > 3
    assert greedy(model, SOURCE, limit=3) == [row[:3] for row in whole]
    assert all(len(row) <= 3 for row in beam_search(model, SOURCE, limit=3))


@pytest.mark.parametrize("limit", [0, -1, LENGTH + 1])
def test_error_on_a_limit_above_the_model_length(model: Translator, limit: int) -> None:
    with pytest.raises(ValueError, match=f"expected a limit of 1 to {LENGTH} tokens.*got {limit}"):
        greedy(model, SOURCE, limit=limit)


def test_error_on_a_beam_of_width_0(model: Translator) -> None:
    with pytest.raises(ValueError, match="beam width of at least 1, got 0"):
        beam_search(model, SOURCE, width=0)
