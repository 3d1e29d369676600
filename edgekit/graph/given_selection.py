"""Makes the rows that a graph selects an input of it, so that two graphs can be compared on the same rows.

A TopK orders rows by their scores. With a little noise, close scores exchange rows, and a comparison of the outputs
shows how different neighbouring detections are, not how exact the numbers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.operators import SELECTING

__all__ = ["GivenSelection"]

_INDICES = {"NonMaxSuppression": 0, "NonZero": 0, "TopK": 1}
"""Which of their outputs holds the indices of what was selected."""

Arrays = Mapping[str, np.ndarray]


class GivenSelection:
    """The rows that a graph selects for some inputs, to be used in other graphs with the same nodes.

    Args:
        graph: the graph, with named nodes; not modified.
        feeds: its inputs.
        threads: for ONNX Runtime; 0: its default.

    Attributes:
        outputs: the outputs of the graph, for each input.
        feeds: the inputs, and the selected rows, for graphs that `given_to` returns.

    Raises:
        GraphError: ONNX Runtime cannot run the graph.
    """

    def __init__(self, graph: ir.Model, feeds: Sequence[Arrays], *, threads: int = 0) -> None:
        self._threads = threads
        self._indices = {
            str(node.name): str(node.outputs[_INDICES[node.op_type]].name)
            for node in graph.graph
            if node.op_type in _INDICES
        }
        evaluator = Evaluator(graph, also=list(self._indices.values()), threads=threads)
        results = [evaluator.run(dict(feed)) for feed in feeds]
        own = {value.name for value in graph.graph.outputs}
        self.outputs = [{name: each[name] for name in each if name in own} for each in results]
        self.feeds = [
            {**feed, **{_input(node): each[name] for node, name in self._indices.items()}}
            for feed, each in zip(feeds, results, strict=True)
        ]

    @staticmethod
    def fits(graph: ir.Model) -> bool:
        """Whether the graph selects rows, and only by operators whose results are indices."""
        found = {node.op_type for node in graph.graph if node.op_type in SELECTING}
        return bool(found) and found <= _INDICES.keys()

    def selects_in(self, graph: ir.Model) -> bool:
        """Whether another graph selects by the same nodes."""
        return self._indices.keys() == {node.name for node in graph.graph if node.op_type in SELECTING}

    def outputs_of(self, graph: ir.Model) -> list[dict[str, np.ndarray]]:
        """Returns what another graph computes of the same rows, for each input.

        Args:
            graph: has the nodes that select, by their names; not modified.
        """
        evaluator = Evaluator(self.given_to(graph), threads=self._threads)
        return [evaluator.run(dict(feed)) for feed in self.feeds]

    def given_to(self, graph: ir.Model) -> ir.Model:
        """Returns a copy of a graph, sharing its weights, that takes the rows as inputs; see `outputs_of`.

        Its values have the names that they have in ``graph``.
        """
        copy = graph.clone(deep_copy=False)
        for node in [node for node in copy.graph if node.name in self._indices]:
            indices = node.outputs[_INDICES[node.op_type]]
            given = ir.Value(name=_input(str(node.name)), type=ir.TensorType(ir.DataType.INT64), shape=indices.shape)
            copy.graph.inputs.append(given)
            same = ir.node("Identity", [given], name=f"{node.name}_given")
            _replace(copy.graph, node, indices, same)
            if node.op_type == "TopK":
                axis = {"axis": node.attributes.get_int("axis", -1)}
                chosen = ir.node("GatherElements", [node.inputs[0], same.outputs[0]], axis, name=f"{node.name}_gather")
                _replace(copy.graph, same, node.outputs[0], chosen)
            copy.graph.remove(node)
        return copy


def _input(node: str) -> str:
    return f"{node}_rows"


def _replace(graph: ir.Graph, behind: ir.Node, value: ir.Value, new: ir.Node) -> None:
    """Inserts a node that computes ``value`` in its producer's place."""
    result = new.outputs[0]
    result.name, result.type, result.shape = value.name, value.type, value.shape
    value.name = f"{value.name}_selected"
    graph.insert_after(behind, new)
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
