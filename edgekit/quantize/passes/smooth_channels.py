"""Divides the outlier channels of the inputs of matrix products, and multiplies the weights that read them.

In Transformers, a few channels of a normalization's output are many times as large as the others, and one scale for
the whole tensor leaves the others a few steps. ``(X / s) (s W) = X W`` for a factor ``s`` of each channel, so that a
part of the range moves from the input, which has one scale, to the weights, which have one for each column (Xiao et
al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023). The
division costs nothing where constants before the tensor can be divided (`edgekit.quantize.passes.divide_channels`),
such as the weights of a LayerNormalization; else it is a Mul.

A few channels may also be taken out: a second, small product multiplies them in float (Dettmers et al., "LLM.int8():
8-bit Matrix Multiplication for Transformers at Scale", NeurIPS 2022; here they are chosen once). Their factor is
infinite: what the first product reads of them is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import float_node, insert_behind
from edgekit.quantize.passes.divide_channels import Constant, constants_before, divide_constants, keeps_last_axis
from edgekit.quantize.passes.observed_channels import ChannelsSeen, Extremes, ObservedChannels
from edgekit.quantize.passes.split_channels import split_channels
from edgekit.quantize.plan import Plan
from edgekit.quantize.qdq import parameters_from_range, weight_scales
from edgekit.quantize.selections import range_source
from edgekit.specs import QuantScheme

__all__ = ["input_matrix", "is_matrix_product", "smoothed_ranges"]

Range = tuple[float, float]

COLUMNS = 512
"""About how many columns of a product's weights its error is computed on."""

POWERS = (0.4, 0.55, 0.7, 0.85)
"""Strengths (alpha in the paper): part of each channel's range that moves to its weights."""
LIMITS = (2.0, 3.0, 4.5, 6.0, 9.0)
"""Other strengths: by how much the range of the tensor shrinks if only the channels that exceed it then are divided.
Of MiniLM's six GELUs, each with a channel of up to 24 among others below 6, this has 5 to 9 dB less noise."""

MIN_GAIN_DB = 0.2
MIN_GAIN_OF_MUL_DB = 2.0
"""Least gain of a product's signal-to-noise ratio; a Mul takes time, and dividing constants does not."""
SPLITS = (1, 2, 4, 8)
"""Numbers of channels to take out."""
MIN_GAIN_OF_SPLIT_DB = 1.0
"""What that must gain beyond the best factors: the second product takes time too."""
FINE_DB = 33.0
"""A product that has this ratio adds nothing to the noise of its neighbours, and gets no Mul."""

MIN_ROWS = 48
"""Least number of rows that the magnitudes of channels are taken from: of a few vectors, a channel that was zero by
chance would be enlarged, and cut off in the next input."""
MIN_PART = 0.01
"""Channels below this part of the largest count as that large, for the same reason."""

MIN_FACTOR, MAX_FACTOR = 1e-4, 1e4


@dataclass
class _Group:
    """Products that read the same channels.

    Attributes:
        value: the tensor to divide.
        products: the products that read it, directly or through operators that keep the last axis.
        constants: what is divided before it; empty: a Mul divides it.
        divided: the tensors that change with the constants, ``value`` included.
    """

    value: ir.Value
    products: list[ir.Node]
    constants: list[Constant] = field(default_factory=list)
    divided: list[ir.Value] = field(default_factory=list)


def smoothed_ranges(
    graph: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    scheme: QuantScheme,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    splits: bool = False,
    threads: int = 0,
    known: ObservedChannels | None = None,
) -> dict[str, Range]:
    """Divides channels and multiplies weights where a product then has a smaller error, in place.

    The error is that of the product in the scheme's integers, on rows of calibration inputs. Where no strength reduces
    it, nothing changes.

    Args:
        graph: the float graph; weights change, and Muls are inserted; its results stay the same.
        plan: what will be quantized; valid for the new graph only if no Mul was inserted, that is if ``plan`` is
            made again.
        ranges: min and max of each tensor.
        scheme: the target's quantization scheme.
        feeds: inputs of the graph; the first `INPUTS` are used.
        splits: a few channels may be taken out.
        threads: for ONNX Runtime; 0: its default.
        known: what was observed of this graph and these inputs before; receives what is new.

    Returns:
        The ranges of the tensors of the new graph.
    """
    groups = list(_groups(graph, plan))
    if not groups or not feeds:
        return dict(ranges)
    judged = {str(group.value.name) for group in groups}
    names = {str(value.name) for group in groups for value in (group.value, *group.divided)}
    seen = (known or ObservedChannels()).observed(
        graph, {(name, name in judged) for name in names}, feeds, threads=threads
    )
    new = dict(ranges)
    for group in groups:
        factors = _best_factors(group, seen, ranges, scheme, SPLITS if splits and not group.constants else ())
        if factors is not None:
            _divide(graph, group, factors, seen, new)
    return new


