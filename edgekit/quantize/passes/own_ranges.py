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
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import insert_behind, new_initializer
from edgekit.graph.stats import CONSTANT_INPUTS, macs_of
from edgekit.quantize.passes.correct_bias import Limits
from edgekit.quantize.plan import Plan, range_source
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


def _divide(graph: ir.Model, data: ir.Value, smallest: float, limits: Range, *, centered: bool) -> _Quotient:
    """Inserts the quotient behind a tensor: by its largest magnitude, or by half of its range, around the center."""
    assert data.shape is not None
    stem, rank = f"{data.name}_own", len(data.shape)
    axes = new_initializer(graph, f"{stem}_axes", np.arange(1, rank))
    least = new_initializer(graph, f"{stem}_least", np.array(smallest, np.float32))
    kept = ir.Shape([data.shape[0], *[1] * (rank - 1)])
    (lo, hi), largest = limits, max(-limits[0], limits[1])
    nodes: list[tuple[ir.Node, Range]] = []

    def add(operator: str, inputs: Sequence[ir.Value], name: str, range_: Range, constants: str = "") -> ir.Value:
        shape = data.shape if operator in ("Abs", "Sub", "Div") and inputs[0].shape == data.shape else kept
        nodes.append((_node(operator, inputs, f"{stem}_{name}", shape, constants), range_))
        return nodes[-1][0].outputs[0]

    source, center = data, None
    if centered:
        half = new_initializer(graph, f"{stem}_half", np.array(0.5, np.float32))
        highest = add("ReduceMax", [data, axes], "max", (lo, hi), "1")
        lowest = add("ReduceMin", [data, axes], "min", (lo, hi), "1")
        # Halves first: the sum of two numbers of half precision may be beyond it.
        above, below = (
            add("Mul", [v, half], f"half_{n}", (lo, hi), "1") for v, n in ((highest, "max"), (lowest, "min"))
        )
        center = add("Add", [above, below], "center", (lo, hi))
        size = add("Sub", [above, below], "span", (0.0, (hi - lo) / 2))
        source = add("Sub", [data, center], "centered", (lo - hi, hi - lo))
    else:
        magnitudes = add("Abs", [data], "magnitudes", (0.0, largest))
        size = add("ReduceMax", [magnitudes, axes], "largest", (0.0, largest), "1")
    divisor = add("Max", [size, least], "range", (0.0, largest), "1")
    value = add("Div", [source, divisor], "quotient", (-1.0 if lo < 0 else 0.0, 1.0))
    insert_behind(graph.graph, data, [node for node, _ in nodes])
    found = {str(node.outputs[0].name): range_ for node, range_ in nodes}
    return _Quotient(value, divisor, center, limits if centered else (0.0, 0.0), found)


def _restore(graph: ir.Model, node: ir.Node, quotient: _Quotient, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Multiplies the output of a convolution, and adds its bias and that of the center behind.

    Returns:
        The ranges of the new tensors, as far as they are known.
    """
    result, rank = node.outputs[0], len(node.outputs[0].shape or ())
    name, uses, outputs = result.name, [(use.node, use.idx) for use in result.uses()], graph.graph.outputs
    nodes = [_node("Mul", [result, quotient.divisor], f"{node.name}_multiplied", result.shape)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    behind: ir.Value | None = None
    least = most = 0.0
    if quotient.center is not None:
        assert node.inputs[1] is not None and node.inputs[1].const_value is not None
        array = node.inputs[1].const_value.numpy()
        sums = array.sum(axis=tuple(range(1, array.ndim)), dtype=np.float64).astype(np.float32)
        column = new_initializer(graph, f"{node.name}_sums", sums.reshape(-1, *[1] * (rank - 2)))
        assert quotient.center.shape is not None
        shape = ir.Shape([quotient.center.shape[0], len(sums), *[1] * (rank - 2)])
        nodes.append(_node("Mul", [quotient.center, column], f"{node.name}_of_center", shape))
        behind = nodes[-1].outputs[0]
        ends = np.outer(quotient.limits, sums)
        least, most = float(ends.min()), float(ends.max())
    if bias is not None and bias.const_value is not None:
        array = bias.const_value.numpy()
        column = new_initializer(graph, f"{bias.name}_column", array.reshape(-1, *[1] * (rank - 2)))
        node.replace_input_with(2, None)
        if behind is not None:
            nodes.append(_node("Add", [behind, column], f"{node.name}_with_center", behind.shape))
            column = nodes[-1].outputs[0]
        behind, least, most = column, least + float(array.min()), most + float(array.max())
    found = dict[str, Range]()
    if behind is not None:
        if name is not None and name in ranges:
            lo, hi = ranges[name]
            found[str(nodes[0].outputs[0].name)] = lo - most, hi - least
            found |= {str(each.outputs[0].name): (least, most) for each in nodes[1:]}
        nodes.append(_node("Add", [nodes[0].outputs[0], behind], f"{node.name}_with_bias", result.shape))
    last = nodes[-1].outputs[0]
    graph.graph.insert_after(node, nodes)
    for user, index in uses:
        user.replace_input_with(index, last)
    if result.is_graph_output():
        outputs[outputs.index(result)] = last
    # A name stands for one value: what the convolution computes now is another one than before.
    result.name = f"{name}_of_quotient"
    last.name = name
    return found


def _node(
    operator: str, inputs: Sequence[ir.Value | None], name: str, shape: ir.Shape | None, constants: str = ""
) -> ir.Node:
    metadata = {CONSTANT_INPUTS: constants} if constants else None
    node = ir.node(operator, inputs, name=name, metadata_props=metadata)
    value = node.outputs[0]
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), shape
    return node


def _observed(
    graph: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]], threads: int
) -> Iterator[tuple[str, Range]]:
    evaluator = Evaluator(graph, also=names, threads=threads, optimized=True)
    results = [evaluator.run(dict(feed)) for feed in feeds]
    for name in names:
        arrays = [each[name] for each in results]
        yield name, (min(0.0, *(float(a.min()) for a in arrays)), max(0.0, *(float(a.max()) for a in arrays)))
