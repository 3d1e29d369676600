"""Quantizes the branches of an If and the bodies of a Loop or Scan, each as a graph of its own."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.bodies import Body, bodies_with_layers, run_as_node
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.operators import PRODUCTS
from edgekit.quantize.plan import QuantPolicy

__all__ = ["NEVER_RAN", "feeds_of_bodies", "inputs_that_choose", "policy_of_body", "products_in_bodies"]

NEVER_RAN = "its branch or body did not run on any calibration input"
KEPT_RUNS = 8
"""Number of runs of a body whose inputs are kept: as many as inputs of a graph are compared on."""

Feeds = Sequence[Mapping[str, np.ndarray]]


def policy_of_body(body: Body, policy: QuantPolicy) -> QuantPolicy:
    """Returns what stays in float in a body: patterns that match there, and heads if it makes outputs of the model."""
    names = [node.name or "" for node in body.graph.graph.all_nodes()]
    patterns = tuple(each for each in policy.keep_float if any(fnmatch.fnmatchcase(name, each) for name in names))
    made = list(zip(body.node.outputs, body.graph.graph.outputs, strict=False)) if body.node.op_type == "If" else []
    return dataclasses.replace(
        policy,
        keep_float=patterns,
        keep_heads=policy.keep_heads and any(outer.is_graph_output() for outer, _ in made),
        head_outputs=frozenset(inner.name or "" for outer, inner in made if outer.name in policy.head_outputs),
    )


def feeds_of_bodies(graph: ir.Model, feeds: Feeds, *, threads: int = 0) -> dict[str, Feeds]:
    """Returns inputs of the bodies of `bodies_with_layers`, by `Body.name`: of at most eight of their runs.

    Args:
        graph: the float graph.
        feeds: inputs of it.
        threads: for ONNX Runtime; 0: its default.
    """
    bodies = bodies_with_layers(graph) if feeds else []
    if not bodies:
        return {}
    inputs = {value.name or "" for value in graph.graph.inputs}
    also = {name for body in bodies for name in body.decides} - inputs
    evaluator = Evaluator(graph, also=sorted(also), threads=threads)
    runs = {body.name: _Runs(body, threads) for body in bodies}
    for feed in feeds:
        values = {**feed, **evaluator.run(dict(feed))}
        for body in bodies:
            run_as_node(body, values, runs[body.name].run)
    return {name: each.kept for name, each in runs.items()}


class _Runs:
    """Runs a body, and keeps the inputs of some of its runs, evenly spaced."""

    def __init__(self, body: Body, threads: int) -> None:
        self._body, self._threads = body, threads
        self._stride, self._count = 1, 0
        self.kept: list[dict[str, np.ndarray]] = []

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self._body.graph, threads=self._threads)

    def run(self, feed: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if self._count % self._stride == 0:
            if len(self.kept) == KEPT_RUNS:
                self.kept, self._stride = self.kept[::2], 2 * self._stride
            if self._count % self._stride == 0:
                self.kept.append(feed)
        self._count += 1
        return {} if self._body.node.op_type == "If" else self._evaluator.run(feed)


def products_in_bodies(graph: ir.Model) -> list[ir.Node]:
    """Returns the convolutions and matrix products that are not in the main graph, in the order of their bodies."""
    return [node for body in graph.graph.subgraphs() for node in body if node.op_type in PRODUCTS]


def inputs_that_choose(graph: ir.Model) -> list[str]:
    """Returns the names of the graph's inputs of one number that decide which branch of an If runs."""
    found: dict[str, None] = {}
    seen: set[ir.Value] = set()
    stack = [node.inputs[0] for node in graph.graph if node.op_type == "If"]
    while stack:
        value = stack.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            stack += node.inputs
        elif value.is_graph_input() and value.shape is not None and all(size == 1 for size in value.shape):
            found[value.name or ""] = None
    return list(found)
