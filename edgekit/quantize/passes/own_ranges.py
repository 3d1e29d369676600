"""Divides the input of a convolution by its own largest magnitude in each run, where inputs differ much in it.

One range for all inputs leaves few steps to those that need a small part of it. ``conv(x) = s conv(x / s)`` for any
number ``s``: with the largest magnitude of ``x``, the quotient has the range -1..1 in every run. It costs a pass over
the input and one over the output. magika, whose inputs are the bytes of a file, normalizes them over all positions: a
few files have values of 40, and most none above 14. On 40 files that did not calibrate, it keeps 35 dB instead of 25
on `cpu`, and 37 instead of 35 on `openvino`, in 1.05 of the time. The graph for TensorRT, in
FP16 before and behind the convolution, keeps 42 dB instead of 26; on a GPU its time is not yet measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

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
    threads: int = 0,
) -> dict[str, Range]:
    """Divides inputs of convolutions of a plan, and multiplies their outputs, in place.

    Args:
        graph: the float graph, with inferred shapes and named nodes; its results stay the same.
        plan: what will be quantized; to be made again if the ranges have changed.
        ranges: min and max of each tensor, over all inputs.
        typical: the largest magnitude of each tensor in one input, as `CalibrationTable.typical`.
        limits: how the first input of each product would be rounded.
        feeds: inputs of the graph, to observe the tensors on; the first `INPUTS` are used. Empty: nothing changes.
        rest: precision of what is not quantized, which computes the quotient.
        threads: for ONNX Runtime; 0: its default.

    Returns:
        The ranges, with those of the new tensors.
    """
    candidates = [node for node in limits if feeds and _is_divided(node, plan, ranges, typical)]
    found = _noisy(graph, candidates, limits, feeds[:INPUTS], threads)
    new, divided = dict(ranges), dict[ir.Value, tuple[ir.Value, ir.Value]]()
    for node in found:
        data = node.inputs[0]
        assert data is not None
        if data not in divided:
            divided[data] = _divide(graph, data, SMALLEST[rest])
            lo, hi = ranges[str(range_source(data).name)]
            new[str(divided[data][0].name)] = (-1.0 if lo < 0 else 0.0, 1.0)
            new |= {str(value.name): (0.0, max(-lo, hi)) for value in _between(divided[data][1])}
        node.replace_input_with(0, divided[data][0])
        new |= _multiply(graph, node, divided[data][1], ranges)
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


def _divide(graph: ir.Model, data: ir.Value, smallest: float) -> tuple[ir.Value, ir.Value]:
    """Inserts ``x / max(abs(x))`` behind a tensor; returns the quotient and the divisor, one number for each item."""
    assert data.shape is not None
    stem, rank = f"{data.name}_own", len(data.shape)
    axes = new_initializer(graph, f"{stem}_axes", np.arange(1, rank))
    least = new_initializer(graph, f"{stem}_least", np.array(smallest, np.float32))
    magnitudes = _node("Abs", [data], f"{stem}_magnitudes", data.shape)
    kept = ir.Shape([data.shape[0], *[1] * (rank - 1)])
    largest = _node("ReduceMax", [magnitudes.outputs[0], axes], f"{stem}_largest", kept, constants="1")
    divisor = _node("Max", [largest.outputs[0], least], f"{stem}_range", kept, constants="1")
    quotient = _node("Div", [data, divisor.outputs[0]], f"{stem}_quotient", data.shape)
    insert_behind(graph.graph, data, [magnitudes, largest, divisor, quotient])
    return quotient.outputs[0], divisor.outputs[0]


def _between(divisor: ir.Value) -> Iterator[ir.Value]:
    """Yields the divisor, and the magnitudes that it is the largest of."""
    node = divisor.producer()
    while node is not None and node.op_type in ("Abs", "Max", "ReduceMax"):
        yield node.outputs[0]
        node = node.inputs[0].producer() if node.inputs[0] is not None else None


def _multiply(graph: ir.Model, node: ir.Node, divisor: ir.Value, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Multiplies the output of a convolution, and adds its bias behind; returns the range of what is new, if known."""
    result, found = node.outputs[0], dict[str, Range]()
    name, uses, outputs = result.name, [(use.node, use.idx) for use in result.uses()], graph.graph.outputs
    nodes = [_node("Mul", [result, divisor], f"{node.name}_multiplied", result.shape)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const_value is not None:
        array = bias.const_value.numpy()
        column = new_initializer(graph, f"{bias.name}_column", array.reshape(-1, *[1] * (len(result.shape or ()) - 2)))
        node.replace_input_with(2, None)
        nodes.append(_node("Add", [nodes[0].outputs[0], column], f"{node.name}_with_bias", result.shape))
        if name is not None and name in ranges:
            lo, hi = ranges[name]
            found[str(nodes[0].outputs[0].name)] = lo - float(array.max()), hi - float(array.min())
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
