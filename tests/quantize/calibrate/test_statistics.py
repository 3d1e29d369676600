from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.quantize.calibrate.statistics import BIN_EDGES, TensorStatistics

INFINITE = [np.inf, -np.inf]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
numbers = st.one_of(finite, st.sampled_from([0.0, -0.0, *INFINITE]))


@st.composite
def batches(draw, elements=numbers):
    """Arrays of one channel count, several images each."""
    channels = draw(st.integers(1, 3))
    shapes = st.tuples(st.integers(1, 3), st.just(channels), st.integers(0, 4))
    return draw(st.lists(hnp.arrays(np.float32, shapes, elements=elements), min_size=1, max_size=5))


def seen(arrays, with_histogram=True):
    statistics = TensorStatistics(with_histogram=with_histogram)
    for array in arrays:
        assert statistics.update(array)
    return statistics


def facts(statistics):
    """Returns all statistics, in a form in which equality is bit equality."""
    channels = [statistics.channel_lo, statistics.channel_hi]
    return (
        statistics.lo,
        statistics.hi,
        statistics.infinities,
        None if statistics.histogram is None else statistics.histogram.tobytes(),
        [None if c is None else (c.dtype, (c + 0.0).tobytes()) for c in channels],
    )


@settings(max_examples=80, deadline=None)
@given(arrays=batches(), data=st.data())
def test_order_and_batches_do_not_change_the_statistics(arrays, data):
    shuffled = data.draw(st.permutations(arrays))
    one_by_one = [image[None] for array in arrays for image in array]
    assert facts(seen(arrays)) == facts(seen(shuffled)) == facts(seen(one_by_one))
    if all(array.shape[2] == arrays[0].shape[2] for array in arrays):
        assert facts(seen(arrays)) == facts(seen([np.concatenate(arrays)]))


@settings(max_examples=80, deadline=None)
@given(arrays=batches())
def test_extremes_are_those_of_the_finite_numbers(arrays):
    statistics = seen(arrays, with_histogram=False)
    rows = np.concatenate([array.transpose(1, 0, 2).reshape(array.shape[1], -1) for array in arrays], axis=1)
    kept = rows[np.isfinite(rows)]
    assert (statistics.lo, statistics.hi) == ((kept.min(), kept.max()) if kept.size else (0, 0))
    assert statistics.infinities == np.isinf(rows).sum()
    for channel, row in enumerate(rows):
        row = row[np.isfinite(row)]
        if row.size:
            assert statistics.channel_lo[channel] == row.min()
            assert statistics.channel_hi[channel] == row.max()
        elif kept.size:
            assert statistics.channel_lo[channel] == statistics.channel_hi[channel] == 0


@settings(max_examples=80, deadline=None)
@given(array=hnp.arrays(np.float32, st.integers(1, 50), elements=numbers))
def test_each_finite_number_is_counted_once_in_a_bin_that_holds_it(array):
    histogram = seen([array]).histogram
    kept = np.sort(array[np.isfinite(array)].astype(np.float64))
    assert histogram.sum() == kept.size
    # The count up to any bin's upper edge equals the number of elements up to it.
    held = np.flatnonzero(histogram)
    held = held[np.argsort(BIN_EDGES[1][held], kind="stable")]
    edges = BIN_EDGES[1][held]
    # Zero is in two bins, one per sign.
    several = np.where(edges == 0, np.count_nonzero(kept == 0) - np.count_nonzero((array == 0) & np.signbit(array)), 0)
    np.testing.assert_array_equal(np.cumsum(histogram[held]), np.searchsorted(kept, edges, side="right") - several)


def test_bins_are_at_most_a_128th_of_their_value_wide():
    low, high = BIN_EDGES
    normal = np.isfinite(low) & (np.minimum(np.abs(low), np.abs(high)) >= np.finfo(np.float32).tiny)
    assert normal.sum() == 2 * 254 * 128
    assert ((high - low)[normal] <= np.minimum(np.abs(low), np.abs(high))[normal] / 128).all()


@settings(max_examples=60, deadline=None)
@given(arrays=batches(), bad=batches(), data=st.data())
def test_an_array_with_a_nan_is_refused_and_changes_nothing(arrays, bad, data):
    statistics = seen(arrays)
    before = facts(statistics)
    spoiled = np.concatenate([bad[0], np.zeros((*bad[0].shape[:2], 1), np.float32)], axis=2)
    spoiled.flat[data.draw(st.integers(0, spoiled.size - 1))] = data.draw(st.sampled_from([np.nan, -np.nan]))
    assert statistics.update(spoiled) is False
    assert facts(statistics) == before


