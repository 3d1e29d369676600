"""Shared code of the passes that replace one operator by several: makes the nodes, and puts them in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["Parts", "replace_by"]


class Parts:
    """The nodes that replace ``node``, in order."""

    def __init__(self, node: ir.Node) -> None:
        self.nodes: list[ir.Node] = []
        self._name = node.name or node.outputs[0].name or ""

    def add(self, operator: str, *inputs: ir.Value | None, **attributes: int | float | str | Sequence[int]) -> ir.Value:
        """Adds a node with one output, and returns that; a product gets the name of ``node``."""
        main = operator in ("Conv", "Gemm", "MatMul")
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


def replace_by(node: ir.Node, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value | None]) -> None:
    """Replaces ``node`` and its outputs, whose names stay; None stands for an output that nothing reads."""
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, list(nodes))
    for old, new in zip(node.outputs, outputs, strict=False):
        if new is None:
            continue
        name = old.name
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = None, name
    graph.remove(node, safe=True)
