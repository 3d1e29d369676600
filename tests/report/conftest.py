from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.measure.layer_groups import groups_by_module
from edgekit.measure.layer_times import LayerTime, LayerTimes, TimelineRun
from edgekit.measure.power import Power
from edgekit.measure.reports import LatencyReport
from edgekit.measure.roofline import BandwidthLevel, Peaks, roofline_from_layers
from edgekit.measure.throughput import StreamPoint, Throughput

sys.path.insert(0, str(Path(__file__).parent / "modules"))  # chromium

from chromium import Browser, running_browser  # noqa: E402

MakeReport = Callable[..., LatencyReport]
PEAKS = Peaks(
    name="a <machine> & its peaks",
    kind="measured",
    macs_per_s={"float32": 5e10, "int8": 2e11},
    bytes_per_s=2e10,
    levels=(BandwidthLevel(working_set_bytes=0, bytes_per_s=2e10),),
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, for tests that are marked `needs_chromium`."""
    with running_browser() as started:
        yield started


def _layer(index: int, count: int) -> LayerTime:
    stage, quantizes = index * 6 // count, index % 7 == 3
    median_ms = 0.01 + (index * 37 % 23) / 10
    return LayerTime(
        name=f"backbone.stage{stage}.block{index}.conv",
        operator="QuantizeLinear" if quantizes else "Conv",
        median_ms=median_ms,
        share=0.0,
        nodes=() if quantizes else (f"backbone.stage{stage}.block{index}.conv",),
        module="" if quantizes else f"backbone.stage{stage}.block{index}",
        overhead="quantize" if quantizes else "",
        precision="float32" if index < 3 or quantizes else "int8",
        outputs=((1, 8 * (index + 1), 52, 52),),
        macs=0 if quantizes else int(5e7 * (1 + index % 5)),
        weight_bytes=0 if quantizes else 20_000 * (index + 1),
        activation_bytes=400_000,
    )


class _Work(msgspec.Struct):
    name: str
    macs: int
    bytes: int
    precision: str
    weight_bytes: int
    median_ms: float


@pytest.fixture
def full_report(make_report: MakeReport) -> MakeReport:
    """A report with everything that a profile can have; made-up times of ``layers`` layers."""

    def make(layers: int = 40, **changes: object) -> LatencyReport:
        made = [_layer(index, layers) for index in range(layers)]
        total_ms = sum(layer.median_ms for layer in made)
        made = [msgspec.structs.replace(layer, share=layer.median_ms / total_ms) for layer in made]
        starts = np.cumsum([0.0, *(layer.median_ms for layer in made)])
        run = TimelineRun(
            start_ms=0.0,
            stages={"preprocess": 4.0, "inference": total_ms, "postprocess": 1.0},
            engine_start_ms=4.0,
            layers=tuple((float(start), layer.median_ms) for start, layer in zip(starts, made, strict=False)),
        )
        times = LayerTimes(
            layers=tuple(made),
            runs=50,
            sum_ms=total_ms,
            profiled_ms=total_ms,
            end_to_end_ms=total_ms,
            difference=0.0,
            overhead_ms={"quantize": sum(layer.median_ms for layer in made if layer.overhead)},
            mapped=True,
            by_module=groups_by_module(made),
            timeline=(run,),
            starts_measured=True,
        )
        work = [
            _Work(
                layer.name, layer.macs or 0, (layer.weight_bytes or 0) + 400_000, layer.precision,
                layer.weight_bytes or 0, layer.median_ms,
            )
            for layer in made
            if not layer.overhead
        ]  # fmt: skip
        points = tuple(
            StreamPoint(
                streams=n, threads=1, runs=9, per_s=40 * n**0.5, mean_ms=20.0 * n, p50_ms=19.0 * n, p90_ms=22.0 * n,
                max_ms=25.0 * n,
            )
            for n in (1, 2, 4, 8)
        )  # fmt: skip
        power = Power(
            source="RAPL package-0", idle_w=5.0, mean_w=15.0, over_idle_w=10.0, mj_per_run=300.0,
            mj_over_idle_per_run=200.0, slowest_w=14.0, run_ends_s=(0.1, 0.2),
            samples_s=tuple(i / 10 - 1 for i in range(40)), samples_w=tuple(5.0 + (i > 10) * 10 for i in range(40)),
        )  # fmt: skip
        fields = {
            "layer_times": times,
            "roofline": roofline_from_layers(work, PEAKS, measured_ms=total_ms),
            "throughput": Throughput(how="each stream is a session", points=points, knee=2, best=8),
            "power": power,
        }
        return make_report(**(fields | changes))

    return make
