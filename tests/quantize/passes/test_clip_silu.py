"""The range before a SiLU, checked by what rounding the whole and the narrow range does to its output."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.engine.backend import backend
from edgekit.quantize.passes.clip_silu import SILU_MINIMUM, clipped_silu_ranges
from edgekit.quantize.plan import plan_from_graph

SILU = "g (float[1, 8, 6, 6] x) => (float[1, 4, 6, 6] y) {{ a = Conv (x, w1) {} y = Conv (m, w2) }}"
PLAIN = SILU.format("s = Sigmoid (a) m = Mul (a, s)")
READ_TWICE = SILU.format("s = Sigmoid (a) n = Mul (a, s) m = Add (n, a)")
OTHERS = {
    "an output": PLAIN.replace("(float[1, 4, 6, 6] y)", "(float[1, 4, 6, 6] y, float[1, 8, 6, 6] a)"),
    "read twice": READ_TWICE,
    "gate of another tensor": SILU.format("s = Sigmoid (a) b = Conv (x, w3) m = Mul (b, s)"),
    "gate read twice": SILU.format("s = Sigmoid (a) n = Mul (a, s) m = Mul (n, s)"),
}
RANGES = {"x": (-1.0, 1.0), "s": (0.0, 1.0), "b": (-40.0, 40.0), "n": (-0.3, 20.0), "y": (-1.0, 1.0)}


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def clipped(graph, target="cpu", **ranges):
    plan = plan_from_graph(graph, backend(target).scheme())
    return clipped_silu_ranges(plan, RANGES | ranges)


@pytest.fixture
def graph(graph_of, weights):
    def build(text):
        names = {"w1": (8, 8, 1, 1), "w2": (4, 8, 1, 1), "w3": (8, 8, 1, 1)}
        return graph_of(text, **{n: weights(*shape, seed=int(n[1])) for n, shape in names.items() if n in text})

    return build


@pytest.mark.parametrize("largest", [0.5, 3.0, 20.0, 200.0])
def test_what_is_cut_off_is_rounded_to_zero_as_before(graph, largest):
    lo, hi = clipped(graph(PLAIN), a=(-30.0, largest), m=(-0.2785, largest))["a"]
    step = (largest + 0.2785) / 255
    cut = np.linspace(-30.0, lo, 10_000)
    assert hi == largest and np.abs(silu(cut) - silu(lo)).max() <= 0.25 * step * 1.001
    # The smallest such range: nothing more may be cut off.
    assert lo == pytest.approx(SILU_MINIMUM) or np.abs(silu(lo + 0.05)) > 0.25 * step


def test_a_range_that_ends_before_stays_as_it_is(graph):
    assert clipped(graph(PLAIN), a=(-2.0, 20.0), m=(-0.2785, 20.0))["a"] == (-2.0, 20.0)


def test_a_negative_range_is_not_turned_around(graph):
    lo, hi = clipped(graph(PLAIN), a=(-30.0, 0.0), m=(-0.2785, 0.0))["a"]
    assert -30.0 < lo < hi == 0.0


@pytest.mark.parametrize("name", OTHERS)
def test_other_readers_need_the_whole_range(graph, name):
    ranges = {"a": (-30.0, 20.0), "m": (-0.2785, 20.0)}
    assert clipped(graph(OTHERS[name]), **ranges) == RANGES | ranges


def test_targets_that_fuse_the_activation_keep_the_ranges(graph):
    ranges = {"a": (-30.0, 20.0), "m": (-0.2785, 20.0)}
    assert clipped(graph(PLAIN), "openvino", **ranges) == RANGES | ranges


HARD = {
    "HardSwish": (SILU.format("m = HardSwish (a)"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "HardSigmoid": (
        SILU.format("m = HardSigmoid <alpha = 0.25, beta = 0.25> (a)"),
        lambda x: np.clip(x / 4 + 0.25, 0, 1),
    ),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("limits", [(-30.0, 20.0), (-2.0, 1.0), (-30.0, -10.0), (0.5, 20.0)], ids=str)
def test_nothing_changes_outside_of_the_range_of_a_hard_function(graph, name, limits):
    text, function = HARD[name]
    lo, hi = clipped(graph(text), a=limits, m=(-0.375, 20.0))["a"]
    x = np.linspace(*limits, 10_001)
    np.testing.assert_allclose(function(np.clip(x, lo, hi)), function(x), atol=1e-12)
    assert lo <= 0 <= hi and lo >= min(limits[0], 0) and hi <= max(limits[1], 0)
    ends = {"HardSwish": (-3.0, np.inf), "HardSigmoid": (-1.0, 3.0)}[name]
    step = (min(hi, ends[1]) - max(lo, ends[0])) / 253
    assert lo >= min(limits[0], 0, ends[0] - step) and lo >= ends[0] - step and hi <= ends[1] + step


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("largest", [0.3, 0.7, 0.9, 1.0, 2.0, 5.0, 40.0])
def test_what_is_beyond_the_last_integer_still_becomes_the_right_one(graph, name, largest):
    """Zero is an integer, so that the ends of a range move by up to half a step; many values may be beyond them."""
    text, function = HARD[name]
    lo, hi = clipped(graph(text), a=(-30.0, largest), m=(-0.375, largest))["a"]
    scale = (hi - lo) / 255
    zero = np.rint(-lo / scale)
    lowest, highest = -zero * scale, (255 - zero) * scale
    x = np.linspace(-30.0, largest, 10_001)
    right = function(x)
    step = (right.max() - min(right.min(), 0)) / 255
    beyond = (x < lowest) | ((x > highest) & (hi < largest))
    got = function(np.clip(x, lowest, highest))
    np.testing.assert_array_equal(np.rint(got[beyond] / step), np.rint(right[beyond] / step))


@pytest.mark.parametrize("name", HARD)
def test_another_reader_of_the_input_of_a_hard_function_needs_the_whole_range(graph, name):
    text = HARD[name][0].replace("m =", "h =").replace(" y = Conv", " m = Add (h, a) y = Conv")
    ranges = {"a": (-30.0, 20.0), "m": (-0.375, 20.0), "h": (-0.375, 20.0)}
    assert clipped(graph(text), **ranges) == RANGES | ranges
