"""Reads and writes calibration tables: in a bundle, for people to read, and in the user's cache, for later builds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgekit.json_data import decoded_json
from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.storage import write_atomic

__all__ = ["cached_table", "keep_table", "write_table"]


def write_table(table: CalibrationTable, path: Path) -> None:
    """Writes ``calibration.json``, indented; replaces an older file atomically."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def keep_table(table: CalibrationTable, cache: Path) -> None:
    """Writes the table to the cache, where `cached_table` finds it."""
    write_table(table, _place(cache, table.graph_digest, table.set_digest, table.method))


def cached_table(cache: Path, *, graph_digest: str, set_digest: str, method: str) -> CalibrationTable | None:
    """Reads the cached calibration of the same graph on the same inputs by the same method; None if there is none.

    A file that is damaged, or has another format version, counts as none.
    """
    path = _place(cache, graph_digest, set_digest, method)
    try:
        table = decoded_json(path.read_bytes(), CalibrationTable)
    except (OSError, msgspec.DecodeError):
        return None
    same = (table.graph_digest, table.set_digest, table.method) == (graph_digest, set_digest, method)
    return table if same and table.format == CalibrationTable.__struct_defaults__[0] else None


def _place(cache: Path, *key: str) -> Path:
    return cache / "calibration" / f"{hashlib.sha256(' '.join(key).encode()).hexdigest()[:32]}.json"
