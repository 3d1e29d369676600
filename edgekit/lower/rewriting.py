"""Shared code of the lowering passes: the loop over a graph's nodes, queries on values, and node replacement."""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.bodies import changed_bodies
from edgekit.graph.file import set_input_shapes
from edgekit.graph.passes import NameNodes, RemoveDead
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
"""Domain of the operators that only ONNX Runtime has."""

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axis permutations: from channels-first to channels-last, and back."""

_BYTES = frozenset({ir.DataType.UINT8, ir.DataType.INT8})
_log = logging.getLogger(__name__)


class NotApplicable(Exception):
    """A pass does not apply to a node; the message gives the reason."""


class RewritePass(ir.passes.InPlacePass):
    """Rewrites the nodes of one operator, in graph order, if that is possible and saves time.

    For each node of the operator that stays, the pass logs the reason at level DEBUG.

    Attributes:
        operator: name of the operator.
        everywhere: also rewrites nodes in subgraphs, the bodies of If, Loop and Scan.
    """

    operator: str
    everywhere = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        nodes = model.graph.all_nodes() if self.everywhere else model.graph
        for node in [node for node in nodes if node.op_type == self.operator]:
            try:
                self.rewrite(node, node.graph if isinstance(node.graph, ir.Graph) else model.graph)
                modified = True
            except NotApplicable as reason:
                name = node.name or node.outputs[0].name
                _log.debug("%s: %s '%s' stays: %s", type(self).__name__, self.operator, name, reason)
        return ir.passes.PassResult(model, modified=modified)

    @abc.abstractmethod
    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """Replaces ``node`` by other nodes, or inserts nodes before it.

        Raises:
            NotApplicable: the node stays, and the graph was not modified.
        """


def lower(model: ir.Model, passes: Sequence[ir.passes.InPlacePass], *, bodies: bool = False) -> bool:
    """Runs the passes in order, then removes unused nodes; returns whether a pass changed the model.

    Args:
        model: the model; changed in place.
        passes: the passes.
        bodies: run them in the bodies of If, Loop and Scan too.
    """
    modified = any([one(model).modified for one in passes])
    if bodies and changed_bodies(model, lambda body: lower(body.graph, passes, bodies=True)):
        NameNodes()(model)
        modified = True
    if modified:
        RemoveDead()(model)
    return modified


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Returns the tensor of an initializer, without reading external weights; None for other values.

    An initializer that is also an input is the default of that input, and not constant.
    """
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def stored_constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Like `constant`, but None for external weights, which a rewritten graph does not copy."""
    tensor = constant(value)
    return None if isinstance(tensor, ir.ExternalTensor) else tensor


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """Returns the 8-bit to float32 DequantizeLinear that computes ``value``, if its parameters are constant."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return None
    scale, zero = (constant(parameter) for parameter in node.inputs[1:3])
    if scale is None or zero is None or scale.dtype != ir.DataType.FLOAT or zero.dtype not in _BYTES:
        return None
    return node


def usual_element_counts(model: ir.Model, shapes: Mapping[str, ShapeRange]) -> dict[str, int]:
    """Returns the number of elements of each computed value at the opt shapes, by name, if its shape is inferred.

    Args:
        model: not modified; its weights are not read.
        shapes: min, opt and max shapes of the inputs with dynamic dimensions; if empty, the result is empty.
    """
    if not shapes:
        return {}
    sized = model.clone(deep_copy=False)
    set_input_shapes(sized, {name: sizes.opt for name, sizes in shapes.items()})
    values = (value for node in sized.graph for value in node.outputs)
    return {value.name or "": _count(value.shape) for value in values if value.shape is not None}


def element_count(value: ir.Value, opt_counts: Mapping[str, int]) -> int | None:
    """Returns the number of elements of a value: from ``opt_counts``, else from its shape, with dynamic sizes as 1.

    Args:
        value: any value.
        opt_counts: see `usual_element_counts`.

    Returns:
        None if the shape is unknown.
    """
    counted = opt_counts.get(value.name or "")
    return _count(value.shape) if counted is None and value.shape is not None else counted


def _count(shape: ir.Shape) -> int:
    return math.prod(max(1, size) if isinstance(size, int) else 1 for size in shape)


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Adds an initializer to the graph."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def new_node(
    operator: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
    *,
    name: str | None,
    output: str | None = None,
    domain: str = "",
) -> ir.Node:
    """Makes a node with one output, which is not part of a graph yet.

    Args:
        operator: name of the operator.
        inputs: the node's inputs; None for an omitted one.
        attributes: the node's attributes.
        name: name of the node.
        output: name of the output; None if the output will replace another value and take its name.
        domain: domain of the operator.
    """
    return ir.node(operator, inputs, attributes, domain=domain, name=name, outputs=[ir.Value(name=output)])


def transposed(value: ir.Value | None, order: tuple[int, ...], *, name: str, output: str | None = None) -> ir.Node:
    """Makes a Transpose; see `new_node`."""
    return new_node("Transpose", [value], {"perm": order}, name=name, output=output)


def replace_node(node: ir.Node, others: Sequence[ir.Node], *, last: ir.Node | None = None) -> None:
    """Replaces a node by others, and its output by the output of the last of them.

    Args:
        node: a node with one output.
        others: the new nodes, in topological order.
        last: the only consumer of ``node``, if it is replaced too; then its output is replaced.
    """
    assert node.graph is not None
    gone = [node] if last is None else [node, last]
    result = others[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(node.graph, node, gone, others, gone[-1].outputs, [result])
