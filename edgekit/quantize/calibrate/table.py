"""Reads and writes calibration tables: in a bundle, for people to read, and in the user's cache, for later builds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.storage import read_cached, write_atomic, write_cached
from edgekit.text import json_bytes, json_value

__all__ = ["cached_table", "keep_table", "write_table"]


def write_table(table: CalibrationTable, path: Path) -> None:
    """Writes ``calibration.json``, indented; replaces an older file atomically."""
    write_atomic(path, json_bytes(table, indent=1) + b"\n")


def keep_table(table: CalibrationTable, cache: Path) -> None:
    """Writes the table to the cache, where `cached_table` finds it."""
    write_cached(_place(cache, table.graph_digest, table.set_digest, table.method), json_bytes(table))


def cached_table(cache: Path, *, graph_digest: str, set_digest: str, method: str) -> CalibrationTable | None:
    """Reads the cached calibration of the same graph on the same inputs by the same method; None if there is none.

    A file that is damaged, or has another format version, counts as none.
    """
    path = _place(cache, graph_digest, set_digest, method)
    content = read_cached(path)
    try:
        table = json_value(content, type=CalibrationTable) if content else None
    except msgspec.DecodeError:
        return None  # of another version
    if table is None:
        return None
    same = (table.graph_digest, table.set_digest, table.method) == (graph_digest, set_digest, method)
    return table if same and table.format == CalibrationTable.__struct_defaults__[0] else None


def _place(cache: Path, *key: str) -> Path:
    return cache / "calibration" / f"{hashlib.sha256(' '.join(key).encode()).hexdigest()[:32]}.json"
