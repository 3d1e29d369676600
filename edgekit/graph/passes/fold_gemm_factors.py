"""Folds the factors of a Gemm into its weights and its bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_constant
from edgekit.graph.layer_weights import constant_array

__all__ = ["FoldGemmFactors"]

_PLACES = {"alpha": 1, "beta": 2}
"""Which input each factor of a Gemm multiplies."""


class FoldGemmFactors(ir.passes.InPlacePass):
    """Multiplies constant weights of a ``Gemm`` by its ``alpha``, and a constant bias by its ``beta``.

    jax2onnx writes each product of matrices as a Gemm with ``beta=0`` and a bias that says nothing. Integers are not
    multiplied by such factors, so that the product stayed in float.

    Preconditions: Constant nodes have been converted (`FoldConstants`).
    Postconditions: a Gemm has a factor other than 1 only beside weights or a bias that are not constant, or not finite.
        A bias times 0 is removed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = [
            _fold(node, name, model.graph)
            for node in list(model.graph)
            if node.op_type == "Gemm" and node.domain in ("", "ai.onnx")
            for name in _PLACES
        ]
        return ir.passes.PassResult(model, modified=any(changed))


def _fold(node: ir.Node, name: str, graph: ir.Graph) -> bool:
    factor, place = node.attributes.get_float(name, 1.0), _PLACES[name]
    value = node.inputs[place] if place < len(node.inputs) else None
    array = constant_array(value)
    if factor == 1.0 or (value is not None and (array is None or not np.isfinite(array).all())):
        return False
    if name == "beta" and factor == 0.0:
        node.resize_inputs(place)
    elif value is not None and array is not None:
        scaled = (array * np.float64(factor)).astype(array.dtype)
        node.replace_input_with(place, new_constant(graph, f"{node.outputs[0].name}.{name}_{value.name}", scaled))
    del node.attributes[name]
    return True
