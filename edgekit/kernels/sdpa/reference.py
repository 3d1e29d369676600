"""Reference attention, one row of queries at a time in float64: simple but slow, to test the kernels against."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["attention"]


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    scale: float | None = None,
    causal_offset: int | None = None,
    key_lengths: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Computes ``softmax(scale * q k^T + mask) v``; a row that sees no key gives zeros.

    Args:
        q: queries; shape ``(batch, heads, query length, head size)``.
        k: keys; shape ``(batch, key heads, key length, head size)``. Groups of ``heads / key heads`` consecutive heads
            share a head of keys.
        v: values; the shape of ``k``.
        scale: factor of the logits; None is ``1 / sqrt(head size)``.
        causal_offset: row ``i`` sees the keys 0 to ``i + causal_offset`` only; None: it sees all. With 0, the mask is
            aligned at the top left, as in ONNX's ``Attention`` and `torch.nn.functional.scaled_dot_product_attention`;
            with ``key length - query length``, at the bottom right.
        key_lengths: number of keys of each image or sequence of the batch, the first ones; integers, shape
            ``(batch,)``.
        mask: added to the logits; can be broadcast to ``(batch, heads, query length, key length)``.

    Returns:
        float64, shape ``(batch, heads, query length, head size)``.
    """
    batch, heads, queries, size = q.shape
    group = heads // k.shape[1]
    factor = 1 / math.sqrt(size) if scale is None else scale
    result = np.zeros(q.shape)
    full_mask = None if mask is None else np.broadcast_to(mask, (batch, heads, queries, k.shape[2]))
    for b, h, i in np.ndindex(batch, heads, queries):
        length = k.shape[2] if key_lengths is None else int(key_lengths[b])
        if causal_offset is not None:
            length = min(length, i + causal_offset + 1)
        if length <= 0:
            continue
        logits = factor * (k[b, h // group, :length].astype(np.float64) @ q[b, h, i].astype(np.float64))
        if full_mask is not None:
            logits = logits + full_mask[b, h, i, :length].astype(np.float64)
        largest = logits.max()
        if largest == -np.inf:
            continue
        weights = np.exp(logits - largest)
        result[b, h, i] = weights / weights.sum() @ v[b, h // group, :length].astype(np.float64)
    return result
