"""Quantizes a float graph for one target, using its calibration table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.graph.bodies import Body, bodies_with_layers, changed_bodies
from edgekit.graph.operators import PRODUCTS
from edgekit.graph.passes import NameNodes, RemoveDead
from edgekit.quantize.bodies import NEVER_RAN, feeds_of_bodies, policy_of_body, products_in_bodies
from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.quantize.head_layers import HEAD
from edgekit.quantize.noisy_layers import noisy_convolutions
from edgekit.quantize.noisy_products import noisy_products
from edgekit.quantize.passes.clip_silu import clipped_silu_ranges
from edgekit.quantize.passes.concat_scales import share_concat_ranges, without_pairs_behind
from edgekit.quantize.passes.correct_bias import input_means
from edgekit.quantize.passes.equalize import equalized_ranges, matched_ranges
from edgekit.quantize.passes.judge_attention import judged_attentions
from edgekit.quantize.passes.observed_channels import ObservedChannels
from edgekit.quantize.passes.own_ranges import own_ranges
from edgekit.quantize.passes.pad_channels import pad_channels
from edgekit.quantize.passes.pool_first import pool_first
from edgekit.quantize.passes.propagate_qdq import propagate_qdq
from edgekit.quantize.passes.shift_inputs import shift_inputs, with_rounded_offsets
from edgekit.quantize.passes.smooth_channels import smoothed_ranges
from edgekit.quantize.plan import NOTHING_KEPT, Plan, QuantPolicy, plan_from_graph
from edgekit.quantize.qdq import FloatFactors, input_limits, insert_qdq
from edgekit.quantize.selections import range_source
from edgekit.specs import QuantScheme

__all__ = ["QuantizedGraph", "quantized_from_graph", "require_quantizable"]

Range = tuple[float, float]


class QuantizedGraph(NamedTuple):
    """A graph with Q/DQ pairs.

    Attributes:
        graph: the new graph; weights that did not change are shared with the float graph.
        plan: what is quantized in the main graph, and which layers are not, with the reasons; those in bodies too.
        exact: weights and biases of the products of the main graph before they were rounded, by the product's name.
        ranges: min and max of the tensors of the main graph before they were rounded, as far as they are known.
    """

    graph: ir.Model
    plan: Plan
    exact: Mapping[str, FloatFactors]
    ranges: Mapping[str, Range]


def require_quantizable(
    graph: ir.Model,
    scheme: QuantScheme,
    policy: QuantPolicy,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Plan:
    """Returns the plan that `quantized_from_graph` makes from the same arguments.

    Before calibration, ``ranges`` is None; a few of the layers in the plan may stay in float then. The plan is that of
    the main graph; it may be empty if a body of an If, Loop or Scan has something to quantize.

    Raises:
        GraphError: nothing in the graph can be quantized; the message says why.
        UsageError: a pattern matches no node.
    """
    plan = plan_from_graph(graph, scheme, policy, ranges=ranges)
    if scheme.propagated:
        propagate_qdq(graph, plan, scheme)
    if plan.nodes:
        return plan
    bodies = list(_plans_of_bodies(graph, scheme, policy))
    if not any(inside.nodes for inside in bodies):
        skipped = {name: reason for each in (plan, *bodies) for name, reason in each.skipped.items()}
        raise GraphError(
            "nothing in the graph can be quantized: expected convolutions or matrix products, got "
            + _products(graph, skipped),
            hint=f"build it with {argument('precision', 'fp32')}" + _or_its_heads(skipped),
        )
    return plan


def _plans_of_bodies(graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy) -> Iterator[Plan]:
    """Yields the plan of each body in which the target computes integers."""
    for body in bodies_with_layers(graph) if scheme.bodies else ():
        inside = policy_of_body(body, policy)
        yield plan_from_graph(body.graph, scheme, inside)
        yield from _plans_of_bodies(body.graph, scheme, inside)


def _or_its_heads(skipped: Mapping[str, str]) -> str:
    heads = HEAD in skipped.values()
    return f", or quantize its last layers too with {argument('quantize_heads', True)}" if heads else ""


def _products(graph: ir.Model, skipped: Mapping[str, str]) -> str:
    """Describes the convolutions and matrix products of the graph, for an error message."""
    if skipped:
        return f"{len(skipped)} that stay in float ({'; '.join(sorted(set(skipped.values())))})"
    inside = len(products_in_bodies(graph))
    return f"{inside} inside of If, Loop or Scan, where nothing is quantized" if inside else "none"


def quantized_from_graph(
    graph: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    policy: QuantPolicy = NOTHING_KEPT,
    *,
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
    threads: int = 0,
    channels: ObservedChannels | None = None,
) -> QuantizedGraph:
    """Quantizes a graph for a target's quantization scheme.

    Args:
        graph: the float graph that ``table`` was measured on; not modified.
        table: ranges of its tensors.
        scheme: the target's quantization scheme.
        policy: what stays in float.
        feeds: inputs of the graph, to smooth outlier channels and to correct biases for the mean error on some of
            them. Empty: neither is done.
        threads: for ONNX Runtime; 0: its default.
        channels: what was observed of this graph on ``feeds`` before; receives what is new.

    Raises:
        GraphError: nothing in the graph can be quantized.
        CalibrationError: the table lacks a tensor.
        UsageError: a pattern matches no node.
    """
    require_quantizable(graph, scheme, policy, table.ranges)
    return _quantized(graph, table, scheme, policy, feeds, threads, channels)


def _quantized(
    graph: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    policy: QuantPolicy,
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    channels: ObservedChannels | None = None,
) -> QuantizedGraph:
    """Quantizes the main graph, where it has something to quantize, and the bodies in it."""
    graph = graph.clone(deep_copy=False)
    skipped: dict[str, str] = {}
    if scheme.bodies:
        # Before the main graph, whose passes then see quantized readers in the bodies, which they leave alone.
        runs = feeds_of_bodies(graph, feeds, threads=threads)

        def change(body: Body) -> bool:
            inside = policy_of_body(body, policy)
            if not _has_ranges(body.graph, scheme, inside, table.ranges):
                skipped.update(dict.fromkeys(_products_of(body.graph), NEVER_RAN))
                return False
            found = _quantized(body.graph, table, scheme, inside, runs.get(body.name, ()), threads)
            body.graph = found.graph
            skipped.update(found.plan.skipped)
            return True

        changed_bodies(graph, change)
        NameNodes()(graph)
    plan = plan_from_graph(graph, scheme, policy, ranges=table.ranges)
    found = QuantizedGraph(graph, plan, {}, table.ranges)
    if plan.nodes:
        found = _quantize_main(graph, table, scheme, policy, feeds, threads, channels)
    found.plan.skipped |= skipped
    return found


def _has_ranges(
    graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy, ranges: Mapping[str, tuple[float, float]]
) -> bool:
    """Whether each tensor that would be quantized in a body was seen."""
    plan = plan_from_graph(graph, scheme, policy)
    return all(range_source(value).name in ranges for value in plan.tensors)


def _products_of(graph: ir.Model) -> list[str]:
    return [node.name or "" for node in graph.graph.all_nodes() if node.op_type in PRODUCTS]


def _quantize_main(
    graph: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    policy: QuantPolicy,
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    channels: ObservedChannels | None,
) -> QuantizedGraph:
    """Quantizes the nodes of the main graph, in place."""
    ranges: Mapping[str, Range] = table.ranges
    judged = judged_attentions(graph, scheme, ranges, feeds, threads=threads)
    ranges = {**ranges, **judged.ranges}
    policy = replace(policy, noisy_attention=policy.noisy_attention | judged.noisy)
    plan = require_quantizable(graph, scheme, policy, ranges)
    if scheme.own_ranges:
        ranges = own_ranges(
            graph,
            plan,
            ranges,
            table.typical,
            input_limits(plan, ranges, scheme),
            feeds,
            rest=scheme.rest,
            centers="Conv" not in scheme.quantize_outputs,
            threads=threads,
        )
        plan = require_quantizable(graph, scheme, policy, ranges)
    ranges = smoothed_ranges(
        graph, plan, ranges, scheme, feeds, splits=policy.split_outliers, threads=threads, known=channels
    )
    plan = require_quantizable(graph, scheme, policy, ranges)  # smoothing inserts nodes
    offsets: dict[ir.Node, float] = {}
    if scheme.shift_inputs and policy.shift_inputs:
        ranges, offsets = shift_inputs(graph, plan, ranges, input_limits(plan, ranges, scheme), feeds, threads=threads)
        plan = require_quantizable(graph, scheme, policy, ranges)
    before = policy
    if policy.noisy_inputs is None:
        limits = input_limits(plan, ranges, scheme)
        noisy = noisy_convolutions(graph, plan, limits, feeds, scheme, threads=threads)
        policy = replace(policy, noisy_inputs=noisy or None)
    noisy = noisy_products(graph, plan, ranges, feeds, scheme, threads=threads)
    policy = replace(policy, noisy_attention=policy.noisy_attention | noisy)
    if policy != before:
        plan = require_quantizable(graph, scheme, policy, ranges)
    # If the activation function is computed before quantization, large negative values are already small, and
    # scaling channels makes them large again: YOLOv3-tiny on OpenVINO agreed 0.91 instead of 0.99.
    if table.channels and scheme.quantize_outputs:
        ranges = equalized_ranges(graph, plan, ranges, table.channels)
    elif not scheme.quantize_outputs and not scheme.propagated:
        ranges = matched_ranges(graph, plan, ranges)
    pool_first(graph, plan)
    whole = ranges
    ranges = share_concat_ranges(plan, clipped_silu_ranges(plan, ranges), scheme)
    plan.tensors = dict.fromkeys(without_pairs_behind(plan, ranges, scheme))
    means = input_means(graph, input_limits(plan, ranges, scheme), feeds, threads=threads)
    exact = insert_qdq(graph, plan, ranges, scheme, means)
    exact = with_rounded_offsets(graph, offsets, exact)
    pad_channels(graph, plan, scheme.channel_multiple)
    RemoveDead()(graph)  # the float weights
    return QuantizedGraph(graph, plan, exact, whole)
