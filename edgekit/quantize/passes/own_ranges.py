"""Divides the input of a convolution by its own range in each run, where inputs differ much in it.

One range for all inputs leaves few steps to those that need a small part of it. ``conv(x) = s conv((x - c) / s) + c
sum(w)`` for any numbers ``s`` and ``c``: with the center of ``x`` and half of its range, the quotient has the range
-1..1 in every run. Of a convolution with pads, ``c`` is 0 and ``s`` the largest magnitude. It costs a pass over the
input and one over the output.

magika, whose inputs are the bytes of a file, normalizes them over all positions: a few files have values of 40, and
most none above 14. On 80 files that did not calibrate, `openvino` keeps 43 dB, and 39 without the center, in 1.04 of
the time; `cpu`, which has none, 36, and 20 with it; the graph for TensorRT 42 and 39. Its time on a GPU is not yet
measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import float_node, insert_behind, new_initializer, pass_on
from edgekit.graph.stats import macs_of
from edgekit.quantize.passes.correct_bias import Limits
from edgekit.quantize.plan import Plan
from edgekit.quantize.selections import range_source
from edgekit.specs import Precision

__all__ = ["own_ranges"]

Range = tuple[float, float]

LEAST_RATIO = 2.0
"""Of the largest magnitude of all inputs to the geometric mean of those of each: a bit that most inputs do not use."""
ENOUGH_DB = 28.0
"""A convolution whose rounded input keeps more, in the median of inputs, stays as it is. magika's keeps 22 dB."""
LEAST_WORK = 256
"""Multiply-accumulates for each element that is read or written once more: a tenth of the time at most."""
INPUTS = 8
"""Number of inputs that the range of outputs is taken from."""
SMALLEST = {Precision.FP32: 1e-20, Precision.FP16: 2.0**-14}
"""Least divisor, by the precision that it is computed in: a tensor of zeros is divided by it. That of FP16 is its least
normal number; values below have fewer digits, and 1e-20 is zero."""


def own_ranges(
    graph: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    typical: Mapping[str, float],
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    rest: Precision = Precision.FP32,
    centers: bool = True,
    threads: int = 0,
) -> dict[str, Range]:
    """Divides inputs of convolutions of a plan, and restores their outputs, in place.

    Args:
        graph: the float graph, with inferred shapes and named nodes; its results stay the same.
        plan: what will be quantized; to be made again if the ranges have changed.
        ranges: min and max of each tensor, over all inputs.
        typical: the largest magnitude of each tensor in one input, as `CalibrationTable.typical`.
        limits: how the first input of each product would be rounded.
        feeds: inputs of the graph, to observe the tensors on; the first `INPUTS` are used. Empty: nothing changes.
        rest: precision of what is not quantized, which computes the quotient.
        centers: subtract the center of the range first. Where outputs of convolutions are rounded too, this loses more
            than it gains: what the center adds differs from run to run, and one range has to hold it.
        threads: for ONNX Runtime; 0: its default.

    Returns:
        The ranges, with those of the new tensors.
    """
    candidates = [node for node in limits if feeds and _is_divided(node, plan, ranges, typical)]
    found = _noisy(graph, candidates, limits, feeds[:INPUTS], threads)
    padded = {node.inputs[0] for node in found if _is_padded(node)}
    new, divided = dict(ranges), dict[ir.Value, _Quotient]()
    for node in found:
        data = node.inputs[0]
        assert data is not None
        if data not in divided:
            lo, hi = ranges[str(range_source(data).name)]
            # What is at least 0 has all steps as it is, and pads of 0 would need another number behind the division.
            centered = centers and lo < 0 and data not in padded
            divided[data] = _divide(graph, data, SMALLEST[rest], (lo, hi), centered=centered)
            new |= divided[data].ranges
        quotient = divided[data]
        node.replace_input_with(0, quotient.value)
        new |= _restore(graph, node, quotient, ranges)
    if found:
        new.update(_observed(graph, [str(node.outputs[0].name) for node in found], feeds[:INPUTS], threads))
    return new


