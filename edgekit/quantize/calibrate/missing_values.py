"""Finds values that a model marks as missing with NaN."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["with_missing_values"]

_PLACING = frozenset(
    "Concat Expand Flatten Gather GatherElements GatherND Identity Pad Reshape Scatter ScatterElements ScatterND Slice "
    "Squeeze Tile Transpose Unsqueeze Where".split()
)
"""Operators that place elements and compute nothing with them. What else reads a NaN computes one, such as a layer of
its weights."""


def with_missing_values(graph: ir.Model) -> frozenset[str]:
    """Returns the names of the values that are computed from constants with a NaN that are filled or chosen from.

    A model that predicts some of its outputs only, such as the atoms that a residue has, starts with a tensor of NaN
    and writes into it what it knows. Such a NaN is no fault of the model; one of a layer's weights is.

    Args:
        graph: a graph whose constants are initializers.
    """
    found = [
        value
        for value in graph.graph.initializers.values()
        if all(node.op_type in _PLACING for node, _ in value.uses()) and _has_nan(value.const_value)
    ]
    seen = set(found)
    for value in found:
        outputs = [output for node, _ in value.uses() for output in node.outputs if output not in seen]
        seen.update(outputs)
        found += outputs
    return frozenset(value.name for value in found if value.name)


def _has_nan(tensor: ir.TensorProtocol | None) -> bool:
    if tensor is None or not tensor.dtype.is_floating_point():
        return False
    return bool(np.isnan(np.asarray(tensor.numpy(), np.float32)).any())
