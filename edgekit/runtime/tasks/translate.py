"""Task ``translate``: a text in, a text out, decoded greedily: the engine predicts one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.data.vocabulary import BEGIN, END, PAD, source_ids, text_from_ids
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.runtime.tasks.choose import require_task
from edgekit.runtime.tasks.task import OpenSession, TextTask
from edgekit.specs import TensorSpec

__all__ = ["LOGITS", "SOURCE", "TARGET", "TASK", "greedy_tokens", "source_from_texts"]

SOURCE, TARGET, LOGITS = "source", "target", "logits"

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


def source_from_texts(texts: Sequence[str], spec: TensorSpec, manifest: Manifest) -> np.ndarray:
    """What the encoder reads: each text's tokens and the one that ends it, then padding; int64, shape ``(N, length)``.

    Raises:
        RunError: a text has more tokens than the engine's input; or the engine has no vocabulary.
    """
    if not manifest.labels:
        raise RunError(
            f"'{manifest.name}': expected the vocabulary as labels, got none",
            hint="hand numbers of tokens to run()",
        )
    rows = [source_ids(text, manifest.labels) for text in texts]
    length = spec.shape[1] if isinstance(spec.shape[1], int) else max(map(len, rows))
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) > length:
            shown = text if len(text) <= 40 else f"{text[:39]}…"
            raise RunError(
                f"input '{spec.name}': expected a text of at most {length - 1} tokens, got {len(ids) - 1}: {shown!r}",
                hint="give it in parts",
            )
    source = np.full((len(rows), length), PAD, np.int64)
    for row, ids in zip(source, rows, strict=True):
        row[: len(ids)] = ids
    return source


def greedy_tokens(run: Run, source: np.ndarray, length: int) -> list[list[int]]:
    """The tokens that an engine writes: at each place the likeliest one, given those before it, until it ends the text.

    The engine is run once a token on the whole text so far, which is padded to its fixed length: what stands after a
    place changes nothing at that place, since the decoder's mask is causal.

    Args:
        run: an engine with the inputs ``source`` and ``target`` and the output ``logits``.
        source: numbers of tokens; int64, shape ``(N, S)``.
        length: of the input ``target``; no text has more tokens.

    Returns:
        Numbers of tokens of each text, those that begin and end it left out.

    Raises:
        RunError: what came out are not the logits of a token at each place.
    """
    batch = len(source)
    target = np.full((batch, length), PAD, np.int64)
    target[:, 0] = BEGIN
    written = np.full((batch, length), END, np.int64)
    going = np.ones(batch, bool)
    for place in range(length):
        logits = _logits(run({SOURCE: source, TARGET: target}), (batch, length))[:, place]
        if np.isnan(logits[going]).any():
            raise RunError(f"output '{LOGITS}': expected numbers, got NaN at place {place}")
        tokens = np.where(going, logits.argmax(axis=-1), END)
        written[:, place] = tokens
        going &= tokens != END
        if not going.any():
            break
        if place + 1 < length:
            target[:, place + 1] = np.where(going, tokens, PAD)
    return [row[: _end(row)].tolist() for row in written]


def _end(row: np.ndarray) -> int:
    ends = np.flatnonzero(row == END)
    return int(ends[0]) if ends.size else len(row)


def _logits(outputs: Mapping[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    logits = outputs.get(LOGITS)
    if logits is None or logits.ndim != 3 or logits.shape[:2] != shape:
        got = "; ".join(f"{name} {array.shape}" for name, array in outputs.items())
        raise RunError(f"output '{LOGITS}': expected ({shape[0]}, {shape[1]}, vocabulary), got {got}")
    return logits


class Translate(TextTask):
    """See `TextTask`."""

    name = "translate"
    engine = "a translator"
    method = "translate() takes a text"
    result = "translation"

    def example(self, manifest: Manifest) -> str:
        """A number to spell out for the shipped model, which knows digits; else a file."""
        return "--text 1742" if "7" in manifest.labels else "texts.txt"

    def answer(self, session: OpenSession, text: str) -> str:
        """See `Session.translate`."""
        require_task(self, session.manifest)
        (tokens,) = self.tokens(session, source_from_texts([text], _input(session, SOURCE), session.manifest))
        return text_from_ids(tokens, session.manifest.labels)

    def tokens(self, session: OpenSession, source: np.ndarray) -> list[list[int]]:
        """See `Session.tokens`."""
        require_task(self, session.manifest)
        length = _input(session, TARGET).shape[1]
        if not isinstance(length, int):
            raise RunError(f"input '{TARGET}': expected an engine with a fixed length, got '{length}'")
        return greedy_tokens(session.run, source, length)


def _input(session: OpenSession, name: str) -> TensorSpec:
    found = [spec for spec in session.inputs if spec.name == name and len(spec.shape) == 2]
    if len(found) == 1 and len(session.inputs) == 2:
        return found[0]
    raise RunError(
        f"'{session.manifest.name}': expected a translator's inputs '{SOURCE}' and '{TARGET}' of shape (N, length), "
        f"got {'; '.join(map(str, session.inputs))}"
    )


TASK = Translate()
