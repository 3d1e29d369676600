"""Finds convolutions that lose much of their output in 8 bits, although they are a small part of the work.

One tensor can cause most of a network's noise. Behind the first layers of a detector, edges are a hundred times as
large as the rest of the image, and a 1x1 convolution takes differences of channels: of what it computes, a step of the
input is a large part. In YOLOv8n, it is the third of 64 convolutions, with 0.7 % of the work.

Matrix products are not looked at: their outlier channels are divided (`edgekit.quantize.passes.smooth_channels`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.graph.insert import new_initializer, zero_point
from edgekit.graph.operators import PRODUCTS
from edgekit.graph.stats import macs_of
from edgekit.quantize.passes.correct_bias import Limits
from edgekit.quantize.plan import Plan
from edgekit.quantize.spread_feeds import spread_feeds
from edgekit.specs import QuantScheme

__all__ = ["decibels", "noisy_convolutions"]

LEAST_DB = 30.0
"""A convolution keeps less of its output if it is to stay in float. The median of a YOLOv8n's and of a YOLOX's is
37 dB, and those that stay in float have 23 to 30 dB."""

MOST_TIME = 0.03
"""Share of the time of all products that float may add for this reason. On processors, a convolution takes up to four
times as long in float (`QuantScheme.float_time`), but no Q is needed before it: with 1 % of the multiply-accumulates in
float, nudenet's detector takes 0.99 to 1.01 of the time on `cpu`, and 1.02 on `openvino`."""

INPUTS = 2
"""Number of inputs that the loss is measured on."""


class _Measured(NamedTuple):
    """Names of the means over pixels that tell the loss of a convolution, ``(N, C, 1, ...)`` each.

    Attributes:
        noise: of the squared error of its output.
        square: of the square of its output.
        mean: of its output.
    """

    noise: str
    square: str
    mean: str


def noisy_convolutions(
    graph: ir.Model,
    plan: Plan,
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    scheme: QuantScheme,
    *,
    threads: int = 0,
) -> frozenset[str]:
    """Finds the convolutions of a plan that lose most by the rounding of their input alone, and together cost little.

    Only those whose input is computed in float are looked at: in the middle of layers on integers, one in float needs
    a conversion before it.

    Args:
        graph: the float graph, with inferred shapes and named nodes; not modified.
        plan: what will be quantized.
        limits: how the first input of each product will be rounded.
        feeds: inputs of the graph; the loss is measured on `INPUTS` of them. Empty: nothing is found.
        scheme: the target's quantization scheme.
        threads: for ONNX Runtime; 0: its default.

    Returns:
        The names of convolutions, which add at most `MOST_TIME` to the time of the plan's products.
    """
    work = {node: macs_of(node, _sizes) for node in plan.nodes if node.op_type in PRODUCTS}
    most = MOST_TIME / (scheme.float_time - 1) * sum(work.values())
    candidates = [node for node in limits if 0 < work.get(node, 0) <= most and _is_measurable(node, plan)]
    if not candidates or not feeds:
        return frozenset()
    kept: set[str] = set()
    used = 0

    def noise_per_work(loss: tuple[float, ir.Node]) -> float:
        return float(10 ** (-loss[0] / 10)) / work[loss[1]]

    for loss_db, node in sorted(_losses(graph, candidates, limits, feeds, threads), key=noise_per_work, reverse=True):
        if loss_db < LEAST_DB and used + work[node] <= most:
            used += work[node]
            kept.add(str(node.name))
    return frozenset(kept)


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """Returns the sizes of a value, 1 where they are dynamic; none if unknown."""
    shape = value.shape if value is not None else None
    return tuple(size if isinstance(size, int) else 1 for size in shape) if shape is not None else ()


def _is_measurable(node: ir.Node, plan: Plan) -> bool:
    data, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    if node.op_type != "Conv" or data is None or weight is None or weight.const_value is None:
        return False
    return data not in plan.integers and data.producer() is not None and len(_sizes(output)) > 2


def _losses(
    graph: ir.Model,
    candidates: Sequence[ir.Node],
    limits: Mapping[ir.Node, Limits],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
) -> list[tuple[float, ir.Node]]:
    """Returns the signal-to-noise ratio in dB of each convolution's output, its channels centered at their means."""
    names = {str(node.name) for node in candidates}
    copy = graph.clone(deep_copy=False)
    twins = {str(node.name): node for node in copy.graph if node.name in names}
    measured = {node: _measure(copy, twins[str(node.name)], limits[node]) for node in candidates}
    also = [name for each in measured.values() for name in each]
    evaluator = Evaluator(copy, also=also, threads=threads, optimized=True)
    results = [evaluator.run(dict(feed)) for feed in spread_feeds(feeds, INPUTS)]
    return [(_signal_to_noise_db(results, each), node) for node, each in measured.items()]


def _signal_to_noise_db(results: Sequence[Mapping[str, np.ndarray]], names: _Measured) -> float:
    def total(name: str, power: int = 1) -> float:
        return sum(float((each[name].astype(np.float64) ** power).sum()) for each in results)

    return decibels(total(names.square) - total(names.mean, 2), total(names.noise))


def decibels(signal: float, noise: float) -> float:
    """Returns the ratio of sums of squares; infinite for no signal, and for NaN or infinities, which tell nothing."""
    told = math.isfinite(signal) and math.isfinite(noise) and signal > 0 and noise > 0
    return 10 * math.log10(signal / noise) if told else math.inf


def _measure(graph: ir.Model, node: ir.Node, limits: Limits) -> _Measured:
    """Adds the convolution of the rounded input behind ``node``, and what tells the error of its output."""
    place = node
    name = f"{node.name}_in_8_bits"

    def add(op_type: str, *inputs: ir.Value | None, attributes: Mapping[str, ir.Attr] | None = None) -> ir.Value:
        nonlocal place
        own = f"{name}_{len(added)}"
        new = ir.Node("", op_type, inputs, attributes=(attributes or {}).values(), name=own)
        new.outputs[0].name = own
        graph.graph.insert_after(place, new)
        added.append(own)
        place = new
        return new.outputs[0]

    added: list[str] = []
    exact = node.outputs[0]
    step = new_initializer(graph, f"{name}_step", np.array(limits.step, np.float32))
    signed = limits.lowest == -limits.highest
    zero = zero_point(graph, np.int8, (), 0) if signed else zero_point(graph, np.uint8, (), -limits.lowest)
    parameters = step, zero
    rounded = add("DequantizeLinear", add("QuantizeLinear", node.inputs[0], *parameters), *parameters)
    error = add("Sub", add("Conv", rounded, *node.inputs[1:], attributes=node.attributes), exact)
    means = [add("GlobalAveragePool", add("Mul", value, value)) for value in (error, exact)]
    means.append(add("GlobalAveragePool", exact))
    return _Measured(*(str(value.name) for value in means))
