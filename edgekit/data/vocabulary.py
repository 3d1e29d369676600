"""Tokenizes text to ids and back; the vocabulary is the recipe's labels, with four special tokens first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.specs import BEGIN, END, PAD, SPECIAL_TOKENS, UNKNOWN

__all__ = [
    "BEGIN",
    "END",
    "PAD",
    "SPECIAL_TOKENS",
    "UNKNOWN",
    "ids_from_text",
    "source_ids",
    "target_input_ids",
    "target_output_ids",
    "text_from_ids",
    "unknown_tokens",
]


def ids_from_text(text: str, vocabulary: Sequence[str]) -> list[int]:
    """Tokenizes a text: into characters if all tokens of the vocabulary are characters, otherwise at whitespace.

    A token that is not in the vocabulary gets the id `UNKNOWN`.
    """
    known = {token: index for index, token in enumerate(vocabulary) if index >= len(SPECIAL_TOKENS)}
    return [known.get(token, UNKNOWN) for token in _tokens(text, vocabulary)]


def unknown_tokens(text: str, vocabulary: Sequence[str]) -> list[str]:
    """Returns the tokens of a text that are not in the vocabulary, in text order."""
    known = set(vocabulary[len(SPECIAL_TOKENS) :])
    return [token for token in _tokens(text, vocabulary) if token not in known]


def text_from_ids(ids: Iterable[int], vocabulary: Sequence[str]) -> str:
    """Decodes ids up to the first `END`, without special tokens; an unknown token becomes ``�``."""
    tokens = []
    for index in ids:
        if index == END:
            break
        if index == UNKNOWN or index >= len(vocabulary):
            tokens.append("\N{REPLACEMENT CHARACTER}")
        elif index >= len(SPECIAL_TOKENS):
            tokens.append(vocabulary[index])
    return ("" if _of_characters(vocabulary) else " ").join(tokens)


def source_ids(text: str, vocabulary: Sequence[str]) -> list[int]:
    """Returns the encoder input: the text's tokens, then `END`."""
    return [*ids_from_text(text, vocabulary), END]


def target_input_ids(text: str, vocabulary: Sequence[str]) -> list[int]:
    """Returns the decoder input for training: `BEGIN`, then the text's tokens."""
    return [BEGIN, *ids_from_text(text, vocabulary)]


def target_output_ids(text: str, vocabulary: Sequence[str]) -> list[int]:
    """Returns the expected decoder output for `target_input_ids`: the text's tokens, then `END`."""
    return [*ids_from_text(text, vocabulary), END]


def _tokens(text: str, vocabulary: Sequence[str]) -> Sequence[str]:
    return text if _of_characters(vocabulary) else text.split()


def _of_characters(vocabulary: Sequence[str]) -> bool:
    return all(len(token) == 1 for token in vocabulary[len(SPECIAL_TOKENS) :])
