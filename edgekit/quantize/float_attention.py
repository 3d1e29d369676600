"""Attention in float: which attentions a target computes faster so than on integers."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.graph.attention import Attention, find_attention
from edgekit.graph.shape_values import sizes_of
from edgekit.specs import FloatAttention, QuantScheme

__all__ = ["attention_in_float"]


def attention_in_float(graph: ir.Model, scheme: QuantScheme) -> dict[ir.Node, str]:
    """Returns the products of the attentions that stay in float, each with the reason.

    Args:
        graph: not modified.
        scheme: the target's quantization scheme.
    """
    if not scheme.float_attention:
        return {}
    found = [each for each in find_attention(graph) if any(_fits(each, kind) for kind in scheme.float_attention)]
    products = (product for each in found for product in (each.scores, each.mean))
    return dict.fromkeys(products, "the target computes attention faster in float")


def _fits(found: Attention, kind: FloatAttention) -> bool:
    sizes = sizes_of(found.scores.outputs[0]) or (None, None)
    queries, keys = (size if isinstance(size, int) else None for size in sizes[-2:])
    split = (found.query_heads, found.key_heads, found.value_heads, found.merge)
    return (
        _is_at_most(found.head_size, kind.head_size)
        and _is_at_most(keys, kind.most_keys)
        and all(size is not None and size >= kind.least_length for size in (queries, keys) if kind.least_length)
        and not (kind.plain and (found.masks or found.guard or None in split))
    )


def _is_at_most(size: int | None, limit: int | None) -> bool:
    return limit is None or (size is not None and size <= limit)
