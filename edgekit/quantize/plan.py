"""Chooses which nodes of a graph run on integers for a target, and which tensors get a Q/DQ pair."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import onnx_ir as ir

from edgekit.errors import UsageError, nearest
from edgekit.graph.operators import BIASED_PRODUCTS, PRODUCTS
from edgekit.quantize.float_attention import attention_in_float
from edgekit.quantize.head_layers import head_layers
from edgekit.quantize.integer_attention import integer_attentions
from edgekit.quantize.kernel_limits import limit_of
from edgekit.specs import QuantScheme, SlowConvolution

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = [
    "NEEDS_ZERO_POINT",
    "NOISY_INPUT",
    "NOTHING_KEPT",
    "STAYS_IN_FLOAT",
    "Plan",
    "QuantPolicy",
    "copies",
    "matching",
    "plan_from_graph",
    "range_source",
    "selects",
    "values_are_read",
]

SELECTIONS = frozenset(
    "Flatten Identity MaxPool Reshape Resize Slice Split Squeeze Transpose Unsqueeze Upsample".split()
)
"""Operators that only select or move elements: output and input have the same scale."""

STEM_DEPTH = 2
MIN_DOWNSAMPLING = 4

FASTER_IN_FLOAT = "the target computes a convolution of so few channels a group faster in float"
NOISY_INPUT = "8 bits of its input lose much of its output, and it is a small part of the work"
REFUSED = "the target computes it in float, with or without Q/DQ pairs"
NOISY_ATTENTION = "8 bits for the factors of its attention leave too few bits of the result"
STAYS_IN_FLOAT = "edgekit.stays_in_float"
"""Metadata of a node that a pass of quantization made: the reason why it stays in float."""

NOISY = "it adds much of the noise"
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
    kept = head_layers(graph, policy.head_outputs) if policy.keep_heads else {}
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


def range_source(value: ir.Value) -> ir.Value:
    """Returns the tensor whose range ``value`` is quantized with: the one that ``value`` was selected from, if any."""
    node = value.producer()
    while node is not None and selects(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def selects(node: ir.Node) -> bool:
    """Whether the output of ``node`` lies within the range of its input, or is 0, which every range contains.

    Cubic interpolation overshoots, and a Resize that crops fills pixels outside of the image with a number of its own.
    """
    if node.op_type not in SELECTIONS or node.attributes.get_string("mode", "") == "cubic":
        return False
    return not _fills(node) or node.attributes.get_float("extrapolation_value", 0.0) == 0.0


def copies(node: ir.Node) -> bool:
    """Whether each element of the output of ``node`` is one of its input, so that integers may be selected as they are.

    A Resize may interpolate, or fill pixels with a number that is not an integer of the input's scale.
    """
    resizes = node.op_type in ("Resize", "Upsample")
    if resizes and (_fills(node) or node.attributes.get_string("mode", "nearest") != "nearest"):
        return False
    return node.op_type in SELECTIONS


def _fills(node: ir.Node) -> bool:
    return node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"


def values_are_read(value: ir.Value) -> bool:
    """Whether a node reads the numbers of ``value``, and not only its shape."""
    readers = (use.node.op_type for use in value.uses())
    return value.is_graph_output() or any(reader not in ("Shape", "Size", "Cast") for reader in readers)


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
        return _why_float_product(node, scheme)
    # A fused activation function reads its product's result directly; no separate tensor is quantized there.
    if not _reads_integers(node, scheme, plan):
        return None if _is_fused(node, scheme, plan) else "its inputs are not quantized"
    if node.op_type == "Resize" and not copies(node):
        return "it interpolates or extrapolates"
    return limit_of(node, scheme.limits)


def _why_float_product(node: ir.Node, scheme: QuantScheme) -> str | None:
    data, weight = node.inputs[0], node.inputs[1]
    if any(value is None or value.dtype != ir.DataType.FLOAT for value in (data, weight)):
        return "its inputs are not float32"
    assert data is not None and weight is not None
    if reason := _why_float_data(data):
        return reason
    if weight.const_value is None:
        return _why_float_computed(node, scheme)
    if len(weight.const_value.shape) < 2:
        return "its weights are a vector"
    if node.op_type == "Gemm" and (
        node.attributes.get_float("alpha", 1.0) != 1.0
        or node.attributes.get_float("beta", 1.0) != 1.0
        or node.attributes.get_int("transA", 0) != 0
    ):
        return "it scales or transposes its factors"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return "it is a grouped transposed convolution"  # OpenVINO 2026.4 computes it in float, with any scales
    if node.op_type == "Conv" and any(_is_slow(node, each) for each in scheme.slow_convolutions):
        return FASTER_IN_FLOAT
    if not scheme.float_bias and not _has_fitting_bias(node):
        return "its bias is not one constant per channel"
    if _is_stem(node, scheme):
        return f"it is one of the first convolutions and reads {weight.const_value.shape.numpy()[1]} channels"
    return limit_of(node, scheme.limits)


def _is_slow(node: ir.Node, slow: SlowConvolution) -> bool:
    weight, groups = node.inputs[1], node.attributes.get_int("group", 1)
    if weight is None or weight.const_value is None:
        return False
    outputs, channels, *window = weight.const_value.shape.numpy()
    kind = "plain" if groups == 1 else "depthwise" if channels == 1 and outputs == groups else "grouped"
    return kind == slow.kind and channels <= slow.channels and math.prod(window) >= slow.window


def _why_float_data(data: ir.Value) -> str | None:
    if data.const_value is not None:
        return "its first factor is constant"
    if data.shape is not None and len(data.shape) < 2:
        return "its input is a vector"  # OpenVINO 2026.4 returns a matrix of one row, with Q/DQ
    return None


def _is_stem(node: ir.Node, scheme: QuantScheme, depth: int = STEM_DEPTH) -> bool:
    """Whether each path from an input to ``node`` has at most one other convolution, and all read few channels.

    A convolution whose output is quantized at full resolution is not a stem: on YOLOv3 this cost the 0.8 ms that was
    gained. Nor is one whose activation function is the saturation of Q, at no cost: in float, the first convolution
    of a ResNet-18 took 0.8 ms more of 6, and the INT8 SNR was the same (37.6 dB and 37.8 dB).
    """
    weight = node.inputs[1]
    if depth == 0 or node.op_type != "Conv" or weight is None or weight.const_value is None:
        return False
    if weight.const_value.shape.numpy()[1] > scheme.stem_channels or node.attributes.get_int("group", 1) != 1:
        return False
    if not _shrinks(node) or (scheme.quantize_outputs and _fused_reader(node.outputs[0], scheme) is not None):
        return False
    return all(_is_stem(before, scheme, depth - 1) for before in _products_before(node))


def _products_before(node: ir.Node) -> set[ir.Node]:
    """Returns the products whose results ``node`` reads without another product between."""
    found: set[ir.Node] = set()
    seen = set(node.inputs[:1])
    stack = list(seen)
    while stack:
        value = stack.pop()
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type in PRODUCTS:
            found.add(producer)
        elif producer is not None:
            # Shapes are computed from activations too, but are no activations.
            new = {source for source in producer.inputs if _is_activation(source)} - seen
            seen |= new
            stack += new
    return found


def _shrinks(node: ir.Node) -> bool:
    """Whether a convolution, or the pooling after it, leaves a quarter of the pixels or fewer to be quantized."""
    while True:
        if math.prod(node.attributes.get_ints("strides", ())) >= MIN_DOWNSAMPLING:
            return True
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type in PRODUCTS | {"Add", "Concat"} or not readers[0].outputs:
            return False
        node = readers[0]


def _why_float_computed(node: ir.Node, scheme: QuantScheme) -> str | None:
    if node.op_type != "MatMul":
        return "its weights are computed"
    # Targets with Q/DQ at inputs only have their own kernels for attention: outside of those, OpenVINO 2026.4 computes
    # a product of two activations in float, with or without Q/DQ.
    return None if scheme.quantize_outputs else "it multiplies two activations"


def _has_fitting_bias(node: ir.Node) -> bool:
    """Whether the bias, if any, can be an integer at the scale of its channel."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return True
    # A Gemm may add a whole matrix, or one number per row.
    return bias.const_value is not None and all(size == 1 for size in bias.const_value.shape.numpy()[:-1])


