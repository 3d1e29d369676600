"""Decodes TOML that may be hostile: in bounded time, and with one kind of exception."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["decoded_toml"]

_MAX_BYTES = 4 << 20
_MAX_DOTS = 200
"""In a line, before its value. The time to parse a key grows with the square of its parts."""


def decoded_toml(content: bytes) -> dict[str, Any]:
    """Decodes a TOML file.

    Raises:
        ValueError: it is not TOML, not UTF-8, nested too deeply, or larger than 4 MiB.
    """
    if len(content) > _MAX_BYTES:
        raise ValueError(f"expected at most {_MAX_BYTES:,} bytes, got {len(content):,}")
    text = content.decode("utf-8-sig")
    for number, line in enumerate(text.split("\n"), start=1):
        if (dots := line.partition("=")[0].count(".")) > _MAX_DOTS:
            place = f"(at line {number}, column 1)"
            raise ValueError(f"expected a key of at most {_MAX_DOTS} parts, got {dots + 1} {place}")
    try:
        return tomllib.loads(text)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
