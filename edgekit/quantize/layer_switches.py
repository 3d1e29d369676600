"""A quantized graph with a switch for each layer: an input that makes it compute in float.

The noise that a layer adds to the outputs is measured by switching its rounding on or off. With switches, one session
runs all combinations; otherwise each of them is a graph that has to be quantized and loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import new_initializer
from edgekit.graph.operators import PRODUCTS
from edgekit.quantize.qdq import FloatFactors
from edgekit.specs import QuantScheme

__all__ = ["SwitchedGraph"]

SWITCH = "edgekit_in_float_"
Arrays = Mapping[str, np.ndarray]
NONE_EXACT: Mapping[str, FloatFactors] = MappingProxyType({})


@dataclass(frozen=True)
class _Edge:
    """A reader of a Q/DQ pair: ``exact`` is the tensor before the pair."""

    exact: ir.Value
    reader: ir.Node
    index: int
    made_by: ir.Node | None


class SwitchedGraph:
    """Runs a quantized graph, with some of its products in float.

    A tensor is read without its Q/DQ pair where the graph would have none if these products stayed in float, and their
    weights and biases are those before rounding: of silero_vad, the weights of one convolution make nearly all noise.

    Args:
        graph: with Q/DQ pairs, in float32 (see `edgekit.quantize.half.check.rounding_graph`); not modified.
        scheme: what the graph was quantized with.
        exact: weights and biases of products before rounding, by name; those of others stay rounded.
        threads: for ONNX Runtime; 0: its default.

    Attributes:
        layers: names of the products that have a switch.
    """

    def __init__(
        self, graph: ir.Model, scheme: QuantScheme, exact: Mapping[str, FloatFactors] = NONE_EXACT, *, threads: int = 0
    ) -> None:
        copy = graph.clone(deep_copy=False)
        edges = list(_edges(copy.graph, scheme))
        nodes = [node for node in copy.graph if node.name and _is_quantized_product(node)]
        switches = {node: _switch(copy.graph, index) for index, node in enumerate(nodes)}
        conditions = _Conditions(copy.graph, scheme, switches)
        for index, edge in enumerate(edges):
            if (condition := conditions.of(edge)) is not None:
                _choose(copy.graph, edge.reader, edge.index, condition, edge.exact, f"{SWITCH}choice_{index}")
        for node in nodes:
            if (factors := exact.get(str(node.name))) is not None:
                _choose_factors(copy, node, switches[node], factors)
        self._names = {str(node.name): str(switch.name) for node, switch in switches.items()}
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
            if _is_quantized_product(reader) or (maker is not None) != (reader.op_type in others):
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


class _Conditions:
    """Makes the conditions under which a tensor is read without its pair, as values of the graph."""

    def __init__(self, graph: ir.Graph, scheme: QuantScheme, switches: Mapping[ir.Node, ir.Value]) -> None:
        self._graph, self._switches = graph, switches
        self._followers = (scheme.operators | scheme.propagated | scheme.fused_activations) - PRODUCTS
        self._made: dict[ir.Node, ir.Value | None] = {}

    def of(self, edge: _Edge) -> ir.Value | None:
        """Returns whether neither the producer nor the reader of a tensor computes on integers; None: never."""
        reader = self._in_float(edge.reader)
        if edge.made_by is None:
            return reader
        # It writes integers, whatever the reader does.
        maker = self._switches.get(edge.made_by)
        if maker is None or edge.reader not in self._switches:
            return maker
        return self._join("And", maker, self._switches[edge.reader], edge.reader)

    def _in_float(self, node: ir.Node) -> ir.Value | None:
        """Returns whether a product, or one that another operator would read integers from, is in float."""
        if node in self._switches or node.op_type not in self._followers:
            return self._switches.get(node)
        if node not in self._made:
            found = None
            for value in node.inputs:
                producer = _producer_before_pair(value)
                one = self._in_float(producer) if producer is not None else None
                if one is not None:
                    found = one if found is None else self._join("Or", found, one, node)
            self._made[node] = found
        return self._made[node]

    def _join(self, op_type: str, first: ir.Value, second: ir.Value, place: ir.Node) -> ir.Value:
        joined = ir.node(op_type, [first, second], name=f"{SWITCH}{op_type}_{len(self._graph)}")
        joined.outputs[0].name = joined.name
        self._graph.insert_before(place, joined)
        return joined.outputs[0]


def _producer_before_pair(value: ir.Value | None) -> ir.Node | None:
    """Returns the node that computes a value, before casts and Q/DQ pairs."""
    node = _producer(value)
    while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        node = _producer(node.inputs[0])
    return node


def _choose_factors(model: ir.Model, node: ir.Node, switch: ir.Value, factors: FloatFactors) -> None:
    """Reads the weight and bias before rounding while the switch is on."""
    places = ((node, 1, factors.weight), (*_place_of_bias(node), factors.bias))
    for number, (reader, index, array) in enumerate(places, start=1):
        rounded = reader.inputs[index] if len(reader.inputs) > index else None
        if array is None or rounded is None:
            continue
        if reader is node and rounded.shape is not None:
            # Some backends take channels in groups, which are filled with zeros.
            array = np.pad(
                array, [(0, wide - own) for wide, own in zip(rounded.shape.numpy(), array.shape, strict=True)]
            )
        name = f"{switch.name}_factor_{number}"
        _choose(model.graph, reader, index, switch, new_initializer(model, f"{name}_exact", array), name)


def _place_of_bias(node: ir.Node) -> tuple[ir.Node, int]:
    """Returns the node that adds the bias of a product, and the number of that input: a MatMul's is added behind it."""
    readers = list(_readers(node.outputs[0])) if node.op_type == "MatMul" else []
    if len(readers) == 1 and readers[0][0].op_type == "Add":
        reader, index = readers[0]
        return reader, 1 - index
    return node, 2


def _choose(graph: ir.Graph, reader: ir.Node, index: int, condition: ir.Value, exact: ir.Value, name: str) -> None:
    """Makes ``reader`` read ``exact`` in place of an input while the condition is true."""
    chosen = ir.node("Where", [condition, exact, reader.inputs[index]], name=name)
    chosen.outputs[0].name = name
    graph.insert_before(reader, chosen)
    reader.replace_input_with(index, chosen.outputs[0])
