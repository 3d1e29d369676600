"""Which layers of an engine are slower than in its reference, where each fuses nodes in its own way."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit.measure.layer_times import LayerTime, LayerTimes
from edgekit.measure.relative import Ratio
from edgekit.measure.slower_layers import RelativeSpeed, SlowerLayer, layers_that_are_slower

MACS = {"conv": 100, "relu": 0, "mul": 0, "fast": 50, "softmax": 0}


def times(*layers: tuple[float, tuple[str, ...], str, str]) -> LayerTimes:
    found = tuple(
        LayerTime(name="", operator="", median_ms=ms, share=0.0, nodes=nodes, precision=dtype, overhead=overhead)  # type: ignore[arg-type]
        for ms, nodes, dtype, overhead in layers
    )
    return LayerTimes(layers=found, runs=1, sum_ms=0.0, profiled_ms=0.0, end_to_end_ms=0.0, difference=0.0)


def test_layers_that_share_a_node_in_either_engine_are_one() -> None:
    own = times(
        (4.0, ("conv_dequantize", "conv"), "int8", ""),
        (1.0, ("relu", "mul"), "float32", ""),
        (0.5, ("fast",), "int8", ""),
        (0.3, (), "", "quantize"),
        (0.2, ("x_quantize",), "", "quantize"),
        (9.0, (), "", "reformat"),
    )
    base = times((2.0, ("conv", "relu"), "float32", ""), (0.5, ("mul",), "", ""), (1.0, ("fast",), "float32", ""))
    assert layers_that_are_slower(own, base, MACS) == (
        SlowerLayer(nodes=("conv", "relu", "mul"), integers=("conv",), ms=5.0, reference_ms=2.5),
        SlowerLayer(nodes=(), integers=(), ms=0.5, reference_ms=0.0),
    )


def test_layers_that_lose_little_are_not_to_blame() -> None:
    own = times((4.0, ("conv",), "int8", ""), (1.04, ("softmax",), "float32", ""))
    base = times((2.0, ("conv",), "float32", ""), (1.0, ("softmax",), "float32", ""))
    assert [layer.nodes for layer in layers_that_are_slower(own, base, MACS)] == [("conv",)]
    assert layers_that_are_slower(base, base, MACS) == ()


@pytest.mark.parametrize(("low", "slower"), [(1.01, True), (0.99, False), (None, False)])
def test_an_engine_is_slower_if_its_whole_interval_is(low: float | None, slower: bool) -> None:
    ratio = Ratio(value=1.2, low=low, high=1.4)
    assert RelativeSpeed(ratio=ratio, precision="int8", reference="fp32").is_slower == slower


def test_the_sentence_names_the_layers_and_the_way_on() -> None:
    fields: dict[str, Any] = {"ratio": Ratio(value=1.2, low=1.1, high=1.3), "precision": "int8", "reference": "fp32"}
    layers = (
        SlowerLayer(nodes=("a", "b"), integers=("a",), ms=5.0, reference_ms=2.5),
        SlowerLayer(nodes=(), integers=(), ms=0.5, reference_ms=0.0),
    )
    assert str(RelativeSpeed(**fields)) == "INT8 takes 1.20 × the time of FP32 on this machine"
    assert str(RelativeSpeed(**fields, layers=layers)) == (
        "INT8 takes 1.20 × the time of FP32 on this machine. Most of it is lost in a (5.00 ms, not 2.50 ms), "
        "conversions between integers and floats (0.500 ms, not 0.000 ms). Try keep_float=['a']"
    )
