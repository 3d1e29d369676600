"""Equalizes the ranges of a tensor's channels, so that one scale serves all of them.

LeakyRelu, Relu, pooling, resizing and concatenation are homogeneous: ``f(x / s) = f(x) / s`` for ``s > 0``. So a
convolution's output channel may be divided by a number if all consumers multiply their input channel by it. The
model computes the same, and a channel of small values is no longer lost in the step size that a channel of large
values needs (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, which
uses the ranges of weights; here it is those of activations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgekit.quantize.plan import Plan
from edgekit.quantize.selections import range_source, selects

__all__ = ["equalized_ranges", "matched_ranges"]

Range = tuple[float, float]
Channels = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]

# Measured on YOLOv3-tiny: 0 is no equalization, 1 gives every channel the same range, without room for values that
# did not occur in calibration.
STRENGTH = 0.7
HEADROOM = 1.3
MIN_PART = 1e-3
# The lower limit of a LeakyRelu's input, as a fraction of its max: lower values are scaled down by the LeakyRelu, and
# would cost all others resolution.
NEGATIVE_PART = 1.0
STEEPEST_CLIPPED_SLOPE = 0.25
# Not clipped if negative outputs are larger than this fraction of the max: then they carry information.
MAX_CLIPPED_PART = 0.3
# Nor if a channel, negative nearly everywhere, would lose more of its own range than this.
MAX_CLIPPED_SHARE = 0.3
# Outside these limits, products of scales and weights may not be float32 numbers.
MIN_SIZE, MAX_SIZE = 1e-12, 1e12

HOMOGENEOUS = frozenset({"AveragePool", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Relu", "Resize"})


@dataclass(frozen=True)
class _Reader:
    """A convolution that reads the equalized channels, and the index of the first of them in its input."""

    node: ir.Node
    offset: int


def equalized_ranges(graph: ir.Model, plan: Plan, ranges: Mapping[str, Range], channels: Channels) -> dict[str, Range]:
    """Equalizes channels where possible, in place, and clips the large negative inputs of LeakyRelus.

    An equalized tensor is scaled so that the max of its largest channel is 1, or that of the tensors it is
    concatenated with.

    Args:
        graph: the float graph; weights and biases of its convolutions change, its results do not.
        plan: what will be quantized.
        ranges: min and max of each tensor, unclipped (``minmax``).
        channels: min and max of each output channel of convolutions.

    Returns:
        The ranges of the tensors of the new graph.
    """
    new = dict(ranges)
    largest = _largest_in_concats(graph, ranges)
    for node in graph.graph:
        if node.op_type == "Conv" and node.outputs[0].name in channels:
            _treat(node, plan, new, channels[str(node.outputs[0].name)], largest.get(node.outputs[0], 0.0))
    for node in graph.graph:
        if node.op_type == "Concat" or _is_homogeneous(node):
            _follow(node, new, ranges)
    for node in plan.nodes:
        if node.op_type == "Concat":
            _share(node, new)
    return new


def matched_ranges(graph: ir.Model, plan: Plan, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Scales whole tensors, in place, so that all inputs of a Concat have ranges of the same width.

    Then one scale serves all of them at little loss (`edgekit.quantize.passes.concat_scales`). A tensor with consumers
    other than convolutions after Concats stays as it is, and the others are matched to the widest of these.

    Args:
        graph: the float graph; weights and biases of its convolutions change, its results do not.
        plan: what will be quantized.
        ranges: min and max of each tensor.

    Returns:
        The ranges of the tensors of the new graph.
    """
    new = dict(ranges)
    position = {node: index for index, node in enumerate(graph.graph)}
    for node in plan.nodes:
        if node.op_type != "Concat":
            continue
        scaled: list[ir.Value] = []
        sources = list(dict.fromkeys(range_source(value) for value in node.inputs if value is not None))
        spans = [_span_of(source, new) for source in sources]
        scalable = [_scalable(source, new) for source in sources]
        fixed = [span for span, found in zip(spans, scalable, strict=True) if found is None]
        target = max(fixed or spans)
        for source, span, found in zip(sources, spans, scalable, strict=True):
            width = _width(source)
            if found is None or width is None or not all(MIN_SIZE < size < MAX_SIZE for size in (span, target)):
                continue
            product, readers = found
            factor = span / target
            _scale_channels(product, readers, np.full(width, factor))
            for value in {product.outputs[0], source}:
                lo, hi = new[str(value.name)]
                new[str(value.name)] = lo / factor, hi / factor
            scaled.append(source)
        for concat in sorted(_concats_after(scaled), key=position.__getitem__):
            _follow(concat, new, ranges)
    return new


