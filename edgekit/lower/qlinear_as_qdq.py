"""Replaces ONNX Runtime's integer operators by float ones between Q/DQ pairs, for backends without these operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import initializer, new_node, stored_constant

__all__ = ["QLinearAsQdq"]

_OWN_ATTRIBUTES = frozenset({"channels_last", "opset"})
"""Attributes of ONNX Runtime's operators that ONNX's do not have."""
_COERCED = 13
"""Before this opset, a Softmax takes the axes from ``axis`` on as one."""


class QLinearAsQdq(ir.passes.InPlacePass):
    """Replaces ``QLinearConv`` and its like by ``DequantizeLinear``, the float operator, and ``QuantizeLinear``.

    TensorRT has none of them. OpenVINO 2026.4 has no QLinearConv, and computes those of ONNX Runtime's domain wrongly:
    where a result is beyond 8 bits, it keeps the last 8 instead of the largest number (QLinearAdd of 4.0 and 4.0 is
    -2.5), and rounds down.

    Preconditions: the opset is 13 or newer; values have their types and ranks.
    Postconditions: operators of the table are replaced, also in subgraphs, except those with channels last, and a
        Softmax of an old opset that is not over the last axis. Names stay; results are the same up to one step.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            replace = _TABLE.get(node.op_type)
            if replace is not None and not node.attributes.get_int("channels_last", 0):
                modified |= replace(_Rewriter(node))
        return ir.passes.PassResult(model, modified=modified)


