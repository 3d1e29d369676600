"""Style sheets and scripts that are inlined into pages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["asset"]


@cache
def asset(name: str) -> str:
    """Returns the text of a file in this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
