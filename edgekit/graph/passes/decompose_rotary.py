"""Replaces rotary embeddings in one operator of ONNX Runtime by ONNX's products and sums."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgekit.graph.passes.decomposing import Decomposition, Parts, input_of, ints, split

__all__ = ["ROTARY", "rotated"]


def rotated(
    value: ir.Value, angles: tuple[ir.Value, ir.Value], size: int, channels: int, *, interleaved: bool, parts: Parts
) -> ir.Value:
    """Adds the rotation of pairs of channels by an angle each (RoFormer, arXiv 2104.09864).

    Args:
        value: four dimensions, of which the last has ``channels`` elements.
        angles: cosines and sines, which broadcast to ``value`` with ``size / 2`` in the last dimension.
        size: number of the channels that are rotated, from the first one on; even.
        channels: number of all channels.
        interleaved: a pair is two neighbours; without it, one channel of the first half and one of the second.
        parts: receives the nodes.
    """
    rest: list[ir.Value] = []
    if size < channels:
        value, *rest = split(value, [size, channels - size], parts, axis=-1)
    cosines, sines = angles
    if interleaved:
        value = parts.add("Reshape", value, ints(parts, 0, 0, 0, size // 2, 2))
        cosines, sines = (parts.add("Unsqueeze", each, ints(parts, -1)) for each in angles)
    first, second = split(value, [1, 1] if interleaved else [size // 2] * 2, parts, axis=-1)
    turned = [
        parts.add("Sub", parts.add("Mul", first, cosines), parts.add("Mul", second, sines)),
        parts.add("Add", parts.add("Mul", second, cosines), parts.add("Mul", first, sines)),
    ]
    if interleaved:
        turned = [parts.add("Reshape", parts.add("Concat", *turned, axis=-1), ints(parts, 0, 0, 0, size))]
    both = [*turned, *rest]
    return both[0] if len(both) == 1 else parts.add("Concat", *both, axis=-1)


def _rotary(node: ir.Node, parts: Parts) -> Sequence[ir.Value | None] | None:
    """``RotaryEmbedding``: data ``(B, S, C)`` or ``(B, heads, S, D)``, places, cosines and sines ``(places, D / 2)``.

    Places are ``(B, S)``, or one number, which is the place of the first of S.
    """
    data, places, *tables = node.inputs[:4]
    form = _form(node)
    if form is None or data is None or places is None or places.shape is None:
        return None
    rank, heads, channels, size = form
    if len(places.shape) == 1:
        axis = 1 if rank == 3 else 2
        length = parts.add("Squeeze", parts.add("Shape", data, start=axis, end=axis + 1))
        zero, one = parts.add("Constant", value_int=0), parts.add("Constant", value_int=1)
        places = parts.add("Unsqueeze", parts.add("Add", parts.add("Range", zero, length, one), places), ints(parts, 0))
    behind = ints(parts, 2 if rank == 3 else 1)
    cosines, sines = (parts.add("Unsqueeze", parts.add("Gather", each, places), behind) for each in tables)
    value = data if rank == 4 else parts.add("Reshape", data, ints(parts, 0, 0, heads, channels))
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    result = rotated(value, (cosines, sines), size, channels, interleaved=interleaved, parts=parts)
    return [result if rank == 4 else parts.add("Reshape", result, ints(parts, 0, 0, -1))]


def _form(node: ir.Node) -> tuple[int, int, int, int] | None:
    """Returns the rank of the data, its heads, their channels and how many of these are rotated; None if unknown."""
    data, table = input_of(node, 0), input_of(node, 2)
    others = node.attributes.get_int("is_packed_batching", 0) or node.attributes.get_float("scale", 1.0) != 1.0
    if data is None or data.shape is None or table is None or table.shape is None or others:
        return None
    last, half, rank = data.shape[-1], table.shape[-1], len(data.shape)
    if not isinstance(last, int) or not isinstance(half, int) or rank not in (3, 4):
        return None
    size, heads = node.attributes.get_int("rotary_embedding_dim", 0), node.attributes.get_int("num_heads", 0)
    channels = last if rank == 4 else last // heads if size and heads else 2 * half
    size = size or channels
    return (rank, last // channels, channels, size) if size == 2 * half and last % channels == 0 else None


ROTARY: dict[str, Decomposition] = {"RotaryEmbedding": _rotary}