class _Rewriter:
    """Builds the nodes that replace ``node``.

    Attributes:
        node: a node with one output.
    """

    def __init__(self, node: ir.Node) -> None:
        assert isinstance(node.graph, ir.Graph)
        self.node, self._graph, self._nodes = node, node.graph, list[ir.Node]()
        self._name = node.outputs[0].name or ""

    def input(self, index: int) -> ir.Value | None:
        """Returns an input of the node; None if it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def dequantized(self, index: int, axis: int | None = None) -> ir.Value:
        """Adds a DequantizeLinear of the input ``index``, whose scale and zero point follow it.

        Args:
            index: of the integers.
            axis: of the scale, if it is a vector.
        """
        integers, scale, zero = (self.input(index + offset) for offset in range(3))
        vector = axis is not None and _elements(scale) != 1
        attributes = {"axis": axis} if vector and axis is not None else {}
        inputs = [integers, *(each if vector else self._scalar(each) for each in (scale, zero))]
        return self._add("DequantizeLinear", inputs[: 2 if zero is None else 3], attributes, f"{index}.dequantized")

    def bias(self, index: int, *, of: tuple[int, int], factor: float = 1.0) -> ir.Value | None:
        """Adds the floats of an integer bias, whose scale is the product of the scales ``of`` and ``factor``."""
        integers = self.input(index)
        if integers is None:
            return None
        scales = [self.input(each) for each in of]
        tensor, first, second = (stored_constant(value) for value in (integers, *scales))
        if tensor is not None and first is not None and second is not None:
            scale = np.float32(factor) * first.numpy().reshape(-1) * second.numpy().reshape(-1)
            return initializer(self._graph, f"{self._name}.bias", (tensor.numpy() * scale).astype(np.float32))
        floats = self._add("Cast", [integers], {"to": ir.DataType.FLOAT.value}, "bias_as_float")
        if factor != 1.0:
            number = initializer(self._graph, f"{self._name}.factor", np.asarray(factor, np.float32))
            floats = self._add("Mul", [floats, number], {}, "bias_times_factor")
        for number_of, scale_value in enumerate(scales):
            floats = self._add("Mul", [floats, scale_value], {}, f"bias_times_{number_of}")
        return floats

    def operator(
        self, name: str, inputs: list[ir.Value | None], attributes: Mapping[str, ir.Attr] | None = None
    ) -> ir.Value:
        """Adds the float operator, with the name of the node."""
        while inputs and inputs[-1] is None:
            inputs.pop()
        result = self._add(name, inputs, {}, "float", node_name=self.node.name)
        kept = self.node.attributes if attributes is None else attributes
        for attribute in kept.values():
            if attribute.name not in _OWN_ATTRIBUTES:
                self._nodes[-1].attributes[attribute.name] = attribute
        return result

    def finish(self, result: ir.Value, scale: int | None) -> bool:
        """Quantizes the result, with the scale of input ``scale`` and the zero point behind it, and replaces the node.

        Args:
            result: a float value.
            scale: index of the scale; None or that of an omitted input: the result stays float.
        """
        assert self.node.graph is not None
        if scale is not None and self.input(scale) is not None:
            zero = self._scalar(self.input(scale + 1))
            if zero is None:
                dtype = self.node.outputs[0].dtype or ir.DataType.UINT8
                zero = initializer(self._graph, f"{self._name}.zero_point", np.zeros((), dtype.numpy()))
            result = self._add("QuantizeLinear", [result, self._scalar(self.input(scale)), zero], {}, "quantized")
        result.name = None
        old = self.node.outputs
        ir.convenience.replace_nodes_and_values(self.node.graph, self.node, [self.node], self._nodes, old, [result])
        return True

    def _add(
        self,
        operator: str,
        inputs: list[ir.Value | None],
        attributes: Mapping[str, int],
        suffix: str,
        node_name: str | None = None,
    ) -> ir.Value:
        name = f"{self._name}.{suffix}"
        self._nodes.append(new_node(operator, inputs, attributes, name=node_name or name, output=name))
        return self._nodes[-1].outputs[0]

    def _scalar(self, value: ir.Value | None) -> ir.Value | None:
        """Returns a value of one element without axes: a vector would be one element for each channel."""
        tensor = stored_constant(value)
        if value is None or tensor is None or not len(tensor.shape) or _elements(value) != 1:
            return value
        name = f"{self._name}.{len(self._nodes)}.{value.name}"
        return initializer(self._graph, name, tensor.numpy().reshape(()))


def _elements(value: ir.Value | None) -> int:
    tensor = stored_constant(value)
    shape = tensor.shape if tensor is not None else value.shape if value is not None else None
    return int(np.prod([size if isinstance(size, int) else 2 for size in shape])) if shape is not None else 1


def _conv(make: _Rewriter) -> bool:
    inputs = [make.dequantized(0), make.dequantized(3, axis=0), make.bias(8, of=(1, 4))]
    return make.finish(make.operator("Conv", inputs), 6)


def _matmul(make: _Rewriter) -> bool:
    if _elements(make.input(1)) != 1:
        return False  # a scale for each row
    second = make.input(3)
    rank = len(second.shape) if second is not None and second.shape is not None else 2
    return make.finish(make.operator("MatMul", [make.dequantized(0), make.dequantized(3, axis=rank - 1)]), 6)


def _gemm(make: _Rewriter) -> bool:
    rows = make.node.attributes.get_int("transB", 0)
    alpha = make.node.attributes.get_float("alpha", 1.0)
    inputs = [make.dequantized(0), make.dequantized(3, axis=0 if rows else 1)]
    return make.finish(make.operator("Gemm", [*inputs, make.bias(6, of=(1, 4), factor=alpha)]), 7)


def _pair(operator: str) -> Callable[[_Rewriter], bool]:
    return lambda make: make.finish(make.operator(operator, [make.dequantized(0), make.dequantized(3)]), 6)


def _single(operator: str) -> Callable[[_Rewriter], bool]:
    return lambda make: make.finish(make.operator(operator, [make.dequantized(0)]), 3)


def _softmax(make: _Rewriter) -> bool:
    data, axis = make.node.inputs[0], make.node.attributes.get_int("axis", -1)
    rank = len(data.shape) if data is not None and data.shape is not None else None
    last = axis == -1 or (rank is not None and axis == rank - 1)
    if make.node.attributes.get_int("opset", _COERCED) < _COERCED and not last:
        return False
    return make.finish(make.operator("Softmax", [make.dequantized(0)], {"axis": ir.AttrInt64("axis", axis)}), 3)


def _concat(make: _Rewriter) -> bool:
    parts = [make.dequantized(index) for index in range(2, len(make.node.inputs), 3)]
    return make.finish(make.operator("Concat", [*parts]), 0)


def _where(make: _Rewriter) -> bool:
    return make.finish(make.operator("Where", [make.input(0), make.dequantized(1), make.dequantized(4)]), 7)


_TABLE: Mapping[str, Callable[[_Rewriter], bool]] = {
    "QGemm": _gemm,
    "QLinearAdd": _pair("Add"),
    "QLinearAveragePool": _single("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _single("GlobalAveragePool"),
    "QLinearLeakyRelu": _single("LeakyRelu"),
    "QLinearMatMul": _matmul,
    "QLinearMul": _pair("Mul"),
    "QLinearSigmoid": _single("Sigmoid"),
    "QLinearSoftmax": _softmax,
    "QLinearWhere": _where,
}
