"""Checks that the values of a graph fit into memory before it is run: a file of bytes can declare terabytes."""

from __future__ import annotations

import math
import os

import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError

__all__ = ["require_fitting_memory"]


def require_fitting_memory(graph: ir.Model) -> None:
    """Checks that each value with a fixed shape is smaller than this machine's memory, and no size is negative.

    Raises:
        GraphError: one is not; names it.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for value in (*graph.graph.inputs, *(value for node in graph.graph for value in node.outputs)):
        if value.shape is None or value.dtype in (None, ir.DataType.STRING) or not value.shape.is_static():
            continue
        sizes = value.shape.numpy()
        shape = "x".join(map(str, sizes))
        if any(size < 0 for size in sizes):  # what a kernel, a pad or a scale that is far too large leaves
            raise GraphError(
                f"'{value.name}' {shape}: expected sizes of 0 or more",
                hint=f"if the size of an input is wrong, set another with {argument('input')} or {argument('shape')}",
            )
        needed = math.prod(sizes) * value.dtype.itemsize
        if needed > available:
            raise GraphError(
                f"'{value.name}' {shape}: expected at most {available / 2**30:,.0f} GiB, the memory of this machine, "
                f"got {needed / 2**30:,.0f} GiB",
                hint=f"if the size of an input is wrong, set another with {argument('input')} or {argument('shape')}",
            )
