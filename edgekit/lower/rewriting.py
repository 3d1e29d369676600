"""What the passes share: how a pass goes through a graph, what they ask of values, and how they put nodes in."""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.file import set_input_shapes
from edgekit.graph.passes import RemoveDead
from edgekit.specs import ShapeRange

__all__ = [
    "NCHW",
    "NHWC",
    "RUNTIME_DOMAIN",
    "NotApplicable",
    "RewritePass",
    "constant",
    "dequantizer",
    "element_count",
    "initializer",
    "lower",
    "new_node",
    "replace_node",
    "stored_constant",
    "transposed",
    "usual_element_counts",
]

RUNTIME_DOMAIN = "com.microsoft"
"""Of the operators that only ONNX Runtime has."""

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Orders of axes: which ones of a tensor with channels first make one with channels last, and the other way round."""

_BYTES = frozenset({ir.DataType.UINT8, ir.DataType.INT8})
_log = logging.getLogger(__name__)


class NotApplicable(Exception):
    """Why a node is left as it is."""


class RewritePass(ir.passes.InPlacePass):
    """Rewrites the nodes of one operator, where that is possible and pays, in the order of the graph.

    Nodes in the graphs inside of other nodes stay. For each node of the operator that stays, the reason is logged at
    level DEBUG.

    Attributes:
        operator: the operator's name.
    """

    operator: str

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in [node for node in model.graph if node.op_type == self.operator]:
            try:
                self.rewrite(node, model.graph)
                modified = True
            except NotApplicable as reason:
                name = node.name or node.outputs[0].name
                _log.debug("%s: %s '%s' stays: %s", type(self).__name__, self.operator, name, reason)
        return ir.passes.PassResult(model, modified=modified)

    @abc.abstractmethod
    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """Puts other nodes in the place of ``node``, or in front of it.

        Raises:
            NotApplicable: the node stays; nothing was changed.
        """


def lower(model: ir.Model, passes: Sequence[ir.passes.InPlacePass]) -> bool:
    """Runs the passes, one after the other, and takes out what nothing reads any more; whether there was anything."""
    modified = any([one(model).modified for one in passes])
    if modified:
        RemoveDead()(model)
    return modified


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The initializer that ``value`` is, maybe in a file of weights, which is not read; None for what is no constant.

    An initializer that is an input too is the input's default, and no constant.
    """
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def stored_constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The same, without what lies in a file of weights: graphs with such files are too large to be rewritten."""
    tensor = constant(value)
    return None if isinstance(tensor, ir.ExternalTensor) else tensor


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes ``value`` of bytes, float32, with constant scales and zero points."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return None
    scale, zero = (constant(parameter) for parameter in node.inputs[1:3])
    if scale is None or zero is None or scale.dtype != ir.DataType.FLOAT or zero.dtype not in _BYTES:
        return None
    return node


def usual_element_counts(model: ir.Model, shapes: Mapping[str, ShapeRange]) -> dict[str, int]:
    """How many elements the computed values have at the usual sizes, by name; without those that inference misses.

    Args:
        model: is not changed; its weights are not read.
        shapes: of the inputs whose sizes are chosen at run time; without any, the result is empty.
    """
    if not shapes:
        return {}
    sized = model.clone(deep_copy=False)
    set_input_shapes(sized, {name: sizes.opt for name, sizes in shapes.items()})
    values = (value for node in sized.graph for value in node.outputs)
    return {value.name or "": _count(value.shape) for value in values if value.shape is not None}


def element_count(value: ir.Value, usual: Mapping[str, int]) -> int | None:
    """How many elements ``value`` has: the usual number, or what its shape says, where open sizes count as 1.

    Args:
        value: of any shape; None is the answer where it is unknown.
        usual: see `usual_element_counts`.
    """
    counted = usual.get(value.name or "")
    return _count(value.shape) if counted is None and value.shape is not None else counted


def _count(shape: ir.Shape) -> int:
    return math.prod(max(1, size) if isinstance(size, int) else 1 for size in shape)


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new constant of the graph."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def new_node(
    operator: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, int | Sequence[int]] | None = None,
    *,
    name: str | None,
    output: str | None = None,
    domain: str = "",
) -> ir.Node:
    """A node of one output, which is part of no graph yet.

    Args:
        operator: its name.
        inputs: what it reads; None for one that is left out.
        attributes: its attributes.
        name: the node's name.
        output: the output's name, where it does not take the place of another value.
        domain: the operator's domain.
    """
    return ir.node(operator, inputs, attributes, domain=domain, name=name, outputs=[ir.Value(name=output)])


def transposed(value: ir.Value | None, order: tuple[int, ...], *, name: str, output: str | None = None) -> ir.Node:
    """A Transpose; see `new_node`."""
    return new_node("Transpose", [value], {"perm": order}, name=name, output=output)


def replace_node(node: ir.Node, others: Sequence[ir.Node], *, last: ir.Node | None = None) -> None:
    """Puts ``others`` in the place of a node, and the output of the last of them in that of its output.

    Args:
        node: a node of one output, which goes.
        others: in topological order.
        last: the only reader of ``node``, which goes too; its output is the one that is replaced.
    """
    assert node.graph is not None
    gone = [node] if last is None else [node, last]
    result = others[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(node.graph, node, gone, others, gone[-1].outputs, [result])
