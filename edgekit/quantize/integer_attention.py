"""Attention on integers: which tensors get pairs, on targets that fuse attention on 8 bits into one kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgekit.graph.attention import Attention, find_attention
from edgekit.graph.operators import MOVES
from edgekit.graph.shape_values import sizes_of
from edgekit.quantize.float_products import is_activation
from edgekit.specs import QuantScheme

__all__ = ["IntegerAttention", "attention_parts", "integer_attentions", "part_source"]

_PARTS = frozenset({"Slice", "Split"})


@dataclass(frozen=True, eq=False)
class IntegerAttention:
    """An attention whose four factors get Q/DQ pairs.

    Attributes:
        attention: the attention.
        signed: queries, keys and values, each where its pair is inserted; the kernels take them as ``int8`` with zero
            point 0. The weights, which the second product reads, are never negative, and get an ordinary pair.
        weights: the weights, as the second product reads them.
        turn: the Transpose between the pair of the keys and the first product; None if there is none.
    """

    attention: Attention
    signed: tuple[ir.Value, ir.Value, ir.Value]
    weights: ir.Value
    turn: ir.Node | None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The nodes that read the pairs."""
        products = (self.attention.scores, self.attention.mean)
        return products if self.turn is None else (*products, self.turn)


def integer_attentions(graph: ir.Model, scheme: QuantScheme, kept: Mapping[ir.Node, str]) -> list[IntegerAttention]:
    """Returns the attentions that run on integers, in graph order; none with a product in ``kept``.

    Args:
        graph: not modified.
        scheme: the target's quantization scheme.
        kept: nodes that stay in float.
    """
    if not scheme.attention_keys:
        return []
    candidates = [
        _with_factors(found)
        for found in find_attention(graph)
        if not found.pairs and not {found.scores, found.mean} & kept.keys() and _is_large(found, scheme)
    ]
    return [each for each in candidates if all(map(is_activation, (*each.signed, each.weights)))]


def attention_parts(graph: ir.Model) -> list[ir.Value]:
    """Returns the queries, keys and values that were cut out of one tensor; each has a range of its own.

    Args:
        graph: not modified.
    """
    factors = (value for found in find_attention(graph) for value in _with_factors(found).signed)
    sources = dict.fromkeys(map(part_source, factors))
    return [value for value in sources if (node := value.producer()) is not None and node.op_type in _PARTS]


def part_source(value: ir.Value) -> ir.Value:
    """Returns the tensor that has the same elements as ``value``: the one before reshapes and transposes."""
    node = value.producer()
    while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _with_factors(found: Attention) -> IntegerAttention:
    query, key = found.scores.inputs
    weights, value = found.mean.inputs
    assert query is not None and key is not None and weights is not None and value is not None
    turn = key.producer()
    # OpenVINO 2026.4 has this Transpose in the kernel of attention, and a pair behind it keeps it outside: on ViT-Tiny,
    # 24 µs beside the 90 µs of the kernel.
    if turn is None or turn.op_type != "Transpose" or len(key.uses()) != 1 or key.is_graph_output():
        turn = None
    turned = key if turn is None or turn.inputs[0] is None else turn.inputs[0]
    return IntegerAttention(found, (query, turned, value), weights, turn)


def _is_large(found: Attention, scheme: QuantScheme) -> bool:
    sizes = sizes_of(found.scores.outputs[0]) or ()
    least = (scheme.attention_queries, scheme.attention_keys)
    return all(not isinstance(size, int) or size >= limit for size, limit in zip(sizes[-2:], least, strict=False))
