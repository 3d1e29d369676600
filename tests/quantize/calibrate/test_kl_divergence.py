"""The divergences of all lengths at once are those of each length, term by term."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quantize.calibrate.observers import KL_BINS, KL_LEVELS, _kl_divergences

LENGTHS = np.append(np.arange(KL_LEVELS, KL_BINS, 97), KL_BINS)


def divergence(counts: np.ndarray, length: int) -> float:
    reference, held = counts[:length].copy(), counts[:length] > 0
    reference[-1] += counts[length:].sum()
    level = np.arange(length) * KL_LEVELS // length
    mass = np.bincount(level, weights=counts[:length], minlength=KL_LEVELS)
    filled = np.bincount(level, weights=held, minlength=KL_LEVELS)
    quantized = np.where(held, (mass / np.maximum(filled, 1))[level], 0.0)
    if quantized.sum() == 0:
        return float("inf")
    p, q = reference / reference.sum(), quantized / quantized.sum()
    q = np.where((p > 0) & (q == 0), np.finfo(np.float64).tiny, q)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("seed", range(8))
def test_divergences_of_all_lengths_at_once_equal_each_one_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, KL_BINS) * rng.integers(0, 2, KL_BINS) * np.exp(-np.arange(KL_BINS) / 300)
    counts[1500:] = 0
    counts[-1] = seed % 2  # an outlier
    counts[: 300 * (seed % 3)] = 0
    expected = [divergence(counts, int(length)) for length in LENGTHS]
    np.testing.assert_allclose(_kl_divergences(counts, LENGTHS), expected, atol=1e-8)
