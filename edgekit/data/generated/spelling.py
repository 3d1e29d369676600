"""Synthetic translation data set: integers and their spelling in English."""

from __future__ import annotations

import string

from edgekit.data.examples import Choice, Example
from edgekit.data.splits import fraction_from_key
from edgekit.data.vocabulary import SPECIAL_TOKENS
from edgekit.errors import UsageError
from edgekit.recipe.schema import Task

__all__ = [
    "SPELLING_VOCABULARY",
    "Spelling",
    "number_in_words",
    "spelling_from_name",
]

SPELLING_VOCABULARY = (*SPECIAL_TOKENS, *string.digits, *string.ascii_lowercase, " ", "-", ",")

_NUM_VALUES = 100_000
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


class Spelling:
    """Numbers below 100,000, each in one split only: ``1742`` is ``one thousand seven hundred forty-two``.

    All numbers below 100 are in the train split, because some words (zero) occur nowhere else.
    """

    name = "spelling"
    task: Task = "translate"
    labels = SPELLING_VOCABULARY
    notes: tuple[str, ...] = ()

    def __init__(self, choice: Choice) -> None:
        """Selects the numbers of one split: 20,000 for train or 1,000 for test."""
        shuffled = sorted(range(_NUM_VALUES), key=lambda number: fraction_from_key(f"spelling {number}"))
        tested = [number for number in shuffled if number >= 100][:1000]
        if choice.split == "test":
            self._numbers = tested
        else:
            known = set(tested)
            rest = [number for number in shuffled if number >= 1000 and number not in known]
            short = [number for number in range(1000) if number not in known]
            self._numbers = short + rest[: 20_000 - len(short)]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        number = self._numbers[index]
        return Example(f"spelling of {number}", str(number), number_in_words(number))


def spelling_from_name(size: str, choice: Choice) -> Spelling:
    """Opens the data set ``spelling``; ``size`` is the text after the name's colon and must be empty."""
    if size:
        raise UsageError(f"data set spelling:{size}: expected nothing after 'spelling', got '{size}'")
    return Spelling(choice)


def number_in_words(number: int) -> str:
    """Spells a number from 0 to 999,999 in American English, without "and"."""
    if number >= 1000:
        rest = f" {number_in_words(number % 1000)}" if number % 1000 else ""
        return f"{number_in_words(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {number_in_words(number % 100)}" if number % 100 else ""
        return f"{_ONES[number // 100]} hundred{rest}"
    if number >= 20:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    return _ONES[number]
