"""Replaces linear models, and what stands before and behind them, by ONNX's operators for tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.passes.decomposing import DecomposePass, Decomposition, Parts

__all__ = ["DecomposeMl"]

_INTEGERS_OR_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64})


class DecomposeMl(DecomposePass):
    """Replaces operators of ``ai.onnx.ml`` that are arithmetic: scaled inputs, linear models, norms, selected columns.

    skl2onnx and onnxmltools write them. Only ONNX Runtime has them, and none is quantized. The formulas are in ONNX's
    ``docs/Operators-ml.md``.

    Preconditions: the opset is 20 or newer; values have their types and ranks; floats are float32.
    Postconditions: a product that replaces an operator has its name. Trees, support vectors and text stay, and so do
        classes that are texts, and forms whose results depend on ONNX Runtime.
    """

    def __init__(self) -> None:
        super().__init__("ai.onnx.ml", _TABLE)

    def takes(self, node: ir.Node) -> bool:
        """See `DecomposePass.takes`."""
        return node.inputs[0] is not None and node.inputs[0].dtype in _INTEGERS_OR_FLOATS


def _floats(node: ir.Node, parts: Parts) -> ir.Value | None:
    value = node.inputs[0]
    if value is None or value.dtype is ir.DataType.FLOAT:
        return value
    return parts.add("Cast", value, to=ir.DataType.FLOAT.value)


def _rank(node: ir.Node) -> int:
    """Returns the number of dimensions of the first input; 0 if it is not known."""
    data = node.inputs[0]
    return len(data.shape) if data is not None and data.shape is not None else 0


def _given(node: ir.Node, name: str) -> np.ndarray:
    return np.asarray(node.attributes.get_floats(name, ()), np.float32)


def _scaler(node: ir.Node, parts: Parts) -> Sequence[ir.Value] | None:
    offset, scale = _given(node, "offset"), _given(node, "scale")
    if not offset.size or not scale.size:
        return None
    centered = parts.add("Sub", _floats(node, parts), parts.array(offset))
    return [parts.add("Mul", centered, parts.array(scale))]


def _linear(node: ir.Node, parts: Parts, count: int) -> ir.Value | None:
    """Adds a linear model of ``count`` results; None if the coefficients are those of another number."""
    coefficients, intercepts = _given(node, "coefficients"), _given(node, "intercepts")
    if _rank(node) != 2 or not coefficients.size or coefficients.size % count or intercepts.size not in (0, count):
        return None
    weights = np.ascontiguousarray(coefficients.reshape(count, -1).T)
    result = parts.add("MatMul", _floats(node, parts), parts.array(weights))
    return parts.add("Add", result, parts.array(intercepts)) if intercepts.size else result


def _linear_regressor(node: ir.Node, parts: Parts) -> Sequence[ir.Value] | None:
    if node.attributes.get_string("post_transform", "NONE") != "NONE":
        return None
    result = _linear(node, parts, node.attributes.get_int("targets", 1))
    return None if result is None else [result]


def _linear_classifier(node: ir.Node, parts: Parts) -> Sequence[ir.Value] | None:
    classes = np.asarray(node.attributes.get_ints("classlabels_ints", ()), np.int64)
    transform = node.attributes.get_string("post_transform", "NONE")
    if classes.size < 2 or transform not in ("NONE", "SOFTMAX", "LOGISTIC"):
        return None
    scores = _linear(node, parts, classes.size)
    if scores is None:
        return None
    label = parts.add("Gather", parts.array(classes), parts.add("ArgMax", scores, axis=1, keepdims=0))
    if transform == "SOFTMAX":
        scores = parts.add("Softmax", scores, axis=1)
    elif transform == "LOGISTIC":
        scores = parts.add("Sigmoid", scores)
    return [label, scores]


def _normalizer(node: ir.Node, parts: Parts) -> Sequence[ir.Value] | None:
    """Adds the division of each row by its norm, if that is not 0."""
    norm = node.attributes.get_string("norm", "MAX")
    if norm not in ("L1", "L2") or _rank(node) != 2:
        return None
    data = _floats(node, parts)
    axis = parts.array(np.asarray([1]))
    size = parts.add("ReduceL1" if norm == "L1" else "ReduceL2", data, axis, keepdims=1)
    zero = parts.add("Equal", size, parts.number(0.0))
    return [parts.add("Div", data, parts.add("Where", zero, parts.number(1.0), size))]


def _selected(node: ir.Node, parts: Parts) -> Sequence[ir.Value] | None:
    data, places = node.inputs
    rank = _rank(node)
    if not rank:
        return None
    columns = parts.add("Gather", data, parts.add("Reshape", places, parts.array(np.asarray([-1]))), axis=-1)
    return [columns if rank > 1 else parts.add("Reshape", columns, parts.array(np.asarray([1, -1])))]


def _binarizer(node: ir.Node, parts: Parts) -> Sequence[ir.Value]:
    larger = parts.add("Greater", _floats(node, parts), parts.number(node.attributes.get_float("threshold", 0.0)))
    return [parts.add("Cast", larger, to=ir.DataType.FLOAT.value)]


_TABLE: dict[str, Decomposition] = {
    "ArrayFeatureExtractor": _selected,
    "Binarizer": _binarizer,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "Scaler": _scaler,
}