def _concats_after(values: Sequence[ir.Value]) -> set[ir.Node]:
    """Returns the Concats whose output has elements of ``values``."""
    found: set[ir.Node] = set()
    seen, stack = set(values), list(values)
    while stack:
        for node in (use.node for use in stack.pop().uses()):
            if node.op_type == "Concat":
                found.add(node)
            elif not selects(node):
                continue
            new = set(node.outputs) - seen
            seen |= new
            stack += new
    return found


def _span_of(value: ir.Value, ranges: Mapping[str, Range]) -> float:
    lo, hi = ranges.get(str(value.name), (0.0, 0.0))
    return hi - lo


def _scalable(source: ir.Value, ranges: Mapping[str, Range]) -> tuple[ir.Node, list[_Reader]] | None:
    """Returns the convolution that computes ``source``, and those that read it through Concats; None if others do."""
    node = source.producer()
    if node is not None and node.op_type in ("LeakyRelu", "Relu") and node.inputs[0] is not None:
        before = node.inputs[0]
        node = before.producer() if _activation(before) is node else None
    if node is None or node.op_type != "Conv" or _own_weights(node) is None:
        return None
    if any(str(value.name) not in ranges for value in (node.outputs[0], source)):
        return None
    readers = _readers(source, copies_only=True)
    return (node, readers) if readers else None


def _treat(
    node: ir.Node,
    plan: Plan,
    ranges: dict[str, Range],
    seen: tuple[tuple[float, ...], tuple[float, ...]],
    concat_max: float,
) -> None:
    """Equalizes one convolution's output, or only clips it; updates its range.

    Args:
        node: the convolution.
        plan: what will be quantized.
        ranges: min and max of each tensor; updated.
        seen: min and max of each output channel.
        concat_max: the largest max of the Concats that the output feeds, so that all inputs get similar ranges; or 0.
    """
    output = node.outputs[0]
    activation = _activation(output)
    slope = _slope(activation)
    lo, hi = np.minimum(seen[0], 0.0), np.maximum(seen[1], 0.0)
    quantized = output in plan.tensors
    readers = _readers(output) if _own_weights(node) is not None else None
    largest = float(hi.max(initial=0.0))
    if MIN_SIZE < largest < MAX_SIZE and readers:
        reach = HEADROOM * np.maximum(hi, -lo * (1.0 if quantized else abs(slope)))
        part = np.clip(reach / largest, MIN_PART, 1.0) ** STRENGTH
        new_max = concat_max or 1.0
        scales = largest / new_max * part
        _scale_channels(node, readers, scales)
        lo, hi, largest = lo / scales, hi / scales, new_max
    smallest = float(lo.min(initial=0.0))
    if quantized and activation is not None and activation.op_type == "LeakyRelu":
        widths, clipped = hi - slope * lo, slope * np.maximum(-NEGATIVE_PART * largest - lo, 0.0)
        small = -slope * smallest <= MAX_CLIPPED_PART * largest and (clipped <= MAX_CLIPPED_SHARE * widths).all()
        if 0.0 <= slope <= STEEPEST_CLIPPED_SLOPE and small:
            smallest = max(smallest, -NEGATIVE_PART * largest)
    ranges[str(output.name)] = (smallest, largest)


def _largest_in_concats(graph: ir.Model, ranges: Mapping[str, Range]) -> dict[ir.Value, float]:
    """Returns the largest max of the Concats that each value feeds, also through other Concats and activations."""
    largest: dict[ir.Value, float] = {}
    for node in reversed(graph.graph):
        if node.op_type not in HOMOGENEOUS | {"Concat"}:
            continue
        output = node.outputs[0]
        after = largest.get(output, 0.0)
        if node.op_type == "Concat":
            after = max(after, ranges.get(str(output.name), (0.0, 0.0))[1])
        for value in node.inputs:
            if value is not None:
                largest[value] = max(largest.get(value, 0.0), after)
    return largest


def _activation(value: ir.Value) -> ir.Node | None:
    """Returns the LeakyRelu or Relu that is the only consumer of ``value``."""
    readers = [use.node for use in value.uses()]
    alone = len(readers) == 1 and not value.is_graph_output()
    return readers[0] if alone and readers[0].op_type in ("LeakyRelu", "Relu") else None


def _slope(activation: ir.Node | None) -> float:
    """Returns the slope for negative inputs."""
    if activation is None:
        return 1.0
    return activation.attributes.get_float("alpha", 0.01) if activation.op_type == "LeakyRelu" else 0.0