def _data_inputs(node: ir.Node) -> int | None:
    """Returns how many of the inputs are data (None: all); the others are shapes, scales and limits."""
    return None if node.op_type in ("Add", "Mul", "Concat") else 1


def _is_fused(node: ir.Node, scheme: QuantScheme, plan: Plan) -> bool:
    value = node.inputs[0] if node.inputs else None
    producer = value.producer() if value is not None else None
    return (
        _fuses(node, scheme)
        and producer is not None
        and producer in plan.nodes
        and producer.op_type in PRODUCTS | {"Add"}
        and value not in plan.integers
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
    if len(outputs) == 1 and _fused_reader(outputs[0], scheme) is not None:
        return
    if node.op_type == "Gemm" and outputs[0].is_graph_output():
        return  # its kernel can output floats, and scores need more than 8 bits
    for value in outputs:
        plan.tensors[value] = None
        plan.integers.add(value)


def _take_input(value: ir.Value | None, scheme: QuantScheme, plan: Plan) -> None:
    if _is_activation(value) and not _is_selected(value, scheme, plan):
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


def _fused_reader(value: ir.Value, scheme: QuantScheme) -> ir.Node | None:
    """Returns the activation function that the target fuses with the producer of ``value``."""
    readers = [use.node for use in value.uses()]
    producer = value.producer()
    if len(readers) != 1 or value.is_graph_output() or producer is None or producer.op_type not in PRODUCTS | {"Add"}:
        return None
    return readers[0] if _fuses(readers[0], scheme) else None


def _fuses(node: ir.Node, scheme: QuantScheme) -> bool:
    """Whether the target fuses the activation function ``node`` with the product before it."""
    if node.op_type == "Clip" and scheme.quantize_outputs:
        # The saturation of Q replaces it, and its lower limit is exact at 0 only.
        lower_limit = node.inputs[1] if len(node.inputs) > 1 else None
        return "Clip" in scheme.fused_activations and _is_zero(lower_limit)
    return node.op_type in scheme.fused_activations


def _is_zero(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.const_value.numpy().any()


def _is_activation(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and value.const_value is None and value.dtype == ir.DataType.FLOAT


def _is_selected(value: ir.Value | None, scheme: QuantScheme, plan: Plan) -> bool:
    """Whether ``value`` was selected from a tensor whose pair serves it too: OpenVINO does not fuse a second pair."""
    producer = value.producer() if value is not None else None
    return producer is not None and producer in plan.nodes and selects(producer) and not scheme.quantize_outputs


def _is_bias(node: ir.Node, value: ir.Value | None) -> bool:
    return node.op_type in BIASED_PRODUCTS and len(node.inputs) > 2 and node.inputs[2] is value
