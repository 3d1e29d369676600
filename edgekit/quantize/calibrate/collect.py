"""Runs a graph on its calibration set once, and collects statistics of each tensor."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument, either
from edgekit.data.calibration.random_inputs import is_random
from edgekit.errors import CalibrationError
from edgekit.graph.bodies import Body, bodies_with_layers, run_as_node
from edgekit.graph.evaluator import Evaluator
from edgekit.progress import Progress, Warnings
from edgekit.quantize.calibrate.missing_values import with_missing_values
from edgekit.quantize.calibrate.observers import needs_histogram, range_from_statistics
from edgekit.quantize.calibrate.statistics import TensorStatistics
from edgekit.quantize.integer_attention import attention_parts
from edgekit.quantize.selections import selects, values_are_read
from edgekit.quantize.tensor_threads import each_tensor

__all__ = [
    "CalibrationTable",
    "Collected",
    "channels_from_statistics",
    "collect_statistics",
    "graph_digest",
    "observed_tensors",
    "ranges_from_statistics",
]

ALL_STEPS, STRIDE = 32, 16
"""Of a loop, the first steps are observed all, and then one of so many: decoders run for 500, all alike."""
LEAKY_SLOPE = 0.01
"""ONNX's default for LeakyRelu."""

Feeds = Iterable[tuple[str, dict[str, np.ndarray]]]