def _groups(graph: ir.Model, plan: Plan) -> Iterator[_Group]:
    """Yields the groups of products, each product once."""
    roots: dict[ir.Value, list[ir.Node]] = {}
    for node in plan.nodes:
        if is_matrix_product(node) and node.inputs[0] is not None and node.inputs[0].const_value is None:
            roots.setdefault(_root(node.inputs[0]), []).append(node)
    for root, products in roots.items():
        readers = _readers(root)
        before = constants_before(root) if readers is not None else None
        if readers is not None and before is not None:
            yield _Group(root, readers, before.constants, before.divided)
            continue
        direct: dict[ir.Value, list[ir.Node]] = {}
        for node in products:
            assert node.inputs[0] is not None
            direct.setdefault(node.inputs[0], []).append(node)
        # A Mul of an input of the graph would be another pass over it, and images have no outlier channels.
        yield from (_Group(value, own) for value, own in direct.items() if value.producer() is not None)


def is_matrix_product(node: ir.Node) -> bool:
    """Whether the node multiplies its first input by a constant matrix, along the last axis of the input."""
    if node.op_type not in ("MatMul", "Gemm"):
        return False
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or weight.is_graph_output() or weight.is_graph_input():
        return False
    return len(weight.const_value.shape) == 2 and node.attributes.get_int("transA", 0) == 0