def _readers(value: ir.Value, *, copies_only: bool = False) -> list[_Reader] | None:
    """Finds all convolutions that read ``value`` through homogeneous operators and Concats.

    Args:
        value: the output of a convolution or of its activation function.
        copies_only: only through operators that copy or concatenate.

    Returns:
        The convolutions; None if anything else reads ``value``.
    """
    found: list[_Reader] = []
    stack = [(value, 0)]
    while stack:
        part, offset = stack.pop()
        if part.is_graph_output():
            return None
        for use in part.uses():
            node = use.node
            if node.op_type == "Concat":
                before = _channels_before(node, use.idx)
                if before is None:
                    return None
                stack.append((node.outputs[0], offset + before))
            elif use.idx == 0 and _is_homogeneous(node) and (selects(node) or not copies_only):
                stack.append((node.outputs[0], offset))
            elif use.idx == 0 and _is_plain_convolution(node):
                found.append(_Reader(node, offset))
            else:
                return None
    return found


def _is_plain_convolution(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1 and _own_weights(node) is not None


def _channels_before(concat: ir.Node, index: int) -> int | None:
    """Returns how many channels a Concat of channels has before its input ``index``; None if that is not known."""
    widths = [_width(part) for part in concat.inputs[:index]]
    known = [width for width in widths if width is not None]
    return sum(known) if len(known) == len(widths) and concat.attributes.get_int("axis", 0) == 1 else None


def _is_homogeneous(node: ir.Node) -> bool:
    """Whether channels may be scaled before or after ``node`` alike, and its result reaches no further than they do."""
    if node.op_type not in HOMOGENEOUS or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return False
    if node.op_type != "Resize":
        return True
    width = _width(node.inputs[0])
    constant = node.attributes.get_float("extrapolation_value", 0.0)
    return selects(node) and constant == 0.0 and width is not None and width == _width(node.outputs[0])


def _width(value: ir.Value | None) -> int | None:
    size = value.shape[1] if value is not None and value.shape is not None and len(value.shape) > 1 else None
    return size if isinstance(size, int) else None


def _own_weights(node: ir.Node) -> tuple[ir.Value, ir.Value | None] | None:
    """Weight and bias of a convolution, if they are constants that no other node reads."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    parts = [part for part in (weight, bias) if part is not None]
    given = any(part.is_graph_input() or part.is_graph_output() for part in parts)
    if given or any(part.const_value is None or len(part.uses()) != 1 for part in parts):
        return None
    return (weight, bias) if weight is not None else None


def _scale_channels(node: ir.Node, readers: list[_Reader], scales: np.ndarray) -> None:
    own = _own_weights(node)
    assert own is not None
    weight, bias = own
    _multiply(weight, 1.0 / scales, axis=0, offset=0)
    if bias is not None:
        _multiply(bias, 1.0 / scales, axis=0, offset=0)
    for reader in readers:
        parts = _own_weights(reader.node)
        assert parts is not None
        _multiply(parts[0], scales, axis=1, offset=reader.offset)


def _multiply(value: ir.Value, factors: np.ndarray, *, axis: int, offset: int) -> None:
    """Multiplies slices of a constant along ``axis`` by ``factors``, starting at ``offset``."""
    assert value.const_value is not None
    array = value.const_value.numpy().astype(np.float32, copy=True)
    part = [slice(None)] * array.ndim
    part[axis] = slice(offset, offset + len(factors))
    shape = [1] * array.ndim
    shape[axis] = -1
    array[tuple(part)] *= factors.astype(np.float32).reshape(shape)
    value.const_value = ir.tensor(array, name=value.name)


def _follow(node: ir.Node, new: dict[str, Range], old: Mapping[str, Range]) -> None:
    """Updates the range of a node's output after its inputs were scaled."""
    data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    sources = [str(range_source(value).name) for value in data if value is not None]
    if not any(name in new and new[name] != old.get(name) for name in sources) or any(s not in new for s in sources):
        return
    slope = _slope(node) if node.op_type in ("LeakyRelu", "Relu") else 1.0
    lo, hi = slope * min(new[s][0] for s in sources), max(new[s][1] for s in sources)
    new[str(node.outputs[0].name)] = min(lo, 0.0), max(lo, hi)


def _is_cut(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in ("Relu", "Clip")


def _share(node: ir.Node, ranges: dict[str, Range]) -> None:
    """Gives concatenated tensors one range if that costs little: then the copy is exact."""
    sources = [range_source(value) for value in (*node.inputs, *node.outputs) if value is not None]
    names = [str(source.name) for source in sources]
    # The saturation at its own range replaces a Relu or Clip (`Plan`); with another range it runs in float.
    if any(name not in ranges for name in names) or any(_is_cut(source) for source in sources):
        return
    lo, hi = min(ranges[name][0] for name in names), max(ranges[name][1] for name in names)
    if all(hi - lo <= 1.25 * (ranges[name][1] - ranges[name][0]) for name in names):
        ranges.update(dict.fromkeys(names, (lo, hi)))
