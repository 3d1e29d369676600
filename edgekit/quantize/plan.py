"""Chooses which nodes of a graph run on integers for a target, and which tensors get a Q/DQ pair."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import onnx_ir as ir

from edgekit.errors import UsageError, nearest
from edgekit.graph.operators import BIASED_PRODUCTS, PRODUCTS, RANDOM
from edgekit.quantize.float_attention import attention_in_float
from edgekit.quantize.float_products import fused_reader, fuses, is_activation, why_float_product
from edgekit.quantize.head_layers import head_layers
from edgekit.quantize.integer_attention import integer_attentions
from edgekit.quantize.kernel_limits import limit_of
from edgekit.quantize.selections import copies, range_source, selects, values_are_read
from edgekit.specs import QuantScheme

__all__ = [
    "NEEDS_ZERO_POINT",
    "NOISY_INPUT",
    "NOTHING_KEPT",
    "STAYS_IN_FLOAT",
    "Plan",
    "QuantPolicy",
    "matching",
    "plan_from_graph",
]

NOISY_INPUT = "8 bits of its input lose much of its output, and it is a small part of the work"
REFUSED = "the target computes it in float, with or without Q/DQ pairs"
NOISY_ATTENTION = "8 bits for its factors, as of attention, leave too few bits of the result"
STAYS_IN_FLOAT = "edgekit.stays_in_float"
"""Metadata of a node that a pass of quantization made: the reason why it stays in float."""

NOISY = "it adds much of the noise"
OF_CONSTANTS = "it depends on no input, and is computed once, when the engine is built or loaded"
NEEDS_ZERO_POINT = "its input has negative values, and the target has no integer kernel with a zero point for it"


@dataclass(frozen=True)
class QuantPolicy:
    """What stays in float although the target could quantize it.

    Attributes:
        keep_float: patterns of node names.
        keep_heads: keep the layers that `head_layers` finds in float too.
        head_outputs: names of the outputs of the detector's head, if it is known.
        refused: names of nodes that the target did not compute on integers when it was asked to.
        noisy: names of nodes that add much of the noise of the outputs.
        noisy_attention: names of products of attentions whose results would have too few bits.
        noisy_inputs: names of nodes that lose much by the rounding of their inputs alone; None: those that
            `edgekit.quantize.noisy_layers` finds.
        split_outliers: multiply a few outlier channels of matrix products in float.
        shift_inputs: subtract constants from the inputs of matrix products, if the scheme has no zero points.
    """

    keep_float: tuple[str, ...] = ()
    keep_heads: bool = False
    head_outputs: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    noisy: frozenset[str] = frozenset()
    noisy_attention: frozenset[str] = frozenset()
    noisy_inputs: frozenset[str] | None = None
    split_outliers: bool = False
    shift_inputs: bool = False


NOTHING_KEPT = QuantPolicy()


@dataclass(eq=False)
class Plan:
    """A quantization plan: what is quantized. ``nodes`` and ``tensors`` are ordered sets: the keys of dictionaries.

    Attributes:
        nodes: the nodes that run on integers, in graph order.
        tensors: the activations that get a Q/DQ pair, in graph order.
        integers: the members of ``tensors`` that a node in ``nodes`` computes; all their consumers read the DQ.
        signed: the members of ``tensors`` that are queries, keys or values of an attention on integers: ``int8``.
        split: products that stay in float and read the DQ (`QuantScheme.split_channels`).
        skipped: products that stay in float, by node name, with the reason.
    """

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    tensors: dict[ir.Value, None] = field(default_factory=dict)
    integers: set[ir.Value] = field(default_factory=set)
    signed: set[ir.Value] = field(default_factory=set)
    split: set[ir.Node] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)


def plan_from_graph(
    graph: ir.Model,
    scheme: QuantScheme,
    policy: QuantPolicy = NOTHING_KEPT,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Plan:
    """Chooses the nodes that run on integers.

    Products (convolutions and matrix products) do, unless they are kept in float. Other operators of the scheme
    do if all their inputs are integers already, so that no pair is added only for them.

    Args:
        graph: not modified; node names are unique.
        scheme: the target's quantization scheme.
        policy: what stays in float.
        ranges: min and max of each tensor by name; None before calibration.

    Raises:
        UsageError: a pattern matches no node.
    """
    kept = _of_constants(graph)
    kept |= head_layers(graph, policy.head_outputs) if policy.keep_heads else {}
    made = {node: node.metadata_props.get(STAYS_IN_FLOAT) for node in graph.graph}
    kept |= {node: reason for node, reason in made.items() if reason}
    kept |= {node: NOISY for node in graph.graph if node.name in policy.noisy}
    kept |= {node: NOISY_INPUT for node in graph.graph if node.name in (policy.noisy_inputs or ())}
    kept |= {node: REFUSED for node in graph.graph if node.name in policy.refused}
    kept |= {node: NOISY_ATTENTION for node in graph.graph if node.name in policy.noisy_attention}
    kept |= matching(list(graph.graph.all_nodes()), policy.keep_float)
    kept |= _needing_zero_point(graph, scheme, ranges or {})
    attention = attention_in_float(graph, scheme)
    plan = _planned(graph, scheme, {**attention, **kept})
    if not plan.nodes and (scheme.stem_channels or scheme.slow_convolutions or attention):
        # A network of two narrow convolutions consists of a stem only, and one may consist of an attention only.
        plan = _planned(graph, msgspec.structs.replace(scheme, stem_channels=0, slow_convolutions=()), kept)
    _take_attentions(graph, scheme, kept, plan)
    return plan


def _take_attentions(graph: ir.Model, scheme: QuantScheme, kept: Mapping[ir.Node, str], plan: Plan) -> None:
    """Adds the attentions that run on integers."""
    for found in integer_attentions(graph, scheme, kept):
        plan.nodes.update(dict.fromkeys(found.nodes))
        plan.tensors.update(dict.fromkeys((*found.signed, found.weights)))
        plan.signed.update(found.signed)
        for node in found.nodes:
            plan.skipped.pop(node.name or "", None)
    if plan.signed:
        plan.nodes = dict.fromkeys(node for node in graph.graph if node in plan.nodes)
        plan.tensors = dict.fromkeys(value for value in _values(graph) if value in plan.tensors)


def _values(graph: ir.Model) -> Iterator[ir.Value]:
    yield from graph.graph.inputs
    for node in graph.graph:
        yield from node.outputs


def _of_constants(graph: ir.Model) -> dict[ir.Node, str]:
    """Finds the products that depend on no input, such as those of learned queries.

    They are left where what they read is not folded. With Q/DQ pairs, OpenVINO 2026.4 folds a part of them, and fails
    to build some graphs: "contains empty child edge".
    """
    varying = {value for value in graph.graph.inputs if value.const_value is None}
    found = {}
    for node in graph.graph:
        has_body = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
        if has_body or node.op_type in RANDOM or not varying.isdisjoint(filter(None, node.inputs)):
            varying.update(node.outputs)
        elif node.op_type in PRODUCTS:
            found[node] = OF_CONSTANTS
    return found


def _needing_zero_point(
    graph: ir.Model, scheme: QuantScheme, ranges: Mapping[str, tuple[float, float]]
) -> dict[ir.Node, str]:
    """Finds the products that stay in float because their input has negative values."""
    products = [
        node for node in graph.graph if node.op_type in scheme.without_zero_point and node.inputs[0] is not None
    ]
    sources = {node: range_source(node.inputs[0]).name or "" for node in products if node.inputs[0] is not None}
    return {node: NEEDS_ZERO_POINT for node, name in sources.items() if name in ranges and ranges[name][0] < 0}


def _planned(graph: ir.Model, scheme: QuantScheme, kept: dict[ir.Node, str]) -> Plan:
    plan = Plan()
    for node in graph.graph:
        reason = _why_float(node, scheme, kept, plan)
        if reason is None:
            _take(node, scheme, plan)
        elif node.op_type in PRODUCTS and reason:
            plan.skipped[node.name or ""] = reason
            if _is_split(node, scheme, plan):
                _take_input(node.inputs[0], scheme, plan)
                # Not a selection from a tensor whose pair serves it too.
                plan.split.update({node} if node.inputs[0] in plan.tensors else ())
    return plan


def matching(nodes: Sequence[ir.Node], patterns: Sequence[str]) -> dict[ir.Node, str]:
    """Finds the nodes whose names match one of ``patterns``, each with the reason why it stays in float.

    Raises:
        UsageError: a pattern matches no node.
    """
    found: dict[ir.Node, str] = {}
    for pattern in patterns:
        matched = [node for node in nodes if fnmatch.fnmatchcase(node.name or "", pattern)]
        if not matched:
            names = [node.name or "" for node in nodes if node.op_type in PRODUCTS]
            raise UsageError(
                f"keep-float pattern '{pattern}' matches no node of the graph", hint=nearest(pattern, names)
            )
        found.update(dict.fromkeys(matched, f"kept by '{pattern}'"))
    return found


def _why_float(node: ir.Node, scheme: QuantScheme, kept: dict[ir.Node, str], plan: Plan) -> str | None:
    """Why ``node`` stays in float; None where it does not."""
    if node in kept:
        return kept[node]
    if not any(map(values_are_read, node.outputs)):
        return "only its shape is read"
    if node.domain not in ("", "ai.onnx") or node.op_type not in scheme.operators | scheme.fused_activations:
        return "the target has no integer kernel for it"
    if node.op_type in PRODUCTS:
        return why_float_product(node, scheme)
    # A fused activation function reads its product's result directly; no separate tensor is quantized there.
    if not _reads_integers(node, scheme, plan):
        return None if _is_fused(node, scheme, plan) else "its inputs are not quantized"
    if node.op_type == "Resize" and not copies(node):
        return "it interpolates or extrapolates"
    return limit_of(node, scheme.limits)


def _data_inputs(node: ir.Node) -> int | None:
    """Returns how many of the inputs are data (None: all); the others are shapes, scales and limits."""
    return None if node.op_type in ("Add", "Mul", "Concat") else 1


def _is_fused(node: ir.Node, scheme: QuantScheme, plan: Plan) -> bool:
    value = node.inputs[0] if node.inputs else None
    producer = value.producer() if value is not None else None
    return (
        fuses(node, scheme)
        and producer is not None
        and producer in plan.nodes
        and producer.op_type in PRODUCTS | {"Add"}
        and value not in plan.integers
        and not _outputs_floats(producer, scheme)
    )


def _reads_integers(node: ir.Node, scheme: QuantScheme, plan: Plan) -> bool:
    """Whether all data inputs of ``node`` are integers, or, with Q/DQ at inputs only, can become integers."""
    read = [value for value in node.inputs[: _data_inputs(node)] if value is not None]
    if scheme.quantize_outputs:
        # A pair at a product's input serves other consumers too: the shortcut around the first block after a float
        # stem. A model input may be finer than 8 bits, and is not rounded only for a sum.
        return bool(read) and all(value in plan.tensors and value.producer() is not None for value in read)
    return bool(read) and node.op_type in scheme.operators and all(value.producer() in plan.nodes for value in read)


def _take(node: ir.Node, scheme: QuantScheme, plan: Plan) -> None:
    plan.nodes[node] = None
    if node.op_type in scheme.operators:
        for value in node.inputs if node.op_type in PRODUCTS | {"Add", "Mul", "Concat"} else node.inputs[:1]:
            if not _is_bias(node, value):
                _take_input(value, scheme, plan)
    if node.op_type not in scheme.quantize_outputs | scheme.fused_activations or not scheme.quantize_outputs:
        return
    outputs = [value for value in node.outputs if value.name and value.dtype == ir.DataType.FLOAT]
    if len(outputs) == 1 and fused_reader(outputs[0], scheme) is not None:
        return
    if _outputs_floats(node, scheme):
        return
    for value in outputs:
        plan.tensors[value] = None
        plan.integers.add(value)


def _outputs_floats(node: ir.Node, scheme: QuantScheme) -> bool:
    """Whether a product's result gets no pair: a Gemm's kernel can output floats, and scores need more than 8 bits."""
    return bool(scheme.quantize_outputs) and node.op_type == "Gemm" and node.outputs[0].is_graph_output()


def _take_input(value: ir.Value | None, scheme: QuantScheme, plan: Plan) -> None:
    if is_activation(value) and not _is_selected(value, scheme, plan):
        plan.tensors.setdefault(value)


def _is_split(node: ir.Node, scheme: QuantScheme, plan: Plan) -> bool:
    """Whether ``node``, which stays in float, can read the 8-bit result of a node in the plan."""
    data, weight = node.inputs[0], node.inputs[1]
    if not scheme.split_channels or node.op_type != "Conv" or weight is None or weight.const_value is None:
        return False
    _, channels, *window = weight.const_value.shape.numpy()
    moves = any(node.attributes.get_ints("pads", ())) or any(n != 1 for n in node.attributes.get_ints("strides", ()))
    pointwise = tuple(window) == (1, 1) and not moves and node.attributes.get_int("group", 1) == 1
    return pointwise and channels >= scheme.split_channels and data is not None and data.producer() in plan.nodes


def _is_selected(value: ir.Value | None, scheme: QuantScheme, plan: Plan) -> bool:
    """Whether ``value`` was selected from a tensor whose pair serves it too: OpenVINO does not fuse a second pair."""
    producer = value.producer() if value is not None else None
    return producer is not None and producer in plan.nodes and selects(producer) and not scheme.quantize_outputs


def _is_bias(node: ir.Node, value: ir.Value | None) -> bool:
    return node.op_type in BIASED_PRODUCTS and len(node.inputs) > 2 and node.inputs[2] is value
