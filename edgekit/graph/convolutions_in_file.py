"""Tells whether a graph has more convolutions than ONNX Runtime can choose memory layouts for in reasonable time.

This module needs no other package: boards that only run engines load it.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from edgekit.graph.wire_format import BYTES, GRAPH, UnknownWireFormatError, fields_of

__all__ = ["MAX_BLOCKED", "has_very_many_convolutions"]

MAX_BLOCKED = 1000
"""Blocked memory layouts are for graphs with at most so many convolutions: to choose them takes about the square of
their number. Of loading 6,000 float convolutions with an output each, it is 3.3 of 3.8 s; of an INT8 engine with 6,000
between residual sums, 3.2 of 5.5 s. No network that is known has as many."""

_NODE = 1  # in GraphProto
_OP_TYPE = 4  # in NodeProto


def has_very_many_convolutions(file: Path) -> bool:
    """Whether the main graph of an ONNX file has more than `MAX_BLOCKED` convolutions; false for a damaged file.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        if opened.seek(0, 2) == 0:
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _counted(content) > MAX_BLOCKED
            except UnknownWireFormatError:
                return False  # the library that loads the file says so


def _counted(content: mmap.mmap) -> int:
    """Returns the number of convolutions; counts no further than one more than `MAX_BLOCKED`."""
    found = 0
    for graph in fields_of(content, 0, len(content)):
        if (graph.number, graph.kind) != (GRAPH, BYTES):
            continue
        nodes = [field for field in fields_of(content, graph.content, graph.end) if field.number == _NODE]
        if len(nodes) <= MAX_BLOCKED:
            continue  # most graphs: their nodes need not be read
        for node in nodes:
            for field in fields_of(content, node.content, node.end):
                if field.number == _OP_TYPE:
                    # Conv, and QLinearConv, FusedConv and others that ONNX Runtime writes.
                    found += content[field.content : field.end].endswith(b"Conv")
                    break
            if found > MAX_BLOCKED:
                return found
    return found
