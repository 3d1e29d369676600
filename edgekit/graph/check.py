"""Checks that ONNX Runtime can run a graph."""

from __future__ import annotations

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
        GraphError: names the operator or node that cannot run.
    """
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


def sizes_to_run(spec: TensorSpec) -> tuple[int, ...]:
    """Returns the shape to run an input with: a dynamic dimension has size 2."""
    return tuple(size if isinstance(size, int) else _DYNAMIC_SIZE for size in spec.shape)
