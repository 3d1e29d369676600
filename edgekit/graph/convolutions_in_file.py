"""Tells how many convolutions a file has, and whether Transposes beside them: it decides how ONNX Runtime loads it.

This module needs no other package: boards that only run engines load it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgekit.graph.wire_format import BYTES, GRAPH, UnknownWireFormatError, fields_of

__all__ = ["MAX_BLOCKED", "has_float_convolutions_and_transposes", "has_very_many_convolutions"]

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
    found = 0
    # Conv, and QLinearConv, FusedConv and others that ONNX Runtime writes. The nodes of most graphs need not be read.
    for operator in _operators(file, least_nodes=MAX_BLOCKED + 1):
        found += operator.endswith(b"Conv")
        if found > MAX_BLOCKED:
            return True
    return False


def has_float_convolutions_and_transposes(file: Path) -> bool:
    """Whether the main graph of an ONNX file has both; false for a damaged file.

    Raises:
        OSError: the file cannot be read.
    """
    operators = set(_operators(file))
    return b"Transpose" in operators and not operators.isdisjoint((b"Conv", b"FusedConv"))


def _operators(file: Path, least_nodes: int = 0) -> Iterator[bytes]:
    """Yields the operator of each node of the main graph, if it has so many nodes; ends where the file is damaged."""
    with file.open("rb") as opened:
        if opened.seek(0, 2) == 0:
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # The library that loads a damaged file says what is wrong with it.
            with suppress(UnknownWireFormatError):
                yield from _operators_of(content, least_nodes)


def _operators_of(content: mmap.mmap, least_nodes: int) -> Iterator[bytes]:
    for graph in fields_of(content, 0, len(content)):
        if (graph.number, graph.kind) != (GRAPH, BYTES):
            continue
        nodes = [field for field in fields_of(content, graph.content, graph.end) if field.number == _NODE]
        if len(nodes) < least_nodes:
            continue
        for node in nodes:
            for field in fields_of(content, node.content, node.end):
                if field.number == _OP_TYPE:
                    yield content[field.content : field.end]
                    break
