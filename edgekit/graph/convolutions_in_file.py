"""Tells how many convolutions a file has, and whether Transposes beside them: it decides how ONNX Runtime loads it.

This module needs no other package: boards that only run engines load it.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgekit.graph.wire_format import BYTES, GRAPH, UnknownWireFormatError, fields_of

__all__ = [
    "MAX_BLOCKED",
    "has_float_convolutions_and_transposes",
    "has_very_many_convolutions",
    "operators_in_file",
]

MAX_BLOCKED = 1000
"""Blocked memory layouts are for graphs with at most so many convolutions: to choose them takes about the square of
their number. Of loading 6,000 float convolutions with an output each, it is 3.3 of 3.8 s; of an INT8 engine with 6,000
between residual sums, 3.2 of 5.5 s. No network that is known has as many."""

_NODE = 1  # in GraphProto
_OP_TYPE = 4  # in NodeProto


def operators_in_file(file: Path) -> Counter[bytes]:
    """Counts the operators of the main graph of an ONNX file; none for a damaged file.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        if opened.seek(0, 2) == 0:
            return Counter()
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return Counter(_operators_of(content))
            except UnknownWireFormatError:
                return Counter()  # the library that loads the file says so


def has_very_many_convolutions(operators: Counter[bytes]) -> bool:
    """Whether there are more than `MAX_BLOCKED` convolutions."""
    # Conv, and QLinearConv, FusedConv and others that ONNX Runtime writes.
    return sum(count for operator, count in operators.items() if operator.endswith(b"Conv")) > MAX_BLOCKED


def has_float_convolutions_and_transposes(operators: Counter[bytes]) -> bool:
    """Whether there are both."""
    return b"Transpose" in operators and (b"Conv" in operators or b"FusedConv" in operators)


def _operators_of(content: mmap.mmap) -> Iterator[bytes]:
    for graph in fields_of(content, 0, len(content)):
        if (graph.number, graph.kind) != (GRAPH, BYTES):
            continue
        for node in fields_of(content, graph.content, graph.end):
            if node.number != _NODE:
                continue
            for field in fields_of(content, node.content, node.end):
                if field.number == _OP_TYPE:
                    yield content[field.content : field.end]
                    break