class CalibrationTable(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of ``calibration.json``: ranges, measured once and valid for every target.

    Attributes:
        format: version of this format; 1 had no tensors of bodies of If, Loop and Scan, and 2 no ``typical``.
        method: the calibration method.
        set: name of the calibration set.
        set_digest: hash of its contents.
        graph_digest: hash of the float graph.
        images: number of inputs used.
        skipped: files that could not be read, each with the reason.
        ranges: min and max of each tensor.
        channels: min and max of each output channel of convolutions, if ``method`` is ``minmax``.
        typical: the largest magnitude of a tensor in one input; the geometric mean over those that are not all zeros.
    """

    format: int = 3
    method: str
    set: str
    set_digest: str
    graph_digest: str
    images: int
    skipped: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]]
    channels: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    typical: dict[str, float] = {}


@dataclass(eq=False)
class Collected:
    """The result of `collect_statistics`: statistics by tensor name, and the number of inputs."""

    statistics: dict[str, TensorStatistics] = field(default_factory=dict)
    inputs: int = 0


def collect_statistics(
    graph: ir.Model,
    tensors: Iterable[ir.Value],
    feeds: Feeds,
    *,
    method: str,
    total: int | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Collected:
    """Runs the float graph on each input and collects statistics of ``tensors``.

    Those of the tensors in bodies of If, Loop and Scan are collected too: each body runs as a graph of its own, as
    often as its node runs it. What never ran is not in the result. Only one input is in memory at a time, and only
    statistics of each tensor are kept. The input of a LeakyRelu is computed from its output, so that ONNX Runtime can
    still fuse it with the convolution.

    Args:
        graph: the float graph; not modified.
        tensors: values of the main graph.
        feeds: id of each input and its arrays by name.
        method: the calibration method; decides whether histograms are needed.
        total: number of inputs, for the progress bar.
        threads: for ONNX Runtime; 0: its default.
        progress: updated after each input.

    Raises:
        CalibrationError: there are no inputs, or a tensor has a NaN that is no missing value; the message names the
            tensor and the input.
    """
    histogram = needs_histogram(method)
    observed = _Observed(graph, tensors, threads=threads)
    everything = observed.everything()
    collected = Collected({name: TensorStatistics(with_histogram=histogram) for name in sorted(everything.names)})
    missing = functools.cache(functools.partial(with_missing_values, graph))
    with (progress or Warnings()).stage("calibrating", total=total, unit="inputs") as advance:
        for input_id, arrays in feeds:
            given = _Input(input_id, arrays.keys())
            observed.run(arrays, functools.partial(_update, collected, given, missing, threads))
            collected.inputs += 1
            advance(1)
    if not collected.inputs:
        raise CalibrationError("the calibration set has no inputs")
    for name in everything.names - observed.names:
        if not collected.statistics[name].seen:
            del collected.statistics[name]
    for name, reader in everything.behind.items():
        after = collected.statistics.get(str(reader.outputs[0].name))
        if after is not None:
            slope = reader.attributes.get_float("alpha", LEAKY_SLOPE) or LEAKY_SLOPE
            collected.statistics[name] = after.before_leaky_relu(slope)
    return collected


class _Names(NamedTuple):
    """Names of tensors whose values are counted, and the LeakyReLUs behind those that are computed from them."""

    names: Set[str]
    behind: Mapping[str, ir.Node]


class _Observed:
    """A graph, or a body in it, with the tensors that are observed in it and in its bodies.

    Args:
        graph: the graph.
        tensors: values of it.
        outside: names that are observed around the body already.
        threads: for ONNX Runtime.
    """

    def __init__(
        self, graph: ir.Model, tensors: Iterable[ir.Value], *, threads: int, outside: Set[str] = frozenset()
    ) -> None:
        wanted = {str(value.name): value for value in tensors if value.name and value.name not in outside}
        self._behind = {name: reader for name, value in wanted.items() if (reader := _leaky_reader(value)) is not None}
        self.names = {name for name in wanted if name not in self._behind}
        self.names |= {str(reader.outputs[0].name) for reader in self._behind.values()}
        self._order = sorted(self.names)
        known = outside | set(wanted)
        self._bodies: list[tuple[Body, _Observed]] = []
        also = set(self.names)
        for body in bodies_with_layers(graph):
            inside = _Observed(body.graph, observed_tensors(body.graph), threads=threads, outside=known)
            self._bodies.append((body, inside))
            also |= set(body.decides)
        also -= {str(value.name) for value in graph.graph.inputs}
        self._evaluator = Evaluator(graph, also=sorted(also), threads=threads, optimized=True)

    def everything(self) -> _Names:
        """Returns the names in the graph and in its bodies."""
        found = [_Names(self.names, self._behind), *(inside.everything() for _, inside in self._bodies)]
        return _Names(
            set().union(*(each.names for each in found)),
            {name: reader for each in found for name, reader in each.behind.items()},
        )

    def run(self, arrays: Mapping[str, np.ndarray], update: Update) -> Mapping[str, np.ndarray]:
        """Runs the graph, and each body as its node does; returns all values by name.

        Args:
            arrays: the inputs.
            update: receives names of observed tensors, and all values.
        """
        values = {**arrays, **self._evaluator.run(dict(arrays))}
        update(self._order, values)
        for body, inside in self._bodies:
            run_as_node(body, values, functools.partial(inside.step, update=update, steps=itertools.count()))
        return values

    def step(self, arrays: Mapping[str, np.ndarray], update: Update, steps: Iterator[int]) -> Mapping[str, np.ndarray]:
        """Runs the graph of a body, and observes this step of a loop if it is not one of many."""
        index = next(steps)
        return self.run(arrays, update if index < ALL_STEPS or index % STRIDE == 0 else _nothing)


Update = Callable[[Sequence[str], Mapping[str, np.ndarray]], None]


def _nothing(_names: Sequence[str], _values: Mapping[str, np.ndarray]) -> None:
    """Observes nothing."""


class _Input(NamedTuple):
    """A calibration input.

    Attributes:
        id: its name in messages.
        names: the names of the model's inputs.
    """

    id: str
    names: Set[str]


def _update(
    collected: Collected,
    given: _Input,
    missing: Callable[[], Set[str]],
    threads: int,
    names: Sequence[str],
    results: Mapping[str, np.ndarray],
) -> None:
    statistics = [collected.statistics[name] for name in names]
    tensors = [results[name] for name in names]
    updated = each_tensor(lambda tensor, index: statistics[index].update(tensor), tensors, threads=threads)
    for index in [index for index, added in enumerate(updated) if not added]:
        name = names[index]
        if name not in missing() or not statistics[index].update(tensors[index], missing=True):
            raise CalibrationError(
                f"tensor '{name}' has a NaN at calibration input '{given.id}', expected finite numbers",
                hint=_hint_of_nan(name, given),
            )


def _hint_of_nan(name: str, given: _Input) -> str:
    if name in given.names:
        return f"'{given.id}' has it: check how it was written, and leave it out"
    if not is_random(given.id):
        return "the float model outputs NaN already: check its weights and its preprocessing"
    fix = either("--input NAME=VALUE", "input={'NAME': VALUE}")
    return (
        "the float model computes it from random numbers: ids are below the number of rows that they select from, "
        f"other integers are 0 or 1. Give real inputs with {argument('calib', like='DIR')}, or fix an input such as a "
        f"length with {fix}"
    )


_FLOATS = ir.TensorType(ir.DataType.FLOAT)
"""A sequence of float tensors has this element type too, and no range."""


def observed_tensors(graph: ir.Model) -> list[ir.Value]:
    """Returns the activations whose ranges a target may need: graph inputs, and outputs of operators that compute.

    Outputs of selections (pooling, reshaping) have the range of their inputs, and are left out, but for the queries,
    keys and values that are parts of one tensor.
    """
    made = [
        output
        for node in graph.graph
        if not selects(node)
        for output in node.outputs
        if output.name and output.type == _FLOATS and values_are_read(output)
    ]
    parts = [value for value in attention_parts(graph) if value.dtype == ir.DataType.FLOAT]
    return [value for value in graph.graph.inputs if value.dtype == ir.DataType.FLOAT] + made + parts


def ranges_from_statistics(statistics: Mapping[str, TensorStatistics], method: str) -> dict[str, tuple[float, float]]:
    """Computes the range of each tensor by ``method``."""
    return {name: range_from_statistics(seen, method) for name, seen in statistics.items()}


def channels_from_statistics(
    graph: ir.Model, statistics: Mapping[str, TensorStatistics]
) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Returns the min and max of each output channel of convolutions."""
    names = [str(node.outputs[0].name) for node in graph.graph.all_nodes() if node.op_type == "Conv"]
    seen = {name: statistics[name] for name in names if name in statistics}
    return {
        name: (tuple(s.channel_lo.tolist()), tuple(s.channel_hi.tolist()))
        for name, s in seen.items()
        if s.channel_lo is not None and s.channel_hi is not None
    }


def graph_digest(graph: ir.Model) -> str:
    """Computes the SHA-256 of the graph's nodes, constants and tensor names, in hexadecimal."""
    digest = hashlib.sha256(repr(sorted(graph.opset_imports.items())).encode())
    _digest_graph(digest, graph.graph)
    return digest.hexdigest()


def _digest_graph(digest: hashlib._Hash, graph: ir.Graph) -> None:
    digest.update(repr([(value.name, str(value.dtype), str(value.shape)) for value in graph.inputs]).encode())
    digest.update(repr([value.name for value in graph.outputs]).encode())
    for node in graph:
        names = [[value.name if value is not None else "" for value in side] for side in (node.inputs, node.outputs)]
        digest.update(repr((node.domain, node.op_type, names)).encode())
        for name, attribute in sorted(node.attributes.items()):
            digest.update(name.encode())
            _digest_attribute(digest, attribute.value)
    for name, value in sorted(graph.initializers.items()):
        digest.update(name.encode())
        _digest_attribute(digest, value.const_value)


def _digest_attribute(digest: hashlib._Hash, value: object) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _digest_attribute(digest, item)
    elif isinstance(value, ir.Graph):
        _digest_graph(digest, value)
    # A comparison with a protocol takes 0.1 ms, and most attributes are numbers.
    elif not isinstance(value, (int, float, str, bytes)) and isinstance(value, ir.TensorProtocol):
        digest.update(repr((str(value.dtype), tuple(value.shape.numpy()))).encode())
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    else:
        digest.update(repr(value).encode())


def _leaky_reader(value: ir.Value) -> ir.Node | None:
    """Returns the LeakyRelu that is the only consumer of ``value``, if it is invertible and in the same graph."""
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or readers[0].op_type != "LeakyRelu" or value.is_graph_output():
        return None
    if readers[0].graph is not value.graph:
        return None
    return readers[0] if readers[0].attributes.get_float("alpha", LEAKY_SLOPE) > 0 else None
