"""Task ``translate``: translates a text with greedy decoding, one token per engine run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.data.missing import TEXTS_PLACEHOLDER
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
    """Converts texts to the encoder's input: tokens, the end token, then padding; int64, shape ``(N, length)``.

    Raises:
        RunError: a text has more tokens than the engine's input; or the engine has no vocabulary.
    """
    if not manifest.labels:
        raise RunError(
            f"'{manifest.name}': expected the vocabulary as labels, got none",
            hint="pass token ids to run()",
        )
    rows = [source_ids(text, manifest.labels) for text in texts]
    length = spec.shape[1] if isinstance(spec.shape[1], int) else max(map(len, rows))
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) > length:
            shown = text if len(text) <= 40 else f"{text[:39]}…"
            raise RunError(
                f"input '{spec.name}': expected a text of at most {length - 1} tokens, got {len(ids) - 1}: {shown!r}",
                hint="split the text",
            )
    source = np.full((len(rows), length), PAD, np.int64)
    for row, ids in zip(source, rows, strict=True):
        row[: len(ids)] = ids
    return source


def greedy_tokens(run: Run, source: np.ndarray, length: int) -> list[list[int]]:
    """Decodes greedily: chooses the most probable token at each position until the end token.

    The engine runs once for each token on the whole text so far, padded to the fixed length: later positions do not
    affect earlier ones, because the decoder's mask is causal.

    Args:
        run: an engine with the inputs ``source`` and ``target`` and the output ``logits``.
        source: token ids; int64, shape ``(N, S)``.
        length: length of the input ``target``, and the maximum number of tokens of a text.

    Returns:
        Token ids of each text, without the begin and end tokens.

    Raises:
        RunError: the engine does not return logits for each position, or they are NaN.
    """
    batch = len(source)
    target = np.full((batch, length), PAD, np.int64)
    target[:, 0] = BEGIN
    written = np.full((batch, length), END, np.int64)
    going = np.ones(batch, bool)
    for position in range(length):
        logits = _logits(run({SOURCE: source, TARGET: target}), (batch, length))[:, position]
        if np.isnan(logits[going]).any():
            raise RunError(f"output '{LOGITS}': expected numbers, got NaN at position {position}")
        tokens = np.where(going, logits.argmax(axis=-1), END)
        written[:, position] = tokens
        going &= tokens != END
        if not going.any():
            break
        if position + 1 < length:
            target[:, position + 1] = np.where(going, tokens, PAD)
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
    method = "use translate(), which takes a text"
    result = "translation"

    def example(self, manifest: Manifest) -> str:
        """Returns a number for the shipped model, whose vocabulary has digits; else a file."""
        return "--text 1742" if "7" in manifest.labels else TEXTS_PLACEHOLDER

    def predict(self, session: OpenSession, text: str) -> str:
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
