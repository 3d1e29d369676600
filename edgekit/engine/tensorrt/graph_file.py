"""Looks for operators in an ONNX file without a package that parses it, which a board does not have."""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection
from pathlib import Path

__all__ = ["has_bytes", "has_operator"]


def has_operator(graph: Path, names: Collection[str]) -> bool:
    """Whether a graph has a node of one of these operators."""
    # A string of the format is its length and its bytes; field 4 of NodeProto is op_type.
    encoded = b"|".join(re.escape(bytes([len(name)]) + name.encode()) for name in names)
    return has_bytes(graph, b"\x22(?:" + encoded + b")")


def has_bytes(graph: Path, pattern: bytes) -> bool:
    """Whether a regular expression matches anywhere in a file."""
    if not graph.stat().st_size:  # an empty file cannot be mapped
        return False
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return re.search(pattern, data) is not None
