"""Weights and bias of a convolution or matrix product, by channel: read, and replaced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import BIASED_PRODUCTS

__all__ = ["Layer", "constant_array"]


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """Returns the array of a constant; None for other values, and for the default of an input."""
    if value is None or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()


@dataclass(frozen=True, eq=False)
class Layer:
    """A product with constant weights of a floating-point type.

    Attributes:
        node: Conv, ConvTranspose, Gemm, or MatMul whose second factor is the weights.
        weight: the weights as the node has them.
        added: the Add of a constant behind a MatMul, which is its bias; None if there is none.
    """

    node: ir.Node
    weight: np.ndarray
    added: ir.Node | None = None

    @classmethod
    def of(cls, node: ir.Node) -> Layer | None:
        """Returns the layer whose product is ``node``; None if it is no product or has no constant weights."""
        if node.domain != "" or node.op_type not in (*BIASED_PRODUCTS, "MatMul"):
            return None
        weight = constant_array(node.inputs[1])
        fits = weight is not None and weight.dtype.kind == "f" and weight.ndim >= 2
        if weight is None or not fits or (weight.ndim > 2 and node.op_type == "MatMul"):
            return None
        return cls(node, weight)

    @classmethod
    def ending_in(cls, add: ir.Node) -> Layer | None:
        """Returns the layer of a MatMul whose bias is the constant of ``add``; None if that is something else."""
        if add.op_type != "Add" or add.domain != "":
            return None
        for value in add.inputs:
            product = value.producer() if value is not None else None
            if value is None or product is None or product.op_type != "MatMul" or product.graph is not add.graph:
                continue
            layer = cls.of(product)
            if layer is not None and len(value.uses()) == 1 and not value.is_graph_output():
                with_bias = cls(product, layer.weight, add)
                return with_bias if with_bias.bias() is not None else None
        return None

    @property
    def output(self) -> ir.Value:
        """The result, with the bias."""
        return (self.added or self.node).outputs[0]

    @property
    def channels(self) -> int:
        """Number of output channels."""
        if self.node.op_type == "ConvTranspose":
            return int(self.weight.shape[1]) * self.groups
        return int(self.weight.shape[0 if self._rows_are_outputs else 1])

    @property
    def input_channels(self) -> int:
        """Number of input channels."""
        if self.node.op_type == "Conv":
            return int(self.weight.shape[1]) * self.groups
        return int(self.weight.shape[1 if self._rows_are_outputs else 0])

    @property
    def groups(self) -> int:
        """Number of groups of a convolution; 1 for other products."""
        return self.node.attributes.get_int("group", 1)

    @property
    def rank(self) -> int | None:
        """Number of dimensions of input and output; None if it is unknown."""
        if self.node.op_type != "MatMul":
            return self.weight.ndim
        shape = self.node.outputs[0].shape
        return None if shape is None else len(shape)

    @property
    def axis(self) -> int:
        """Axis of the channels of input and output, counted from the end: -1 is the last."""
        return 1 - self.weight.ndim if self.node.op_type in ("Conv", "ConvTranspose") else -1

    @property
    def _rows_are_outputs(self) -> bool:
        return self.node.op_type == "Conv" or self.node.attributes.get_int("transB", 0) == 1

    def bias(self) -> np.ndarray | None:
        """Returns the bias per channel in float64, zeros if there is none, or None if it is something else."""
        if self.added is not None:
            arrays = [constant_array(value) for value in self.added.inputs]
            bias = next((array for array in arrays if array is not None), None)
        elif self.node.op_type == "MatMul" or len(self.node.inputs) < 3 or self.node.inputs[2] is None:
            return np.zeros(self.channels)
        else:
            bias = constant_array(self.node.inputs[2])
        if bias is None or bias.size not in (1, self.channels) or bias.shape[-1:] not in ((), (1,), (self.channels,)):
            return None
        if self.added is not None and bias.ndim > 1:
            return None
        beta = self.node.attributes.get_float("beta", 1.0)
        return np.broadcast_to(bias.astype(np.float64).reshape(-1), (self.channels,)) * beta

    @property
    def has_bias(self) -> bool:
        """Whether the graph has an array for the bias."""
        return self.added is not None or (len(self.node.inputs) > 2 and self.node.inputs[2] is not None)

    def by_channel(self, numbers: np.ndarray) -> np.ndarray:
        """Reshapes one number per output channel to broadcast to the weights.

        Conv has weights ``(c_out, c_in / groups, ...)``, Gemm ``(c_in, c_out)`` or its transpose, ConvTranspose
        ``(c_in, c_out / groups, ...)`` with the groups along the first axis.
        """
        if self.node.op_type == "ConvTranspose":
            by_group = np.repeat(numbers.reshape(self.groups, -1), self.weight.shape[0] // self.groups, axis=0)
            return by_group.reshape(by_group.shape + (1,) * (self.weight.ndim - 2))
        if not self._rows_are_outputs:
            return numbers[np.newaxis, :]
        return numbers.reshape((-1,) + (1,) * (self.weight.ndim - 1))

    def by_input_channel(self, numbers: np.ndarray) -> np.ndarray:
        """Reshapes one number per input channel to broadcast to the weights; see `by_channel`."""
        if self.node.op_type == "Conv":
            by_group = np.repeat(numbers.reshape(self.groups, -1), self.weight.shape[0] // self.groups, axis=0)
            return by_group.reshape(by_group.shape + (1,) * (self.weight.ndim - 2))
        if self._rows_are_outputs:
            return numbers[np.newaxis, :]
        return numbers.reshape((-1,) + (1,) * (self.weight.ndim - 1))

    def replace(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        """Gives the layer other weights and another bias.

        Args:
            weight: in the shape and type of `weight`. Weights that other nodes read too are copied.
            bias: one number per channel; None leaves it as it is.
        """
        _replace_input(self.node, 1, weight)
        if bias is None:
            return
        if self.added is not None:
            arrays = [constant_array(value) is not None for value in self.added.inputs]
            _replace_input(self.added, arrays.index(True), bias)
            return
        if self.node.op_type == "MatMul":
            raise ValueError(f"'{self.node.name}' is a MatMul without a bias")
        _replace_input(self.node, 2, bias)
        self.node.attributes.pop("beta", None)


def _replace_input(node: ir.Node, index: int, array: np.ndarray) -> None:
    """Replaces an input of ``node`` with the initializer ``array``; reuses the old name if nothing else uses it."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is not None and _is_own(old) and old.const_value is not None and old.const_value.shape == array.shape:
        old.const_value = ir.tensor(array, name=old.name)
        return
    name = _name_of_part(node, index, graph)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    if index == len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
    if (
        old is not None
        and not old.uses()
        and graph.initializers.get(old.name or "") is old
        and not old.is_graph_output()
    ):
        del graph.initializers[old.name or ""]
    graph.register_initializer(value)


def _is_own(value: ir.Value) -> bool:
    """Whether one node alone reads an initializer, which is no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _name_of_part(node: ir.Node, index: int, graph: ir.Graph) -> str:
    """Returns a unique name: ``backbone.conv.bias`` for ``backbone.conv.weight``, otherwise from the node's name."""
    weight = node.inputs[1]
    stem = (weight.name or "").removesuffix("weight") if weight is not None and _is_own(weight) else ""
    if index == 2 and stem.endswith("."):
        name = f"{stem}bias"
    else:
        part = "weight" if index == 1 and node.op_type != "Add" else "bias"
        name = f"{node.name or node.outputs[0].name}.{part}"
    free = node.inputs[index] if index < len(node.inputs) else None
    while name in graph.initializers and not (free is graph.initializers[name] and _is_own(free)):
        name += "_folded"
    return name
