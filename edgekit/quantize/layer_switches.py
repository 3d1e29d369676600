"""A quantized graph with a switch for each layer: an input that makes it read and write its tensors in float.

The noise that a layer adds to the outputs is measured by switching its rounding off. With switches, one session runs
all combinations; otherwise each of them is a graph that has to be quantized and loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.operators import PRODUCTS
from edgekit.specs import QuantScheme

__all__ = ["SwitchedGraph"]

SWITCH = "edgekit_in_float_"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Edge:
    """A reader of a Q/DQ pair: ``exact`` is the tensor before the pair."""

    exact: ir.Value
    reader: ir.Node
    index: int
    made_by: ir.Node | None


class SwitchedGraph:
    """Runs a quantized graph, with some of its products in float.

    A tensor is read without its Q/DQ pair where the graph would have none if these products stayed in float. Weights
    stay rounded: what activations lose is the larger part, and differs from layer to layer.

    Args:
        graph: with Q/DQ pairs, in float32 (see `edgekit.quantize.half.check.rounding_graph`); not modified.
        scheme: what the graph was quantized with.
        threads: for ONNX Runtime; 0: its default.

    Attributes:
        layers: names of the products that have a switch.
    """

    def __init__(self, graph: ir.Model, scheme: QuantScheme, *, threads: int = 0) -> None:
        copy = graph.clone(deep_copy=False)
        edges = list(_edges(copy.graph, scheme))
        products = {node for edge in edges for node in (edge.reader, edge.made_by) if node is not None}
        products = {node for node in products if _is_quantized_product(node)}
        nodes = [node for node in copy.graph if node in products and node.name]
        switches = {node: _switch(copy.graph, index) for index, node in enumerate(nodes)}
        self._names = {str(node.name): str(switch.name) for node, switch in switches.items()}
        for index, edge in enumerate(edges):
            _insert_choice(copy.graph, edge, switches, f"{SWITCH}choice_{index}")
        self.layers = tuple(self._names)
        self._evaluator = Evaluator(copy, threads=threads)

    def run(self, feed: Arrays, in_float: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Runs the graph with these layers in float.

        Raises:
            GraphError: a node failed; names it.
        """
        chosen = {switch: np.array(layer in in_float) for layer, switch in self._names.items()}
        return self._evaluator.run({**feed, **chosen})


def _edges(graph: ir.Graph, scheme: QuantScheme) -> Iterator[_Edge]:
    """Yields the places where a tensor is read behind a Q/DQ pair that the float form of a product would not need."""
    others = (scheme.operators | scheme.propagated) - PRODUCTS
    for node in graph:
        quantize = _producer(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is None:
            continue
        exact = quantize.inputs[0]
        maker = _integer_producer(exact, scheme)
        for reader, index in _readers(node.outputs[0]):
            if _is_quantized_product(reader) or (maker is not None and reader.op_type not in others):
                yield _Edge(exact, reader, index, maker)


def _integer_producer(value: ir.Value, scheme: QuantScheme) -> ir.Node | None:
    """Returns the node that computes ``value`` on integers, so that all that read it read integers."""
    node = _producer(value)
    while node is not None and node.op_type in scheme.fused_activations:
        node = _producer(node.inputs[0])
    if node is None or node.op_type not in scheme.quantize_outputs:
        return None
    return node if any(_is_dequantized(each) for each in node.inputs) else None


def _is_quantized_product(node: ir.Node) -> bool:
    return node.op_type in PRODUCTS and len(node.inputs) > 1 and all(map(_is_dequantized, node.inputs[:2]))


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = _producer(value)
    return producer is not None and producer.op_type == "DequantizeLinear"


def _producer(value: ir.Value | None) -> ir.Node | None:
    """Returns the node that computes a value, before casts."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yields the nodes that read a value, behind casts, and the number of the input."""
    for use in value.uses():
        if use.node.op_type == "Cast":
            yield from _readers(use.node.outputs[0])
        else:
            yield use.node, use.idx


def _switch(graph: ir.Graph, index: int) -> ir.Value:
    value = ir.Value(name=f"{SWITCH}{index}", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape(()))
    graph.inputs.append(value)
    return value


def _insert_choice(graph: ir.Graph, edge: _Edge, switches: Mapping[ir.Node, ir.Value], name: str) -> None:
    """Reads the exact tensor if neither its producer nor its reader computes on integers."""
    needed = [node for node in (edge.made_by, edge.reader) if node is not None and (node in switches)]
    if edge.made_by is not None and edge.made_by not in switches:
        return  # integers are written whatever the reader does
    rounded = edge.reader.inputs[edge.index]
    condition = switches[needed[0]]
    new = []
    if len(needed) > 1:
        both = ir.node("And", [condition, switches[needed[1]]], name=f"{name}_both")
        both.outputs[0].name = f"{name}_both"
        condition = both.outputs[0]
        new.append(both)
    chosen = ir.node("Where", [condition, edge.exact, rounded], name=name)
    chosen.outputs[0].name = name
    graph.insert_before(edge.reader, [*new, chosen])
    edge.reader.replace_input_with(edge.index, chosen.outputs[0])
