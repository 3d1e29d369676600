from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import UsageError
from edgekit.quantize.calibrate.observers import METHODS, needs_histogram, range_from_statistics
from edgekit.quantize.calibrate.statistics import TensorStatistics

BIN = 1 / 128


def _samples():
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(40_000)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "sparse relu": np.maximum(normal - 2, 0),
        "leaky relu": np.where(normal < 0, 0.1 * normal, normal),
        "laplace": rng.laplace(size=40_000),
        "uniform": rng.uniform(-1, 3, 40_000),
        "negative": -np.abs(rng.laplace(size=40_000)),
        "outliers": np.concatenate([normal, rng.uniform(-40, 60, 10)]),
    }


SAMPLES = {name: sample.astype(np.float32) for name, sample in _samples().items()}
every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
every_method = pytest.mark.parametrize("method", METHODS)


def measured(*arrays):
    statistics = TensorStatistics(with_histogram=True)
    for array in arrays:
        assert statistics.update(np.asarray(array, np.float32))
    return statistics


def squared_error(numbers, lo, hi):
    """Computes the squared error of uint8 with the range ``[lo, hi]``, in float64, with a real-valued zero point."""
    step = (hi - lo) / 255
    return np.square(np.clip(np.rint(numbers / step), np.rint(lo / step), np.rint(hi / step)) * step - numbers).mean()


@settings(max_examples=40, deadline=None)
@given(array=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False)))
def test_minmax_is_the_full_range_including_zero(array):
    kept = np.append(array[np.isfinite(array)], np.float32(0))
    assert range_from_statistics(measured(array), "minmax") == (kept.min(), kept.max())


@every_method
@settings(max_examples=40, deadline=None)
@given(array=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False)))
def test_every_range_is_within_the_min_and_max_and_contains_zero(method, array):
    lo, hi = range_from_statistics(measured(array), method)
    kept = np.append(array[np.isfinite(array)], np.float32(0))
    assert kept.min() <= lo <= 0 <= hi <= kept.max()


@every_sample
def test_percentile_is_numpys(sample):
    sample = sample[:-1]  # 0.01 % of 40,000 values is between two values
    lo, hi = range_from_statistics(measured(sample), "percentile")
    below, above = np.percentile(sample, [0.01, 99.99], method="inverted_cdf")
    assert lo == pytest.approx(min(below, 0), rel=BIN)
    assert hi == pytest.approx(max(above, 0), rel=BIN)


@every_sample
def test_no_range_has_a_much_smaller_squared_error_than_mse_finds(sample):
    numbers = sample[::8].astype(np.float64)
    parts = np.linspace(0.025, 1.0, 40)
    least, most = min(numbers.min(), 0.0), max(numbers.max(), 0.0)
    lows = parts * least if least < 0 else [0.0]
    highs = parts * most if most > 0 else [0.0]
    best = min(squared_error(numbers, lo, hi) for lo in lows for hi in highs)
    assert squared_error(numbers, *range_from_statistics(measured(sample[::8]), "mse")) <= 1.05 * best


@pytest.mark.parametrize("name", ["normal", "leaky relu", "uniform", "negative", "outliers"])
def test_entropy_threshold_is_that_of_tensorrts_algorithm(name):
    sample = SAMPLES[name]
    threshold = kl_threshold(np.abs(sample))
    expected = max(sample.min(), -threshold), max(min(sample.max(), threshold), 0)
    assert range_from_statistics(measured(sample), "entropy") == pytest.approx(expected, rel=0.15)


def kl_threshold(magnitudes, bins=2048, levels=128):
    """The slides "Entropy Calibration - pseudocode" of Migacz's talk, step by step, on the values themselves."""
    counts, edges = np.histogram(magnitudes, bins, (0, magnitudes.max()))
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    divergences = {}
    for i in range(levels, bins + 1):
        reference = counts[:i].copy()
        reference[-1] += counts[i:].sum()
        starts = np.arange(levels) * i // levels
        held = np.add.reduceat((counts[:i] > 0).astype(np.float64), starts)
        means = np.add.reduceat(counts[:i], starts) / np.maximum(held, 1)
        candidate = np.where(counts[:i] > 0, np.repeat(means, np.diff(np.append(starts, i))), 0)
        if candidate.sum() == 0:
            continue
        p, q = reference / reference.sum(), candidate / candidate.sum()
        mask = p > 0
        divergences[i] = (p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-300))).sum()
    return (min(divergences, key=divergences.__getitem__) + 0.5) * edges[1]


def test_entropy_clips_rare_values():
    lo, hi = range_from_statistics(measured(SAMPLES["outliers"]), "entropy")
    assert -6 < lo < -3 and 3 < hi < 6


@every_method
@pytest.mark.parametrize(
    "array, expected",
    [
        ([0.0] * 9, (0, 0)),
        ([-0.0], (0, 0)),
        ([5.02] * 9, (0, 5.02)),
        ([-5.02] * 9, (-5.02, 0)),
        ([3.0], (0, 3)),
        ([0.0, 2.0, 2.0], (0, 2)),
        ([-2.0, -1.5, 0.0], (-2, 0)),
        ([np.inf, -np.inf], (0, 0)),
        ([np.inf, 4.0, -np.inf, 4.0], (0, 4)),
        ([1e-42] * 9, (0, 1e-42)),
        ([3e38, -3e38], (-3e38, 3e38)),
        ([], (0, 0)),
    ],
)
def test_degenerate_tensors_have_a_range(method, array, expected):
    lo, hi = range_from_statistics(measured(array), method)
    # One bin of the histogram, or one of the 100 fractions of mse.
    assert (lo, hi) == (
        pytest.approx(expected[0], rel=0.03, abs=1e-43),
        pytest.approx(expected[1], rel=0.03, abs=1e-43),
    )


@every_method
def test_infinities_do_not_change_a_range(method):
    sample = SAMPLES["normal"][:2000]
    padded = np.concatenate([sample, np.full(500, -np.inf, np.float32), [np.inf]])
    assert range_from_statistics(measured(padded), method) == range_from_statistics(measured(sample), method)


def test_only_minmax_needs_no_histogram():
    assert [method for method in METHODS if not needs_histogram(method)] == ["minmax"]
    without = TensorStatistics(with_histogram=False)
    without.update(SAMPLES["normal"])
    assert range_from_statistics(without, "minmax") == (SAMPLES["normal"].min(), SAMPLES["normal"].max())
    with pytest.raises(ValueError, match="needs statistics with a histogram"):
        range_from_statistics(without, "mse")


def test_error_on_unknown_method():
    with pytest.raises(UsageError, match="unknown calibration method 'entrpy'\ndid you mean entropy") as error:
        needs_histogram("entrpy")
    assert error.value.exit_code == 2
