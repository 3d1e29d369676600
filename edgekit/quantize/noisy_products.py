"""Finds products of two computed factors, as those of attention, that leave too few bits of their result in 8 bits.

The second product of attention averages the values with weights that are small and positive: where some queries attend
to one key and others to two hundred, the weights of the latter are a few steps. Attention as
`edgekit.graph.attention` finds it is judged so by `edgekit.quantize.passes.judge_attention`; others compute their
weights in another way, as ConViT, which mixes two Softmaxes. With such products in float, a ConViT-Tiny with random
weights keeps 33 dB on `cpu` instead of 16, in 1.02 of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.quantize.noisy_layers import LEAST_DB, decibels
from edgekit.quantize.passes.judge_attention import inserted_pair
from edgekit.quantize.plan import Plan
from edgekit.quantize.selections import range_source
from edgekit.quantize.spread_feeds import spread_feeds
from edgekit.specs import QuantScheme

__all__ = ["noisy_products"]

INPUTS = 2
"""Number of inputs that the noise is measured on."""

Range = tuple[float, float]


def noisy_products(
    graph: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    feeds: Sequence[Mapping[str, np.ndarray]],
    scheme: QuantScheme,
    *,
    threads: int = 0,
) -> frozenset[str]:
    """Computes products of a plan with both factors rounded, and returns the names of those that keep too little.

    Args:
        graph: the float graph, with named nodes; not modified.
        plan: what will be quantized; products of attention on integers are not looked at.
        ranges: min and max of each tensor by name.
        feeds: inputs of the graph; the noise is measured on `INPUTS` of them. Empty: nothing is found.
        scheme: the target's quantization scheme.
        threads: for ONNX Runtime; 0: its default.

    Returns:
        Names of the products that keep less than `LEAST_DB`.
    """
    names = {str(node.name) for node in plan.nodes if _is_judged(node, plan, ranges)}
    if not names or not feeds:
        return frozenset()
    copy = graph.clone(deep_copy=False)
    energies = {node: _energies(copy, node, ranges, scheme) for node in list(copy.graph) if node.name in names}
    also = [name for pair in energies.values() for name in pair]
    evaluator = Evaluator(copy, also=also, threads=threads, optimized=True)
    results = [evaluator.run(dict(feed)) for feed in spread_feeds(feeds, INPUTS)]

    def total(name: str) -> float:
        return sum(float(each[name].sum()) for each in results)

    return frozenset(
        str(node.name) for node, (noise, signal) in energies.items() if decibels(total(signal), total(noise)) < LEAST_DB
    )


def _is_judged(node: ir.Node, plan: Plan, ranges: Mapping[str, Range]) -> bool:
    """Whether a node is a product of two computed factors that have ranges."""
    if node.op_type != "MatMul" or len(node.inputs) != 2:
        return False
    factors = [value for value in node.inputs if value is not None and value.const_value is None]
    known = all(str(range_source(value).name) in ranges for value in factors)
    return len(factors) == 2 and known and not plan.signed.intersection(factors)


def _energies(graph: ir.Model, node: ir.Node, ranges: Mapping[str, Range], scheme: QuantScheme) -> tuple[str, str]:
    """Adds the product of the rounded factors, and sums of squares: of its error, and of the exact product."""
    pairs = {
        value: inserted_pair(graph, value, ranges[str(range_source(value).name)], scheme.activation_dtype, node)
        for value in node.inputs
        if value is not None
    }
    exact = node.outputs[0]
    product = ir.node(
        "MatMul", [pairs[value] for value in node.inputs if value is not None], name=f"{node.name}.rounded"
    )
    error = ir.node("Sub", [product.outputs[0], exact], name=f"{node.name}.error")
    sums = [
        ir.node("ReduceSumSquare", [value], name=f"{node.name}.{what}")
        for what, value in (("noise", error.outputs[0]), ("signal", exact))
    ]
    for new in (product, error, *sums):
        new.outputs[0].name = f"{new.name}.output"
    graph.graph.insert_after(node, [product, error, *sums])
    noise, signal = (str(each.outputs[0].name) for each in sums)
    return noise, signal
