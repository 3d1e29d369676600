"""Checks that ONNX Runtime can run a graph."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import input_specs
from edgekit.specs import TensorSpec

__all__ = ["check_runs", "sizes_to_run"]

_DYNAMIC_SIZE = 2


def check_runs(graph: ir.Model, sizes: Sequence[Sequence[TensorSpec]] = ()) -> None:
    """Checks that ONNX Runtime can load ``graph`` and run it on zeros.

    Args:
        graph: the graph; it may have dynamic dimensions.
        sizes: sets of inputs with fixed shapes; the graph is run once with each. By default it is run with its own
            shapes, if all are fixed.

    Raises:
        GraphError: names the operator or node that cannot run, or the value that does not fit into memory.
    """
    _require_fitting_memory(graph)
    evaluator = Evaluator(graph)
    own = input_specs(graph)
    fixed = all(isinstance(size, int) for spec in own for size in spec.shape)
    for specs in sizes or ([own] if fixed else []):
        try:
            evaluator.run({spec.name: np.zeros(sizes_to_run(spec), spec.dtype) for spec in specs})
        except GraphError as e:
            text = "; ".join(map(str, specs))
            hint = f"the inputs were zeros of {text}; if these sizes are wrong, set others with --input or --shape"
            raise GraphError(e.message, hint=hint) from e


def _require_fitting_memory(graph: ir.Model) -> None:
    """Checks that each value with a fixed shape is smaller than the memory: a file of bytes can declare terabytes."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for value in (*graph.graph.inputs, *(value for node in graph.graph for value in node.outputs)):
        if value.shape is None or value.dtype in (None, ir.DataType.STRING) or not value.shape.is_static():
            continue
        needed = math.prod(value.shape.numpy()) * value.dtype.itemsize
        if needed > available:
            shape = "x".join(map(str, value.shape.numpy()))
            raise GraphError(
                f"'{value.name}' {shape}: expected at most {available / 2**30:,.0f} GiB, the memory of this machine, "
                f"got {needed / 2**30:,.0f} GiB",
                hint="if the size of an input is wrong, set another with --input or --shape",
            )


def sizes_to_run(spec: TensorSpec) -> tuple[int, ...]:
    """Returns the shape to run an input with: a dynamic dimension has size 2."""
    return tuple(size if isinstance(size, int) else _DYNAMIC_SIZE for size in spec.shape)
