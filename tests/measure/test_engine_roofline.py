"""The times of an engine's layers, joined with the layers of its graph."""

from __future__ import annotations

import pytest

from edgekit.measure.engine_roofline import _measured, _times_ms
from edgekit.measure.fused_layers import FusedLayer
from edgekit.measure.layer_times import LayerTime, LayerTimes
from edgekit.measure.roofline import RooflinePoint


def fused(name: str, macs: int, *layers: str) -> FusedLayer:
    return FusedLayer(
        name=name, operator="Conv", precision="int8", macs=macs, weight_bytes=1, activation_bytes=1, layers=layers
    )


def timed(median_ms: float, *nodes: str, **changes: object) -> LayerTime:
    return LayerTime(name="x", operator="Conv", median_ms=median_ms, share=0.0, nodes=nodes, **changes)  # type: ignore[arg-type]


def test_each_layer_of_the_graph_has_the_time_of_those_that_compute_it() -> None:
    graph = [fused("a", 100, "a", "a.act"), fused("b", 500, "b"), fused("c", 50, "c"), fused("d", 9, "d")]
    times = LayerTimes(
        layers=(
            timed(1.0, "a"),
            timed(0.25, "a.act"),
            timed(3.0, "b", "c", "elsewhere"),  # one kernel for two layers: that of most arithmetic has its time
            timed(7.0, "d", overhead="quantize"),
            timed(9.0),
        ),
        runs=1, sum_ms=1.0, profiled_ms=1.0, end_to_end_ms=1.0, difference=0.0,
    )  # fmt: skip
    assert _times_ms(graph, times) == [pytest.approx(1.25), 3.0, None, None]


def test_the_share_is_the_bound_divided_by_the_time() -> None:
    point = RooflinePoint(name="a", precision="int8", macs=1, bytes=1, intensity=2.0, bound="compute", bound_ms=0.5)
    assert _measured(point, 2.0).reached == 0.25
    assert _measured(point, None) == point
