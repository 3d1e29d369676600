"""Shared code of the passes that replace one operator by several: makes the nodes, and puts them in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["DecomposePass", "Decomposition", "Parts", "input_of", "ints", "is_used", "split"]


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Returns an input of a node; None if it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else None


def is_used(node: ir.Node, index: int) -> bool:
    """Whether a node has an output that something reads, or that is one of the graph."""
    if index >= len(node.outputs):
        return False
    return bool(node.outputs[index].uses()) or node.outputs[index].is_graph_output()


class Parts:
    """The nodes that replace ``node``, in order."""

    def __init__(self, node: ir.Node) -> None:
        self.nodes: list[ir.Node] = []
        self._name = node.name or node.outputs[0].name or ""

    def add(self, operator: str, *inputs: ir.Value | None, **attributes: int | float | str | Sequence[int]) -> ir.Value:
        """Adds a node with one output, and returns that; the first product gets the name of ``node``."""
        main = operator in ("Conv", "Gemm", "MatMul") and all(each.name != self._name for each in self.nodes)
        name = self._name if main else f"{self._name}.{operator.lower()}_{len(self.nodes)}"
        node = ir.node(operator, inputs, attributes=attributes or None, name=name)
        node.outputs[0].name = f"{self._name}.{operator.lower()}_{len(self.nodes)}.out"
        self.nodes.append(node)
        return node.outputs[0]

    def product(
        self, operator: str, source: ir.Node, inputs: Sequence[ir.Value | None], drop: Sequence[str]
    ) -> ir.Value:
        """Adds ``operator`` with the attributes of ``source`` except those in ``drop``."""
        value = self.add(operator, *inputs)
        for attribute in source.attributes.values():
            if attribute.name not in drop:
                self.nodes[-1].attributes[attribute.name] = attribute
        return value

    def number(self, value: float) -> ir.Value:
        """Adds a float32 scalar."""
        return self.array(np.array(value, np.float32))

    def array(self, values: np.ndarray) -> ir.Value:
        """Adds a constant."""
        result = self.add("Constant")
        self.nodes[-1].attributes["value"] = ir.AttrTensor("value", ir.tensor(values))
        return result


def ints(parts: Parts, *numbers: int) -> ir.Value:
    """Adds a constant vector of int64."""
    return parts.add("Constant", value_ints=numbers)


def split(value: ir.Value | None, sizes: Sequence[int], parts: Parts, *, axis: int) -> list[ir.Value]:
    """Adds a Split into parts of these sizes."""
    first = parts.add("Split", value, ints(parts, *sizes), axis=axis)
    node = parts.nodes[-1]
    node.resize_outputs(len(sizes))
    for index, output in enumerate(node.outputs[1:], 1):
        output.name = f"{first.name}.{index}"
    return list(node.outputs)


Decomposition = Callable[[ir.Node, Parts], Sequence[ir.Value | None] | None]
"""Adds the nodes that replace a node, and returns its outputs: None for one that nothing reads; None if it stays."""


class DecomposePass(ir.passes.InPlacePass):
    """Replaces operators of a domain by several others each, in subgraphs too."""

    def __init__(self, domain: str, table: Mapping[str, Decomposition]) -> None:
        """Takes the domain of the operators, and how each of them is replaced, by its name."""
        self._domain, self._table = domain, table

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            decompose = self._table.get(node.op_type) if node.domain == self._domain else None
            if decompose is None or not self.takes(node):
                continue
            parts = Parts(node)
            outputs = decompose(node, parts)
            if outputs is not None:
                _replace(node, parts.nodes, outputs)
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def takes(self, node: ir.Node) -> bool:
        """Whether a node of the table may be replaced."""
        return True


def _replace(node: ir.Node, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value | None]) -> None:
    """Replaces ``node`` and its outputs, whose names stay; None stands for an output that nothing reads."""
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, list(nodes))
    for old, new in zip(node.outputs, outputs, strict=False):
        if new is None:
            continue
        name = old.name
        new.type, new.shape = old.type, old.shape if old.shape is not None else new.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = None, name
    graph.remove(node, safe=True)
