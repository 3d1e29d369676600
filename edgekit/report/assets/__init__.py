"""Style sheets and scripts that pages carry inside."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["asset"]


@cache
def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
