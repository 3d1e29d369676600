"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["code", "note_on_origin", "table"]


def note_on_origin(source: str) -> str:
    return f"<!-- Generated from {source} by `python -m tools.docs`; edits are overwritten. -->"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; columns that are empty in all rows are left out."""
    rows = list(rows)
    used = [i for i, _ in enumerate(heads) if any(row[i] for row in rows)]
    lines = [[heads[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
