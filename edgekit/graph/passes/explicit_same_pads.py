"""Gives layers with ``auto_pad`` and dilations their pads as numbers, or a Pad before them.

ONNX Runtime 1.32 refuses such a convolution, and forgets the dilations of such a pooling when it counts the pads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.insert import new_constant

__all__ = ["ExplicitSamePads", "require_explicit_pads"]

_WEIGHT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""The input of each convolution that is its weight."""
_ZERO_POINT = {"ConvInteger": 2, "QLinearConv": 2}
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_SAME = ("SAME_UPPER", "SAME_LOWER")
_WITH_PADS = 13
"""The first opset whose operators compute the pads of a dynamic size."""


class ExplicitSamePads(ir.passes.InPlacePass):
    """Replaces ``auto_pad`` of a dilated convolution or pooling by the pads that ONNX defines for it.

    The output has ``ceil(size / stride)`` elements along each axis, and the pads are split into two halves; of an odd
    number, the larger half is at the end (``SAME_UPPER``) or at the start (``SAME_LOWER``). Pads that depend on a
    dynamic size are computed in the graph, and a Pad before the layer adds them. The same is done with pads as wide as
    the kernel of a pooling, which ONNX Runtime refuses; an average over the elements inside of the image is then
    divided by their share.

    Preconditions: values have their shapes.
    Postconditions: no convolution or pooling has both, except a MaxPool whose indices are read, a layer whose kernel's
        size is not known, and, before opset 13, a layer that needs a Pad; see `require_explicit_pads`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(_with_same_pads(model.graph.all_nodes())):
            pads = _pads(node)
            if pads is not None and not _holds_kernel(node, pads):
                del node.attributes["auto_pad"]
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
                modified = True
            elif model.graph.opset_imports.get("", _WITH_PADS) >= _WITH_PADS and _takes_pad(node):
                _Padded(node).replace()
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def require_explicit_pads(graph: ir.Model) -> None:
    """Checks that no convolution or pooling has ``auto_pad`` and dilations.

    Raises:
        GraphError: one has them; names it.
    """
    for node in _with_same_pads(graph.graph.all_nodes()):
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}': a {node.op_type} with "
            f"auto_pad={node.attributes.get_string('auto_pad', '')} and dilations "
            f"{list(node.attributes.get_ints('dilations', ()))} needs a Pad before it, which is not possible where its "
            "indices are read, its kernel's size is unknown, or the opset is below 13",
            hint="export it with pads",
        )


def _holds_kernel(node: ir.Node, pads: Sequence[int]) -> bool:
    kernel = _kernel(node)
    return node.op_type in _POOLS and any(pad >= size for pad, size in zip(pads, [*kernel, *kernel], strict=True))


def _takes_pad(node: ir.Node) -> bool:
    """Whether a Pad before the node can take the place of its own pads."""
    indices = len(node.outputs) > 1 and bool(node.outputs[1].uses() or node.outputs[1].is_graph_output())
    data = node.inputs[0]
    typed = data is not None and data.dtype is not None
    return typed and not indices and len(_kernel(node)) == len(node.attributes.get_ints("dilations", ()))


def _with_same_pads(nodes: Iterable[ir.Node]) -> Iterable[ir.Node]:
    for node in nodes:
        padded = node.op_type in _WEIGHT or node.op_type in _POOLS
        if node.domain == "" and padded and node.attributes.get_string("auto_pad", "") in _SAME:
            if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", ())):
                yield node


def _reach(node: ir.Node) -> list[int]:
    """Returns how many elements a window spans along each axis."""
    dilations = node.attributes.get_ints("dilations", ())
    return [(window - 1) * dilation + 1 for window, dilation in zip(_kernel(node), dilations, strict=True)]


def _strides(node: ir.Node) -> Sequence[int]:
    return node.attributes.get_ints("strides", [1] * len(_kernel(node)))


def _pads(node: ir.Node) -> list[int] | None:
    """Returns the pads at the start of each axis, then those at the end; None if they are unknown."""
    kernel = _kernel(node)
    if len(kernel) != len(node.attributes.get_ints("dilations", ())):
        return None
    data = node.inputs[0]
    sizes = list(data.shape)[2:] if data is not None and data.shape is not None else [None] * len(kernel)
    totals = []
    for size, reach, stride in zip(sizes, _reach(node), _strides(node), strict=True):
        if stride == 1:
            totals.append(reach - 1)  # for each size
        elif isinstance(size, int):
            totals.append(max(0, (math.ceil(size / stride) - 1) * stride + reach - size))
        else:
            return None
    halves, rest = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return [*halves, *rest] if node.attributes.get_string("auto_pad", "") == "SAME_UPPER" else [*rest, *halves]


def _kernel(node: ir.Node) -> Sequence[int]:
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is not None:
        return kernel
    weight = node.inputs[_WEIGHT[node.op_type]]
    shape = weight.shape if weight is not None else None
    sizes = list(shape)[2:] if shape is not None else []
    return [size for size in sizes if isinstance(size, int)]


class _Padded:
    """Inserts a Pad before a node, with pads that are computed in each run.

    Args:
        node: a convolution or pooling whose input has a type, and whose kernel has a known size.
    """

    def __init__(self, node: ir.Node) -> None:
        assert isinstance(node.graph, ir.Graph)
        self._node, self._graph, self._name = node, node.graph, node.outputs[0].name or ""
        self._nodes: list[ir.Node] = []

    def replace(self) -> None:
        """Inserts it; an average over what is inside of the image gets the share of this too."""
        node, data = self._node, self._node.inputs[0]
        assert data is not None and data.dtype is not None
        sizes = self._sizes(data)
        pads = self._of_sizes(sizes)
        fill = self._fill(data.dtype)
        padded = self._add("Pad", [data, pads] if fill is None else [data, pads, fill], "padded", data.dtype)
        del node.attributes["auto_pad"]
        node.attributes.pop("ceil_mode", None)  # the windows are counted
        node.replace_input_with(0, padded)
        share = self._share_inside(sizes, pads, data.dtype) if self._leaves_pads_out() else None
        self._graph.insert_before(node, self._nodes)
        if share is not None:
            self._divide(share)

    def _leaves_pads_out(self) -> bool:
        return self._node.op_type == "AveragePool" and not self._node.attributes.get_int("count_include_pad", 0)

    def _sizes(self, data: ir.Value) -> ir.Value:
        starts, ends = self._constant("first", [2]), self._constant("last", [2 + len(_kernel(self._node))])
        return self._add("Slice", [self._add("Shape", [data], "shape"), starts, ends], "sizes")

    def _of_sizes(self, sizes: ir.Value) -> ir.Value:
        """Computes ``max(0, (ceil(size / stride) - 1) * stride + reach - size)`` and its halves."""
        strides, one = self._constant("strides", _strides(self._node)), self._constant("one", [1])
        before = self._add("Div", [self._add("Sub", [sizes, one], "less"), strides], "steps")  # ceil(n / s) - 1
        ends = self._add("Add", [self._add("Mul", [before, strides], "last_start"), self._reach()], "end")
        missing = self._add("Sub", [ends, sizes], "missing")
        total = self._add("Max", [missing, self._constant("none", [0])], "total")
        half = self._add("Div", [total, self._constant("two", [2])], "half")
        rest = self._add("Sub", [total, half], "rest")
        begin, end = (half, rest) if self._node.attributes.get_string("auto_pad", "") == "SAME_UPPER" else (rest, half)
        outer = self._constant("outer", [0, 0])
        return self._add("Concat", [outer, begin, outer, end], "pads", attributes={"axis": 0})

    def _reach(self) -> ir.Value:
        return self._constant("reach", _reach(self._node))

    def _fill(self, dtype: ir.DataType) -> ir.Value | None:
        if self._node.op_type == "MaxPool":
            limits = np.iinfo(dtype.numpy()) if dtype.is_integer() else np.finfo(dtype.numpy())
            return new_constant(self._graph, f"{self._name}.lowest", np.asarray(limits.min, dtype.numpy()))
        index = _ZERO_POINT.get(self._node.op_type, len(self._node.inputs))
        zero = self._node.inputs[index] if index < len(self._node.inputs) else None
        tensor = ir.convenience.get_const_tensor(zero) if zero is not None else None
        if tensor is None:
            return zero
        return new_constant(self._graph, f"{self._name}.outside", tensor.numpy().reshape(-1)[0].reshape(()))

    def _share_inside(self, sizes: ir.Value, pads: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Returns which share of each window is inside of the image; that of a window outside is not 0."""
        plane = self._add("Concat", [self._constant("one_plane", [1, 1]), sizes], "plane", attributes={"axis": 0})
        one = ir.tensor(np.ones(1, dtype.numpy()))
        image = self._add("ConstantOfShape", [plane], "image", dtype, attributes={"value": one})
        inside = self._add("Pad", [image, pads], "inside", dtype)
        share = self._add("AveragePool", [inside], "share", dtype, attributes=self._node.attributes)
        least = np.asarray(0.5 / math.prod(_kernel(self._node)), dtype.numpy())
        return self._add("Max", [share, new_constant(self._graph, f"{self._name}.least", least)], "shares", dtype)

    def _divide(self, share: ir.Value) -> None:
        node, output = self._node, self._node.outputs[0]
        mean = ir.node(node.op_type, node.inputs, node.attributes, name=node.name)
        mean.outputs[0].name, mean.outputs[0].type = f"{self._name}.of_all", output.type
        ratio = ir.node("Div", [mean.outputs[0], share], name=f"{self._name}.of_inside")
        ratio.outputs[0].type, ratio.outputs[0].shape = output.type, output.shape
        ir.convenience.replace_nodes_and_values(self._graph, node, [node], [mean, ratio], [output], [ratio.outputs[0]])

    def _constant(self, name: str, numbers: Sequence[int]) -> ir.Value:
        return new_constant(self._graph, f"{self._name}.{name}", np.asarray(numbers, np.int64))

    def _add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType = ir.DataType.INT64,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes or {}, name=f"{self._name}.{name}")
        node.outputs[0].name, node.outputs[0].type = f"{self._name}.{name}.out", ir.TensorType(dtype)
        self._nodes.append(node)
        return node.outputs[0]
