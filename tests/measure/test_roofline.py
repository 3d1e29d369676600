from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from edgekit.measure.roofline import BandwidthLevel, Peaks, Roofline, roofline_from_layers

PEAKS = Peaks(name="board", kind="published", macs_per_s={"float32": 1e9, "int8": 4e9}, bytes_per_s=1e8)


@dataclass(frozen=True)
class Layer:
    """A layer of another module: plain numbers."""

    name: str
    macs: int | None
    bytes: int | None
    precision: str = "float32"
    median_ms: float | None = None
    weight_bytes: int = 0


def test_a_layer_takes_the_longer_of_its_arithmetic_and_its_traffic() -> None:
    # 10^7 MACs at 10^9 a second take 10 ms, 2 * 10^5 bytes at 10^8 a second take 2 ms; and the other way around.
    found = roofline_from_layers([Layer("a", 10**7, 2 * 10**5), Layer("b", 10**6, 5 * 10**5)], PEAKS)
    a, b = found.points
    assert (a.bound, a.bound_ms, a.intensity) == ("compute", pytest.approx(10), pytest.approx(100))
    assert (b.bound, b.bound_ms, b.intensity) == ("memory", pytest.approx(5), pytest.approx(4))
    assert found.bound_ms == pytest.approx(15)
    assert found.bound == "compute"
    assert found.measured_ms is found.reached is None


def test_at_the_ridge_both_bounds_are_equal() -> None:
    ridge = 2 * PEAKS.macs_per_s["float32"] / PEAKS.bytes_per_s
    point = roofline_from_layers([Layer("a", 10**7, 10**6)], PEAKS).points[0]
    assert point.intensity == ridge
    assert point.bound_ms == pytest.approx(1e3 * 10**7 / 1e9) == pytest.approx(1e3 * 10**6 / 1e8)


def test_a_precision_has_its_own_peak_and_an_unknown_one_the_highest() -> None:
    layers = [Layer("a", 4 * 10**7, 0, "int8"), Layer("b", 4 * 10**7, 0, "float64")]
    assert [p.bound_ms for p in roofline_from_layers(layers, PEAKS).points] == pytest.approx([10, 10])


def test_the_share_that_was_reached_is_of_each_layer_and_of_the_whole() -> None:
    layers = [Layer("a", 10**7, 1, median_ms=20.0), Layer("b", 0, 10**6, median_ms=10.0)]
    found = roofline_from_layers(layers, PEAKS)
    assert [point.reached for point in found.points] == pytest.approx([0.5, 1.0])
    assert (found.measured_ms, found.reached) == pytest.approx((30.0, 20 / 30))
    assert roofline_from_layers(layers, PEAKS, measured_ms=40.0).reached == pytest.approx(0.5)


def test_one_layer_without_a_time_leaves_the_whole_without_one() -> None:
    layers = [Layer("a", 10**7, 1, median_ms=20.0), Layer("b", 0, 10**6)]
    assert roofline_from_layers(layers, PEAKS).reached is None


def test_layers_without_figures_take_no_time() -> None:
    point = roofline_from_layers([Layer("a", None, None)], PEAKS).points[0]
    assert (point.bound_ms, point.intensity, point.bound) == (0, None, "memory")


def test_activations_that_fit_into_the_cache_cost_nothing_and_weights_only_if_all_of_them_do() -> None:
    peaks = msgspec.structs.replace(PEAKS, cache_bytes=10**6)
    small = [Layer(str(i), 0, 5 * 10**5, weight_bytes=4 * 10**5) for i in range(2)]
    assert roofline_from_layers(small, peaks).bound_ms == 0
    # Ten times these weights do not stay in the cache from run to run, but each layer's activations do.
    many = [Layer(str(i), 0, 5 * 10**5, weight_bytes=4 * 10**5) for i in range(20)]
    assert roofline_from_layers(many, peaks).bound_ms == pytest.approx(20 * 1e3 * 4 * 10**5 / 1e8)


def test_bandwidth_is_that_of_the_next_smaller_working_set_that_was_measured() -> None:
    levels = tuple(
        BandwidthLevel(working_set_bytes=size, bytes_per_s=rate) for size, rate in ((1000, 8e8), (10**6, 2e8))
    )
    peaks = msgspec.structs.replace(PEAKS, levels=levels)
    assert peaks.memory_s(999) == 0
    assert peaks.memory_s(1000) == pytest.approx(1000 / 8e8)
    assert peaks.memory_s(999_999) == pytest.approx(999_999 / 8e8)
    assert peaks.memory_s(10**9) == pytest.approx(10**9 / 2e8)
    assert peaks.memory_s(100, working_set_bytes=10**6) == pytest.approx(100 / 2e8)


def test_a_roofline_is_written_to_json_and_read_back() -> None:
    found = roofline_from_layers([Layer("a", 10**7, 10, median_ms=20.0)], PEAKS)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Roofline) == found