def _root(value: ir.Value) -> ir.Value:
    node = value.producer()
    while node is not None and keeps_last_axis(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _readers(root: ir.Value) -> list[ir.Node] | None:
    """Returns the products that read ``root``, through operators that keep the last axis; None if others read it."""
    found: dict[ir.Node, None] = {}
    stack = [root]
    while stack:
        value = stack.pop()
        if value.is_graph_output():
            return None
        for use in value.uses():
            if use.idx == 0 and keeps_last_axis(use.node):
                stack += use.node.outputs
            elif use.idx == 0 and is_matrix_product(use.node):
                found[use.node] = None
            else:
                return None
    return list(found)


def _best_factors(
    group: _Group,
    seen: Mapping[str, ChannelsSeen],
    ranges: Mapping[str, Range],
    scheme: QuantScheme,
    splits: Sequence[int],
) -> np.ndarray | None:
    """Returns the factors that divide the channels, float32 ``(C,)``; None if none reduces the error enough.

    Factors that are taken from every other input are judged on the others: an outlier of one input only is not one of
    a channel, and the next input has it elsewhere.
    """
    found = seen.get(str(group.value.name))
    if found is None or sum(counts.sum() for counts in found.counts) < MIN_ROWS:
        return None
    room = _room(group.value, found, ranges)
    half, whole = found.extremes(slice(0, None, 2)), found.extremes(slice(None))
    rows, counts = (np.concatenate(parts[1::2] or parts) for parts in (found.rows, found.counts))
    matrices = [input_matrix(node) for node in group.products]
    readers = np.max([np.maximum(matrix.max(1), -matrix.min(1)) for matrix in matrices], 0)
    weights = [_some_columns(matrix, len(matrices)) for matrix in matrices]
    exact = [rows @ weight for weight in weights]
    energies = [float(counts @ np.square(each).sum(1)) or np.inf for each in exact]

    def noise(factors: np.ndarray) -> float:
        data = _rounded(rows / factors, *_scaled_range(whole, factors, room), scheme)
        out = np.isinf(factors)
        scaled = np.where(out, 0, factors)[:, None]
        got = [data @ _rounded_weights(weight * scaled, scheme) + rows[:, out] @ weight[out] for weight in weights]
        errors = [float(counts @ np.square(a - b).sum(1)) for a, b in zip(got, exact, strict=True)]
        return sum(error / energy for error, energy in zip(errors, energies, strict=True)) / len(got)

    before = noise(np.ones(len(readers), np.float32))
    if not before or (not group.constants and -10 * np.log10(before) > FINE_DB):
        return None
    noises = [
        noise(factors) * (10 ** (MIN_GAIN_OF_SPLIT_DB / 10) if np.isinf(factors).any() else 1)
        for factors in _candidates(half.magnitudes, readers, splits)
    ]
    best = int(np.argmin(noises))
    if before < noises[best] * 10 ** ((MIN_GAIN_DB if group.constants else MIN_GAIN_OF_MUL_DB) / 10):
        return None
    return _candidates(whole.magnitudes, readers, splits)[best]


def _candidates(largest: np.ndarray, readers: np.ndarray, splits: Sequence[int] = ()) -> list[np.ndarray]:
    """Returns the factors to try, float32 ``(C,)`` each, 1 for channels of zeros, infinite for those to take out.

    Args:
        largest: magnitude of each channel.
        readers: largest magnitude of the weights that read it.
        splits: numbers of channels to take out.
    """
    order = np.argsort(-largest, kind="stable")
    used = (largest > 0) & (readers > 0)
    largest = np.maximum(largest, MIN_PART * largest.max(initial=0.0))
    channels, weights = np.where(used, largest, 1.0), np.where(used, readers, 1.0)
    powers = [channels**power / weights ** (1 - power) for power in POWERS]  # equation 4 of the paper
    limits = [np.maximum(1.0, channels * limit / largest.max(initial=MIN_FACTOR)) for limit in LIMITS]
    tried = np.clip([*powers, *limits], MIN_FACTOR, MAX_FACTOR)
    whole = list(np.where(used, tried, 1.0).astype(np.float32))
    parts = [np.where(np.isin(np.arange(len(order)), order[:count]), np.inf, 1.0) for count in splits]
    return whole + [part.astype(np.float32) for part in parts if np.isfinite(part).any()]


def _room(value: ir.Value, found: ChannelsSeen, ranges: Mapping[str, Range]) -> float:
    """Returns the ratio of the tensor's range to that of the observed inputs, which are a part of the calibration."""
    lo, hi = ranges.get(str(range_source(value).name), (0.0, 0.0))
    observed = max(float(-found.lo.min()), float(found.hi.max()))
    return max(-lo, hi) / observed if observed > 0 and max(-lo, hi) > 0 else 1.0


def _scaled_range(found: Extremes, factors: np.ndarray, room: float) -> Range:
    lo, hi = float((found.lo / factors).min()), float((found.hi / factors).max())
    return min(lo, 0.0) * room, max(hi, 0.0) * room


def input_matrix(node: ir.Node) -> np.ndarray:
    """Returns the weights, with the channels of the input as rows."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    matrix = weight.const_value.numpy()
    return matrix.T if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1 else matrix


def _some_columns(matrix: np.ndarray, products: int) -> np.ndarray:
    step = -(-matrix.shape[1] * products // COLUMNS)
    return np.ascontiguousarray(matrix[:, :: max(1, step)], np.float32)


def _rounded(rows: np.ndarray, lo: float, hi: float, scheme: QuantScheme) -> np.ndarray:
    how = parameters_from_range(lo, hi, scheme.activation_dtype)
    smallest, largest = (-127, 127) if how.zero_point.dtype == np.int8 else (0, 255)
    zero = int(how.zero_point)
    steps = np.rint(rows * np.float32(1 / how.scale))
    return np.asarray(np.clip(steps, smallest - zero, largest - zero) * how.scale)


def _rounded_weights(matrix: np.ndarray, scheme: QuantScheme) -> np.ndarray:
    scales = weight_scales(matrix, 1 if scheme.per_channel_weights else None, scheme.weight_bits).astype(np.float32)
    return np.asarray(np.rint(matrix / scales) * scales)


def _divide(
    graph: ir.Model, group: _Group, factors: np.ndarray, seen: Mapping[str, ChannelsSeen], ranges: dict[str, Range]
) -> None:
    """Divides the channels of a group, multiplies the weights, and updates ranges."""
    if group.constants:
        divide_constants(graph, group.constants, factors)
        for value in group.divided:
            name = str(value.name)
            if name in ranges and name in seen:
                ranges[name] = _scaled_range(
                    seen[name].extremes(slice(None)), factors, _room(value, seen[name], ranges)
                )
    else:
        found = seen[str(group.value.name)]
        out = np.flatnonzero(np.isinf(factors))
        if len(out):
            split_channels(graph, group.value, group.products, out)
        divided = _insert_mul(graph, group, factors)
        ranges[str(divided.name)] = _scaled_range(
            found.extremes(slice(None)), factors, _room(group.value, found, ranges)
        )
    factors = np.where(np.isinf(factors), np.float32(1), factors)
    for node in group.products:
        axis = 1 if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1 else 0
        divide_constants(graph, [Constant(node, 1, axis)], 1 / factors)


def _insert_mul(graph: ir.Model, group: _Group, factors: np.ndarray) -> ir.Value:
    """Inserts a Mul behind the group's tensor, which its products read."""
    name = f"{group.value.name}_smoothed"
    constant = ir.val(f"{name}_factors", const_value=ir.tensor((1 / factors).astype(np.float32)))
    graph.graph.register_initializer(constant)
    node = float_node("Mul", [group.value, constant], name, group.value.shape, constants="1")
    result = node.outputs[0]
    insert_behind(graph.graph, group.value, [node])
    for product in group.products:
        product.replace_input_with(0, result)
    return result
