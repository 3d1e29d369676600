from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgekit.report.latency import disturbances, statistics_ms
from edgekit.report.machine import this_machine
from edgekit.report.reports import LatencyReport, Memory
from edgekit.specs import TensorSpec

MakeReport = Callable[..., LatencyReport]


@pytest.fixture
def make_report() -> MakeReport:
    """A report of made-up runs around ``base_ms``."""

    def make(precision: str = "int8", *, base_ms: float = 25.0, runs: int = 200, **changes: object) -> LatencyReport:
        random = np.random.default_rng(0)
        samples = {
            "preprocess": (4 + 0.1 * random.random(runs)).tolist(),
            "inference": (base_ms * (1 + 0.01 * random.gamma(2, 1, runs))).tolist(),
            "postprocess": (0.8 + 0.05 * random.random(runs)).tolist(),
        }
        fields = {
            "name": "tiny",
            "task": "detect",
            "precision": precision,
            "layers": {"int8": 11, "float32": 2},
            "backend": "cpu",
            "backend_version": "1.2.3",
            "edgekit": "0.1.0",
            "created": "2026-01-02T03:04:05+00:00",
            "inputs": (TensorSpec("images", "float32", (1, 3, 416, 416)),),
            "input_source": "dog.jpg, 768 x 576 px",
            "runs": runs,
            "warmup": 10,
            "threads": 0,
            "latency_ms": statistics_ms(samples["inference"]),
            "total_ms": statistics_ms([sum(row) for row in zip(*samples.values(), strict=True)]),
            "stages": {stage: statistics_ms(values) for stage, values in samples.items()},
            "samples_ms": samples,
            "throughput_per_s": 1000 / base_ms,
            "engine_bytes": int(base_ms * 1e6),
            "memory": Memory(peak_bytes=300_000_000, engine_bytes=60_000_000),
            "machine": this_machine(),
            "disturbances": disturbances(samples["inference"]),
        }
        return LatencyReport(**(fields | changes))

    return make
