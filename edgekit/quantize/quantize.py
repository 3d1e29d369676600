"""From a float graph and its calibration table to a quantized graph for one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.operators import PRODUCTS
from edgekit.graph.passes import RemoveDead
from edgekit.quantize.calibrate.collect import CalibrationTable
from edgekit.quantize.passes.concat_scales import share_concat_ranges, without_pairs_behind
from edgekit.quantize.passes.equalize import equalized_ranges, matched_ranges
from edgekit.quantize.passes.pad_channels import pad_channels
from edgekit.quantize.passes.pool_first import pool_first
from edgekit.quantize.passes.propagate_qdq import propagate_qdq
from edgekit.quantize.plan import Plan, plan_from_graph
from edgekit.quantize.qdq import insert_qdq
from edgekit.specs import QuantScheme

__all__ = ["quantized_graph", "require_quantizable"]


def require_quantizable(
    graph: ir.Model, scheme: QuantScheme, *, keep_float: Sequence[str] = (), keep_heads: bool = False
) -> Plan:
    """What `quantized_graph` would do with the same arguments, known before anything is calibrated.

    Raises:
        GraphError: nothing in the graph can be quantized; says why.
        UsageError: a pattern matches no node.
    """
    plan = plan_from_graph(graph, scheme, keep_float, keep_heads=keep_heads)
    if scheme.propagated:
        propagate_qdq(graph, plan, scheme)
    if not plan.nodes:
        raise GraphError(
            "nothing in the graph can be quantized: expected convolutions or matrix products, got "
            + _products(graph, plan),
            hint="build it with --fp32",
        )
    return plan


def _products(graph: ir.Model, plan: Plan) -> str:
    """What there is of them."""
    if plan.skipped:
        return f"{len(plan.skipped)} that stay in float ({'; '.join(sorted(set(plan.skipped.values())))})"
    inside = sum(node.op_type in PRODUCTS for node in graph.graph.all_nodes())
    return f"{inside} inside of If or Loop, where nothing is quantized" if inside else "none"


def quantized_graph(
    graph: ir.Model,
    table: CalibrationTable,
    scheme: QuantScheme,
    *,
    keep_float: Sequence[str] = (),
    keep_heads: bool = False,
) -> Plan:
    """Quantizes ``graph`` in place, as ``scheme`` wants it.

    Args:
        graph: the float graph that ``table`` was measured on.
        table: ranges of its tensors.
        scheme: of the target.
        keep_float: patterns of names of nodes that stay in float.
        keep_heads: the last layers before outputs that are no scores stay in float too.

    Returns:
        What was quantized, and which layers were not and why.

    Raises:
        GraphError: there is nothing in the graph to quantize.
        CalibrationError: the table lacks a tensor.
        UsageError: a pattern matches no node.
    """
    plan = require_quantizable(graph, scheme, keep_float=keep_float, keep_heads=keep_heads)
    ranges: Mapping[str, tuple[float, float]] = table.ranges
    # Where the activation function is computed before anything is quantized, what lies far below zero has lost its
    # size already, and scaling channels only brings it back: YOLOv3-tiny on OpenVINO agreed 0.91 instead of 0.99.
    if table.channels and scheme.quantize_outputs:
        ranges = equalized_ranges(graph, plan, ranges, table.channels)
    elif not scheme.quantize_outputs and not scheme.propagated:
        ranges = matched_ranges(graph, plan, ranges)
    pool_first(graph, plan)
    ranges = share_concat_ranges(plan, ranges, scheme)
    plan.tensors = without_pairs_behind(plan, ranges, scheme)
    insert_qdq(graph, plan, ranges, scheme)
    pad_channels(graph, plan, scheme.channel_multiple)
    RemoveDead()(graph)  # the float weights
    return plan