def test_tensors_without_a_channel_axis_have_a_min_and_max():
    assert facts(seen([np.float32(3), np.float32(-2)]))[:2] == (-2, 3)
    changing = seen(
        [np.ones((1, 3, 2), np.float32), np.full((1, 5, 2), 2, np.float32), np.zeros((1, 3, 2), np.float32)]
    )
    assert (changing.lo, changing.hi, changing.channel_lo, changing.channel_hi) == (0, 2, None, None)


def test_other_layouts_and_element_types_are_read_right():
    array = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    assert facts(seen([array.transpose(0, 1, 3, 2)])) == facts(seen([array]))
    assert facts(seen([np.asfortranarray(array)])) == facts(seen([array]))
    half = array.astype(np.float16)
    assert facts(seen([half])) == facts(seen([half.astype(np.float32)]))


@settings(max_examples=60, deadline=None)
@given(
    arrays=batches(st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False)),
    slope=st.sampled_from([0.01, 0.1, 0.25, 1.5]),
)
def test_statistics_before_a_leaky_relu_follow_from_those_after_it(arrays, slope):
    slope = float(np.float32(slope))
    # A product below the smallest normal number loses digits irreversibly.
    arrays = [np.where(np.abs(array) < 1e-30, np.float32(0), array) for array in arrays]
    truth = seen(arrays)
    leaky = [np.where(array < 0, array * np.float32(slope), array) for array in arrays]
    worked_out = seen(leaky).before_leaky_relu(slope)
    exactly = {"rtol": 2.0**-22, "atol": 0}
    np.testing.assert_allclose([worked_out.lo, worked_out.hi], [truth.lo, truth.hi], **exactly)
    if truth.channel_lo is not None:
        np.testing.assert_allclose(worked_out.channel_lo, truth.channel_lo, **exactly)
        np.testing.assert_allclose(worked_out.channel_hi, truth.channel_hi, **exactly)
    assert worked_out.infinities == truth.infinities
    for sign in (0, 1 << 15):  # bins of one sign are ordered by magnitude
        half = slice(sign, sign + (1 << 15))
        true, found = (np.repeat(np.arange(1 << 15), s.histogram[half]) for s in (truth, worked_out))
        if sign == 0:  # the sign of zero does not matter
            np.testing.assert_array_equal(true[true > 0], found[found > 0])
        else:
            true, found = true[true > 0], found[found > 0]
            assert true.size == found.size and (np.abs(true - found) <= 1).all()


def test_infinities_stay_infinities_before_a_leaky_relu():
    statistics = seen([np.array([[-1.0, np.inf], [-np.inf, 2.0]], np.float32)]).before_leaky_relu(0.1)
    assert (statistics.lo, statistics.hi, statistics.infinities) == (-10, 2, 2)
    np.testing.assert_allclose(statistics.channel_lo, [-10, 2])
    np.testing.assert_allclose(statistics.channel_hi, [-10, 2])


@pytest.mark.parametrize("with_histogram", [False, True])
def test_memory_does_not_grow_with_the_number_of_images(with_histogram):
    image = np.random.default_rng(0).standard_normal((1, 8, 64, 64)).astype(np.float32)
    statistics = TensorStatistics(with_histogram=with_histogram)
    statistics.update(image)
    tracemalloc.start()
    try:
        for _ in range(8):
            statistics.update(image)
        after_8 = tracemalloc.get_traced_memory()[0]
        for _ in range(120):
            statistics.update(image)
        after_128 = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after_128 - after_8 < 4096


def test_a_sample_of_a_large_tensor_is_representative() -> None:
    width = 416  # the size of a detector's first activation, whose columns differ
    numbers = np.random.default_rng(0).standard_normal((2, 8, width, width)).astype(np.float32)
    numbers *= np.linspace(0.1, 1, width, dtype=np.float32)
    seen = TensorStatistics(with_histogram=True)
    assert seen.update(numbers)
    assert (seen.lo, seen.hi) == (numbers.min(), numbers.max()), "extremes are those of all"
    assert seen.histogram is not None and seen.histogram.sum() < numbers.size / 3
    middles = (BIN_EDGES[0] + BIN_EDGES[1]) / 2
    order = np.argsort(np.where(np.isnan(middles), np.inf, middles), kind="stable")
    shares = np.cumsum(seen.histogram[order]) / seen.histogram.sum()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        expected = np.quantile(numbers, share)
        assert middles[order][np.searchsorted(shares, share)] == pytest.approx(expected, abs=0.02)


def test_counted_elements_do_not_depend_on_the_batch() -> None:
    numbers = np.random.default_rng(1).standard_normal((3, 4, 300, 301)).astype(np.float32)
    together, apart = TensorStatistics(with_histogram=True), TensorStatistics(with_histogram=True)
    together.update(numbers)
    for array in numbers:
        apart.update(array[None])
    np.testing.assert_array_equal(together.histogram, apart.histogram)
