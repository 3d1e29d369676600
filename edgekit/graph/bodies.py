"""The branches of an If and the bodies of a Loop or Scan, as graphs of their own: taken out, changed, put back, run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS, RECURRENT

__all__ = ["Body", "bodies_with_layers", "changed_bodies", "put_back", "run_as_node"]

Arrays = Mapping[str, np.ndarray]


@dataclass(eq=False)
class Body:
    """A branch or body, taken out of a graph.

    Attributes:
        node: the If, Loop or Scan.
        attribute: the attribute of ``node`` that the body stands in: ``then_branch``, ``else_branch`` or ``body``.
        graph: a copy of it, as a graph of its own. Its inputs are those of the body, followed by the values that it
            reads from the graph around it; constants from there are constants of its own.
        formal: number of the body's own inputs.
        outer: the values that it reads from the graph around it, constants included, by name.
    """

    node: ir.Node
    attribute: str
    graph: ir.Model
    formal: int
    outer: Mapping[str, ir.Value]

    @property
    def name(self) -> str:
        """Name for messages, such as ``If_0.else_branch``."""
        return f"{self.node.name}.{self.attribute}"

    @property
    def inputs(self) -> list[str]:
        """Names of all inputs."""
        return [value.name or "" for value in self.graph.graph.inputs]

    @property
    def read(self) -> list[str]:
        """Names of the activations that it reads from the graph around it."""
        return self.inputs[self.formal :]

    @property
    def decides(self) -> list[str]:
        """Names of what the graph around it must compute to know when the body runs, and on what."""
        given = [value for value in self.node.inputs if value is not None and not value.is_initializer()]
        return [value.name or "" for value in given] + self.read


def bodies_with_layers(graph: ir.Model) -> list[Body]:
    """Returns copies of the bodies directly below the main graph that have a product or a recurrent layer.

    One that reads a sequence or an optional value from outside is left out: it cannot be run as a graph of its own.
    """
    found = []
    for node in graph.graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and any(map(_has_weights, attribute.as_graph().all_nodes())):
                body = _taken_out(graph, node, attribute)
                if body is not None:
                    found.append(body)
    return found


def changed_bodies(graph: ir.Model, change: Callable[[Body], bool]) -> bool:
    """Changes the bodies that `bodies_with_layers` returns, in place; returns whether one was changed.

    Args:
        graph: the graph.
        change: changes `Body.graph`, whose inputs and outputs keep their names, and returns whether it did; bodies
            inside of it are its own business.
    """
    changed = [body for body in bodies_with_layers(graph) if change(body)]
    for body in changed:
        put_back(graph, body)
    return bool(changed)


def put_back(graph: ir.Model, body: Body) -> None:
    """Replaces the body that ``body`` was taken from by ``body.graph``, which is not usable after that.

    Names may not be unique in the whole graph afterwards (`edgekit.graph.passes.NameNodes`).
    """
    new = body.graph.graph
    while len(new.inputs) > body.formal:
        inner = new.inputs.pop()
        inner.replace_all_uses_with(body.outer[inner.name or ""])
    for name, outer in body.outer.items():
        same = new.initializers.get(name)
        if same is not None and same.const_value is outer.const_value and not same.is_graph_output():
            same.replace_all_uses_with(outer)
            del new.initializers[name]
    for node in body.node.attributes[body.attribute].as_graph().all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)  # it would count as a reader
    body.node.attributes[body.attribute] = ir.AttrGraph(body.attribute, new)
    for domain, version in new.opset_imports.items():
        graph.graph.opset_imports.setdefault(domain, version)


def run_as_node(body: Body, values: Arrays, run: Callable[[dict[str, np.ndarray]], Arrays]) -> None:
    """Runs a body as often as its node does, on the same inputs.

    Args:
        body: the body.
        values: what `Body.decides` names, as the graph around it computed it.
        run: computes the outputs of ``body.graph`` from its inputs, by name.
    """
    captured = {name: values[name] for name in body.read}
    given = [_array(value, values) for value in body.node.inputs]

    def step(*arrays: np.ndarray) -> list[np.ndarray]:
        outputs = run({**dict(zip(body.inputs, arrays, strict=False)), **captured})
        return [outputs[value.name or ""] for value in body.graph.graph.outputs]

    if body.node.op_type == "If":
        if _is_true(given[0]) == (body.attribute == "then_branch"):
            run(captured)
    elif body.node.op_type == "Loop":
        _loop(body, given, step)
    else:
        _scan(body, given, step)


Step = Callable[..., list[np.ndarray]]


def _loop(body: Body, given: list[np.ndarray | None], step: Step) -> None:
    limit, condition, *states = [*given, None, None][: max(len(given), 2)]
    runs = itertools.count() if limit is None else range(int(np.reshape(limit, -1)[0]))
    going = condition is None or _is_true(condition)
    shapes = [[1] * len(value.shape or ()) for value in body.graph.graph.inputs[:2]]
    for index in runs:
        if not going:
            return
        counted = np.full(shapes[0], index, np.int64)
        outputs = step(counted, np.full(shapes[1], going), *states)
        going, states = _is_true(outputs[0]), [*outputs[1 : 1 + len(states)]]


def _scan(body: Body, given: list[np.ndarray | None], step: Step) -> None:
    count = body.node.attributes.get_int("num_scan_inputs", 0) or 0
    states, scanned = given[: len(given) - count], [array for array in given[len(given) - count :] if array is not None]
    axes = body.node.attributes.get_ints("scan_input_axes", None) or [0] * count
    backward = body.node.attributes.get_ints("scan_input_directions", None) or [0] * count
    rows = [
        np.moveaxis(array, axis, 0)[:: -1 if reverse else 1]
        for array, axis, reverse in zip(scanned, axes, backward, strict=True)
    ]
    for slices in zip(*rows, strict=True):
        states = [*step(*states, *map(np.ascontiguousarray, slices))[: len(states)]]


def _is_true(array: np.ndarray | None) -> bool:
    return array is not None and bool(array.reshape(-1)[0])


def _array(value: ir.Value | None, values: Arrays) -> np.ndarray | None:
    if value is None:
        return None
    if value.const_value is not None and value.is_initializer():
        return value.const_value.numpy()
    return values[value.name or ""]


def _has_weights(node: ir.Node) -> bool:
    return node.op_type in PRODUCTS | RECURRENT


def _taken_out(graph: ir.Model, node: ir.Node, attribute: ir.Attr) -> Body | None:
    inner = attribute.as_graph().clone(allow_outer_scope_values=True)
    inner.name = f"{node.name}.{attribute.name}"
    formal = len(inner.inputs)
    if node.op_type == "Loop":
        _forget_wrong_shapes(inner, node)
    graphs = {inner, *inner.subgraphs()}
    outer: dict[ir.Value, ir.Value] = {}
    for reader in inner.all_nodes():
        for index, value in enumerate(reader.inputs):
            if value is not None and value.graph not in graphs:
                if value not in outer:
                    outer[value] = _same(value)
                reader.replace_input_with(index, outer[value])
    for value, own in outer.items():
        if own.const_value is not None:
            inner.register_initializer(own)
        elif isinstance(value.type, ir.TensorType):
            inner.inputs.append(own)
        else:
            return None
    if any(value.graph not in graphs for each in graphs for value in each.outputs):
        return None
    inner.opset_imports.update(graph.graph.opset_imports)
    return Body(
        node=node,
        attribute=attribute.name,
        graph=ir.Model(inner, ir_version=graph.ir_version or 10),
        formal=formal,
        outer={value.name or "": value for value in outer},
    )


def _forget_wrong_shapes(body: ir.Graph, loop: ir.Node) -> None:
    """Removes the shapes that a body declares for states which start with another one, as no runtime checks.

    Paddle's exporter starts what is not defined before the first step with one zero.
    """
    for index, value in enumerate(loop.inputs):
        if value is not None and _contradict(body.inputs[index].shape, value.shape):
            body.inputs[index].shape = None


def _contradict(declared: ir.Shape | None, given: ir.Shape | None) -> bool:
    if declared is None or given is None:
        return False
    pairs = zip(declared, given, strict=False)
    return len(declared) != len(given) or any(
        isinstance(own, int) and isinstance(size, int) and own != size for own, size in pairs
    )


def _same(value: ir.Value) -> ir.Value:
    constant = value.const_value if value.is_initializer() and not value.is_graph_input() else None
    return ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=constant)