def _noisy(
    graph: ir.Model,
    nodes: Sequence[ir.Node],
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
) -> list[ir.Node]:
    """Returns the nodes whose rounded input keeps less than `ENOUGH_DB`, in the median of inputs."""
    if not nodes:
        return []
    inputs = {value.name for value in graph.graph.inputs}
    names = {node: str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None}
    evaluator = Evaluator(graph, also=sorted(set(names.values()) - inputs), threads=threads, optimized=True)
    energies: dict[str, list[float]] = {name: [] for name in names.values()}
    for feed in feeds:
        values = {**feed, **evaluator.run(dict(feed))}
        for name, found in energies.items():
            found.append(float(np.square(values[name].astype(np.float64)).mean()))
    noise = {node: limits[node].step ** 2 / 12 for node in nodes}
    ratios = {node: float(np.median(energies[names[node]])) / noise[node] for node in nodes}
    return [node for node in nodes if 0 < ratios[node] < 10 ** (ENOUGH_DB / 10)]


def _is_divided(node: ir.Node, plan: Plan, ranges: Mapping[str, Range], typical: Mapping[str, float]) -> bool:
    data, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if node.op_type != "Conv" or data is None or weight is None or weight.const_value is None or data in plan.integers:
        return False
    name = str(range_source(data).name)
    usual = typical.get(name, 0.0)
    if name not in ranges or not usual or max(-ranges[name][0], ranges[name][1]) < LEAST_RATIO * usual:
        return False
    passes = 2 * math.prod(_sizes(data)) + 2 * math.prod(_sizes(result))
    return macs_of(node, _sizes) >= LEAST_WORK * passes > 0


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """Returns the sizes of a value, 1 where they are dynamic; 0 if unknown."""
    shape = value.shape if value is not None else None
    return tuple(size if isinstance(size, int) else 1 for size in shape) if shape is not None else (0,)


class _Quotient(NamedTuple):
    """What a convolution reads in place of its input: ``(x - center) / divisor``.

    Attributes:
        value: the quotient.
        divisor: one number for each item of the batch.
        center: likewise; None if nothing is subtracted.
        limits: min and max of ``center``.
        ranges: those of the tensors that compute it.
    """

    value: ir.Value
    divisor: ir.Value
    center: ir.Value | None
    limits: Range
    ranges: dict[str, Range]


def _is_padded(node: ir.Node) -> bool:
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    return any(node.attributes.get_ints("pads", ())) or auto not in ("NOTSET", "VALID")


@dataclass
class _NewNodes:
    """Nodes that are to be inserted, in order.

    Attributes:
        stem: how their names start.
        nodes: the nodes.
        ranges: min and max of their results, by name, as far as they are known.
    """

    stem: str
    nodes: list[ir.Node] = field(default_factory=list)
    ranges: dict[str, Range] = field(default_factory=dict)

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        name: str,
        shape: ir.Shape | None,
        range_: Range | None,
        constants: str = "",
    ) -> ir.Value:
        """Adds a node, and returns its result."""
        node = float_node(operator, inputs, f"{self.stem}_{name}", shape, constants=constants)
        self.nodes.append(node)
        result = node.outputs[0]
        if range_ is not None:
            self.ranges[str(result.name)] = range_
        return result


