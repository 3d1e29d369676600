"""Finds the smallest part of a graph that gives wrong numbers by itself, and saves it with its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir

from edgekit.errors import BuildError
from edgekit.graph.element_types import carries_type, computed_of, constant_of
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.file import save_graph
from edgekit.graph.passes import InferShapes, RemoveDead
from edgekit.measure.noise_report import SmallestGraph
from edgekit.quantize.compare import noise_of_outputs
from edgekit.specs import EXACT_DB

__all__ = ["smallest_graph", "without_activation_pairs"]

Arrays: TypeAlias = "Mapping[str, np.ndarray]"
Run: TypeAlias = "Callable[[ir.Model, dict[str, np.ndarray], str], np.ndarray]"
"""Computes an output of a graph from inputs by name."""


class _Tried(NamedTuple):
    """A part of a graph that was run: its inputs, the right numbers, and whether it is wrong or has all layers."""

    part: ir.Model
    inputs: list[str]
    arrays: dict[str, np.ndarray]
    expected: np.ndarray
    sqnr_db: float
    is_enough: bool


def smallest_graph(
    right: ir.Model,
    graph: ir.Model,
    *,
    value: str,
    read: str,
    feed: Arrays,
    run: Run,
    limit_db: float,
    save: Path | None,
) -> SmallestGraph:
    """Finds how many layers before a value give wrong numbers by themselves, where one layer less does not.

    The number is doubled until they do, and then bisected: each part is built, which takes time. The right numbers are
    those of the same part of another graph in ONNX Runtime, for the same inputs.

    Args:
        right: computes the right numbers; has the values of ``graph``, with the same names.
        graph: gives wrong numbers.
        value: name of the value that is wrong, in ``right``.
        read: name of the same value in ``graph``, where the next layer reads it.
        feed: inputs of both.
        run: computes an output of a part of ``graph``.
        limit_db: below this ratio, the output is wrong.
        save: folder to save the part to; None saves nothing.
    """

    def tried(depth: int) -> _Tried:
        inputs = _inputs_before(right, value, depth)
        arrays = _values(right, inputs, feed)
        expected = Evaluator(_part(right, inputs, value)).run(arrays)[value]
        part = _part(graph, inputs, read)
        whole = {each.name for each in right.graph.inputs}.issuperset(inputs)
        try:
            found_db = _decibels(expected, run(part, arrays, read))
        except BuildError:
            if whole:
                raise
            found_db = EXACT_DB  # the backend takes these layers only with those before them
        return _Tried(part, inputs, arrays, expected, found_db, found_db < limit_db or whole)

    too_few, enough = 0, 1
    found = tried(enough)
    while not found.is_enough:
        too_few, enough = enough, 2 * enough
        found = tried(enough)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        fewer = tried(middle)
        if fewer.is_enough:
            enough, found = middle, fewer
        else:
            too_few = middle
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        save_graph(found.part, save / "model.onnx")
        np.savez(save / "inputs.npz", allow_pickle=False, **found.arrays)
        np.savez(save / "expected.npz", allow_pickle=False, **{read: found.expected})
    return SmallestGraph(
        nodes=tuple(node.name or "" for node in found.part.graph if not carries_type(node)),
        inputs=tuple(found.inputs),
        output=read,
        sqnr_db=found.sqnr_db,
        folder="" if save is None else str(save),
    )


def without_activation_pairs(graph: ir.Model) -> ir.Model:
    """Returns a copy, sharing its weights, whose activations are not rounded; weights stay as they are."""
    copy = graph.clone(deep_copy=False)
    main = copy.graph
    for node in list(main):
        if node.op_type != "DequantizeLinear" or constant_of(node.outputs[0]) is not None:
            continue
        rounded, exact = node.outputs[0], computed_of(node.outputs[0])
        if exact is rounded or exact.is_graph_input() and rounded.is_graph_output():
            continue  # integers that come from elsewhere
        for index, output in enumerate(main.outputs):
            if output is rounded:
                exact.name, rounded.name = rounded.name, exact.name
                main.outputs[index] = exact
        for use in list(rounded.uses()):
            use.node.replace_input_with(use.idx, exact)
    RemoveDead()(copy)
    return copy


def _inputs_before(graph: ir.Model, value: str, depth: int) -> list[str]:
    """Returns the names of the values that the last ``depth`` layers before ``value`` read."""
    values = {each.name: each for node in graph.graph for each in node.outputs}
    border = [values[value]]
    for _ in range(depth):
        read: dict[ir.Value, None] = {}
        for each in border:
            node = each.producer()
            sources = [each] if node is None else [source for source in node.inputs if source is not None]
            read.update((computed_of(source), None) for source in sources if constant_of(source) is None)
        border = list(read)
    # A value that another one at the border depends on is computed inside.
    return [each.name or "" for each in _without_ancestors_inside(border)]


def _without_ancestors_inside(border: Sequence[ir.Value]) -> list[ir.Value]:
    """Drops values that can be computed from the others: all that they depend on passes through one of them."""
    kept = list(border)
    for value in border:
        node = value.producer()
        others = {each for each in kept if each is not value}
        if node is not None and others and _bounded(value, others):
            kept.remove(value)
    return kept


def _bounded(value: ir.Value, others: set[ir.Value]) -> bool:
    stack, seen = [value], set()
    while stack:
        node = stack.pop().producer()
        if node is None:
            return False
        for source in node.inputs:
            if source is None or source in others or source in seen or constant_of(source) is not None:
                continue
            seen.add(source)
            stack.append(source)
    return True


def _values(graph: ir.Model, names: Sequence[str], feed: Arrays) -> dict[str, np.ndarray]:
    given = {name: np.asarray(feed[name]) for name in names if name in feed}
    inside = [name for name in names if name not in given]
    found = Evaluator(graph, also=inside).run(dict(feed)) if inside else {}
    return given | {name: found[name] for name in inside}


def _part(graph: ir.Model, inputs: Sequence[str], output: str) -> ir.Model:
    part = ir.Model(ir.convenience.extract(graph.graph, list(inputs), [output]), ir_version=graph.ir_version)
    part.graph.opset_imports.update(graph.opset_imports)
    InferShapes()(part)
    return part


def _decibels(expected: np.ndarray, got: np.ndarray) -> float:
    found = [each.sqnr_db for each in noise_of_outputs([{"": expected}], [{"": got}]) if each.sqnr_db is not None]
    return min(found, default=EXACT_DB)
