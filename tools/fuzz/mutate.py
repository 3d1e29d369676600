"""Mutates files: bytes, blocks, numbers and texts, reproducibly."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

__all__ = ["mutated"]

MAX_BYTES = 1 << 16
MAX_STEPS = 6
NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"255", b"65536", b"2147483648", b"-9223372036854775808", b"1" * 40, b"")
TEXTS = (b"[", b"]", b"{", b"}", b'"', b"'", b"\\", b"\n", b"\r\n", b"\0", b"#", b",", b":", b"=", b"..", b"/", b"\xff")
TEXTS += ("é\u202e\U0001f600".encode(), b"[b]", b"\x1b[31m", b"&#0;", b"<!DOCTYPE a>", b"\xef\xbb\xbf")


def mutated(content: bytes, generator: random.Random, others: Sequence[bytes]) -> bytes:
    """Returns a variant of ``content``.

    Args:
        content: an input.
        generator: decides what is changed.
        others: inputs of the same kind, to take parts of.
    """
    data = bytearray(content)
    for _ in range(generator.randint(1, MAX_STEPS)):
        generator.choice(MUTATIONS)(data, generator, others)
        del data[MAX_BYTES:]
    return bytes(data)


def _place(data: bytearray, generator: random.Random) -> tuple[int, int]:
    """Returns start and end of a block, short ones more often than long ones."""
    start = generator.randrange(len(data) + 1)
    return start, min(len(data), start + int(2 ** generator.uniform(0, 8)))


def _flip(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def _set(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[generator.randrange(len(data))] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))


def _delete(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    start, end = _place(data, generator)
    del data[start:end]


def _repeat(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    start, end = _place(data, generator)
    times = generator.choice((1, 1, 2, 50, 1000))
    data[end:end] = (bytes(data[start:end]) * times)[:MAX_BYTES]


def _insert(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    start = generator.randrange(len(data) + 1)
    data[start:start] = generator.choice((*TEXTS, generator.randbytes(generator.randint(1, 8))))


def _truncate(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    del data[generator.randrange(len(data) + 1) :]


def _splice(data: bytearray, generator: random.Random, others: Sequence[bytes]) -> None:
    other = bytearray(generator.choice(others))
    start, end = _place(data, generator)
    first, last = _place(other, generator)
    data[start:end] = other[first:last]


def _number(data: bytearray, generator: random.Random, _: Sequence[bytes]) -> None:
    found = list(re.finditer(rb"\d+", bytes(data[:4096])))
    if found:
        start, end = generator.choice(found).span()
        data[start:end] = generator.choice(NUMBERS)


MUTATIONS: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    _flip,
    _set,
    _delete,
    _repeat,
    _insert,
    _truncate,
    _splice,
    _number,
)