def _divide(graph: ir.Model, data: ir.Value, smallest: float, limits: Range, *, centered: bool) -> _Quotient:
    """Inserts the quotient behind a tensor: by its largest magnitude, or by half of its range, around the center."""
    assert data.shape is not None
    new, whole = _NewNodes(f"{data.name}_own"), data.shape
    one = ir.Shape([whole[0], *[1] * (len(whole) - 1)])  # a number for each item of the batch
    axes = new_initializer(graph, f"{new.stem}_axes", np.arange(1, len(whole)))
    least = new_initializer(graph, f"{new.stem}_least", np.array(smallest, np.float32))
    (lo, hi), largest = limits, max(-limits[0], limits[1])
    source, center = data, None
    if centered:
        half = new_initializer(graph, f"{new.stem}_half", np.array(0.5, np.float32))
        highest = new.add("ReduceMax", [data, axes], "max", one, limits, "1")
        lowest = new.add("ReduceMin", [data, axes], "min", one, limits, "1")
        # Halves first: the sum of two numbers of half precision may be beyond it.
        above = new.add("Mul", [highest, half], "half_max", one, limits, "1")
        below = new.add("Mul", [lowest, half], "half_min", one, limits, "1")
        center = new.add("Add", [above, below], "center", one, limits)
        size = new.add("Sub", [above, below], "span", one, (0.0, (hi - lo) / 2))
        source = new.add("Sub", [data, center], "centered", whole, (lo - hi, hi - lo))
    else:
        magnitudes = new.add("Abs", [data], "magnitudes", whole, (0.0, largest))
        size = new.add("ReduceMax", [magnitudes, axes], "largest", one, (0.0, largest), "1")
    divisor = new.add("Max", [size, least], "range", one, (0.0, largest), "1")
    value = new.add("Div", [source, divisor], "quotient", whole, (-1.0 if lo < 0 else 0.0, 1.0))
    insert_behind(graph.graph, data, new.nodes)
    return _Quotient(value, divisor, center, limits if centered else (0.0, 0.0), new.ranges)


def _restore(graph: ir.Model, node: ir.Node, quotient: _Quotient, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Multiplies the output of a convolution, and adds its bias and that of the center behind.

    Returns:
        The ranges of the new tensors, as far as they are known.
    """
    result, new = node.outputs[0], _NewNodes(str(node.name))
    name, rank = str(result.name), len(result.shape or ())
    behind: ir.Value | None = None
    added = 0.0, 0.0
    multiplied = new.add("Mul", [result, quotient.divisor], "multiplied", result.shape, None)
    if quotient.center is not None:
        behind, added = _bias_of_center(graph, node, quotient.center, quotient.limits, new)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const_value is not None:
        array = bias.const_value.numpy()
        column = new_initializer(graph, f"{bias.name}_column", array.reshape(-1, *[1] * (rank - 2)))
        node.replace_input_with(2, None)
        added = added[0] + float(array.min()), added[1] + float(array.max())
        if behind is not None:
            column = new.add("Add", [behind, column], "with_center", behind.shape, added)
        behind = column
    if behind is not None:
        if name in ranges:
            new.ranges[str(multiplied.name)] = ranges[name][0] - added[1], ranges[name][1] - added[0]
        new.add("Add", [multiplied, behind], "with_bias", result.shape, None)
    pass_on(graph.graph, result, new.nodes, renamed=f"{name}_of_quotient")
    if result.name == name:  # it is no output of the graph
        # A name stands for one value: what the convolution computes now is another one than before.
        result.name, new.nodes[-1].outputs[0].name = f"{name}_of_quotient", name
    return new.ranges if name in ranges else {}


def _bias_of_center(
    graph: ir.Model, node: ir.Node, center: ir.Value, limits: Range, new: _NewNodes
) -> tuple[ir.Value, Range]:
    """Multiplies the center by the sums of the weights; returns the products with their range."""
    assert node.inputs[1] is not None and node.inputs[1].const_value is not None and center.shape is not None
    weights = node.inputs[1].const_value.numpy()
    sums = weights.sum(axis=tuple(range(1, weights.ndim)), dtype=np.float64).astype(np.float32)
    ones = [1] * (weights.ndim - 2)
    column = new_initializer(graph, f"{node.name}_sums", sums.reshape(-1, *ones))
    ends = np.outer(limits, sums)
    found = float(ends.min()), float(ends.max())
    shape = ir.Shape([center.shape[0], len(sums), *ones])
    return new.add("Mul", [center, column], "of_center", shape, found), found


def _observed(
    graph: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]], threads: int
) -> Iterator[tuple[str, Range]]:
    evaluator = Evaluator(graph, also=names, threads=threads, optimized=True)
    results = [evaluator.run(dict(feed)) for feed in feeds]
    for name in names:
        arrays = [each[name] for each in results]
        yield name, (min(0.0, *(float(a.min()) for a in arrays)), max(0.0, *(float(a.max()) for a in arrays)))
