"""Multiplies transposed matrices by columns instead of vectors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["ColumnOfVector"]


class ColumnOfVector(ir.passes.InPlacePass):
    """Replaces ``Transpose(a) @ v``, where ``v`` is a vector, by ``Squeeze(Transpose(a) @ column)``; the same for rows.

    ONNX Runtime (1.32) fuses the Transpose into a ``FusedMatMul`` that reads the matrix in the wrong order if the other
    factor is a vector. Its optimizations are on in engines and in calibration.

    Preconditions: shapes have been inferred (`InferShapes`).
    Postconditions: no MatMul of a vector reads a Transpose. The new MatMul has the name of the old one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if node.op_type == "MatMul" and node.domain in ("", "ai.onnx"):
                left, right = node.inputs
                if _is_vector(right) and _is_transposed(left):
                    modified = _replace(node, 1)
                elif _is_vector(left) and _is_transposed(right):
                    modified = _replace(node, 0)
        return ir.passes.PassResult(model, modified=modified)


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 1


def _is_transposed(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "Transpose"


def _replace(node: ir.Node, index: int) -> bool:
    """Gives the vector at ``index`` a second axis, and removes that axis from the product."""
    graph, old = node.graph, node.outputs[0]
    assert graph is not None
    axis = -1 if index == 1 else -2
    name = node.name or old.name or ""
    added, removed = (_axes(name, end, at) for end, at in (("unsqueeze", 1 if index == 1 else 0), ("squeeze", axis)))
    matrix = ir.node("Unsqueeze", [node.inputs[index], added.outputs[0]], name=f"{name}.unsqueeze")
    factors = [matrix.outputs[0] if i == index else value for i, value in enumerate(node.inputs)]
    product = ir.node("MatMul", factors, name=node.name)
    result = ir.node("Squeeze", [product.outputs[0], removed.outputs[0]], name=f"{name}.squeeze")
    for part in (matrix, product):
        part.outputs[0].name, part.outputs[0].type = f"{name}.{part.op_type.lower()}.out", old.type
    graph.insert_before(node, [added, matrix, product, removed, result])
    new = result.outputs[0]
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, old.name
    graph.remove(node, safe=True)
    return True


def _axes(name: str, end: str, axis: int) -> ir.Node:
    node = ir.node("Constant", [], name=f"{name}.{end}.axes")
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array([axis], np.int64)))
    node.outputs[0].name, node.outputs[0].type = f"{name}.{end}.axes.out", ir.TensorType(ir.DataType.INT64)
    return node
