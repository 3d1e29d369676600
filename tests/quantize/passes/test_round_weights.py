"""Rounding in which a kernel's errors cancel, compared with a direct implementation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.quantize.passes.round_weights import rounded_weights

KERNELS = ((3,), (2, 2), (5,), (3, 3), (1, 7), (3, 3, 3))


def slowly_rounded(kernel: list[float]) -> list[int]:
    """Rounds to nearest; then, while the sum of errors exceeds a half, rounds the weight nearest to a midpoint.

    Of two equally near ones, it takes the first.
    """
    nearest = [round(number) for number in kernel]
    errors = [integer - number for integer, number in zip(nearest, kernel, strict=True)]
    surplus = round(sum(errors))
    towards = 1 if surplus > 0 else -1
    by_cost = sorted(range(len(kernel)), key=lambda i: -errors[i] * towards)
    for i in by_cost[: abs(surplus)]:
        nearest[i] -= towards
    return nearest


@st.composite
def scaled_weights(draw: st.DrawFn) -> np.ndarray:
    """Weights of one to three by one to three kernels, -126 to 126; in a quarter of the cases multiples of a half."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *draw(st.sampled_from(KERNELS)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.2, 2.0, 126.0]))
    weights = random.uniform(-spread, spread, shape)
    return np.round(weights * 2) / 2 if draw(st.integers(0, 3)) == 0 else weights


@given(scaled_weights())
def test_integers_equal_those_of_a_direct_implementation(scaled: np.ndarray) -> None:
    kernels = scaled.reshape(-1, math.prod(scaled.shape[2:]))
    expected = np.array([slowly_rounded(kernel.tolist()) for kernel in kernels]).reshape(scaled.shape)
    got = rounded_weights(scaled, 127)
    assert got.dtype == np.int8
    # If two errors are equal except for the last bits of float64, either weight may be chosen.
    np.testing.assert_array_equal(
        np.sort(got - scaled, axis=None).round(9), np.sort(expected - scaled, axis=None).round(9)
    )


@given(scaled_weights())
def test_each_weight_is_rounded_up_or_down_and_errors_of_a_kernel_sum_to_half_a_step_at_most(
    scaled: np.ndarray,
) -> None:
    errors = rounded_weights(scaled, 127) - scaled
    assert np.abs(errors).max() < 1  # so integers do not change
    assert np.abs(errors.reshape(*scaled.shape[:2], -1).sum(-1)).max() <= 0.5 + 1e-9


@given(st.integers(0, 2**32 - 1), st.sampled_from([(3,), (5,), (2, 2), (2, 3)]))
def test_no_other_rounding_with_such_a_sum_is_nearer(seed: int, kernel: tuple[int, ...]) -> None:
    scaled = np.random.default_rng(seed).uniform(-5, 5, (1, 1, *kernel))
    energy = np.square(rounded_weights(scaled, 127) - scaled).sum()
    flat = scaled.ravel()
    choices = np.array(list(itertools.product(*zip(np.floor(flat), np.ceil(flat), strict=True)))) - flat
    fitting = choices[np.abs(choices.sum(1)) <= 0.5]
    assert energy <= np.square(fitting).sum(1).min() + 1e-9


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (3, 3, 3), (7, 7)])
def test_error_energy_of_random_weights_stays_below_three_times_that_of_nearest(kernel: tuple[int, ...]) -> None:
    scaled = np.random.default_rng(0).normal(0, 40, (16, 16, *kernel)).clip(-127, 127)
    nearest = np.square(np.rint(scaled) - scaled).mean()
    assert np.square(rounded_weights(scaled, 127) - scaled).mean() < 3 * nearest


def test_the_output_error_on_smooth_images_is_a_third_of_that_of_rounding_to_nearest() -> None:
    scaled = np.random.default_rng(1).normal(0, 40, (16, 16, 5, 5)).clip(-127, 127)
    nearest, ours = (
        np.square((r - scaled).sum((2, 3))).mean() for r in (np.rint(scaled), rounded_weights(scaled, 127))
    )
    assert ours < nearest / 9


@given(st.integers(0, 2**32 - 1), st.sampled_from([(), (1,), (1, 1), (1, 1, 1)]))
def test_kernels_of_one_number_are_rounded_to_nearest(seed: int, kernel: tuple[int, ...]) -> None:
    scaled = np.random.default_rng(seed).uniform(-127, 127, (5, 4, *kernel))
    np.testing.assert_array_equal(rounded_weights(scaled, 127), np.rint(scaled))


@given(st.integers(0, 2**32 - 1), st.sampled_from([63, 127]))
def test_no_integer_exceeds_the_largest(seed: int, largest: int) -> None:
    scaled = np.random.default_rng(seed).uniform(-1.02, 1.02, (4, 4, 3, 3)) * largest
    got = rounded_weights(scaled, largest)
    assert np.abs(got.astype(int)).max() <= largest
    inside = np.abs(scaled) < largest - 1
    assert np.abs(got - scaled)[inside].max() < 1


def test_the_argument_is_not_modified() -> None:
    scaled = np.random.default_rng(0).uniform(-9, 9, (2, 2, 3, 3))
    before = scaled.copy()
    rounded_weights(scaled, 127)
    np.testing.assert_array_equal(scaled, before)
    assert rounded_weights(scaled.astype(np.float32)[:, ::-1], 127).shape == scaled.shape


@pytest.mark.parametrize(
    "shape", [(300, 70, 3, 3), (5, 20000, 3, 3), (300, 700), (1, 1, 1, 1), (0, 4, 3, 3), (4, 0, 3, 3)]
)
def test_weights_of_many_blocks_are_rounded_as_each_channel_alone(shape: tuple[int, ...]) -> None:
    scaled = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    got = rounded_weights(scaled, 127)
    assert got.shape == shape and got.dtype == np.int8
    for channel, alone in zip(got, scaled, strict=True):
        np.testing.assert_array_equal(channel, rounded_weights(alone[None], 127)[0])
