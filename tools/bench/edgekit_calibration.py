"""The process that calibrates and quantizes with EdgeKit; prints time and memory as JSON.

Called as ``python -m tools.bench.edgekit_calibration GRAPH FEEDS OUTPUT IMAGES METHOD``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import edgekit
from edgekit.progress import Advance
from tools.bench.process import peak_bytes

# The stages that correspond to the one call of the peers: from the loaded float graph to the quantized graph.
STAGES = ("calibrating", "quantizing")


class Stopwatch:
    """A `Progress` that records the duration of each stage and the process's peak memory at its end."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[float, int]] = {}

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Advance]:
        started = time.perf_counter()
        yield lambda amount: None
        self.stages[title] = time.perf_counter() - started, peak_bytes()

    def note(self, text: str) -> None:
        return None


def main(graph: str, feeds: str, output: str, images: str, method: str) -> None:
    """See the module."""
    watch = Stopwatch()
    edgekit.build(
        graph,
        precision="int8",
        target="cpu",
        calib=feeds,
        calib_method=method,
        calib_images=int(images),
        output=output,
        profile=False,
        progress=watch,
    )
    seconds, peaks = zip(*(watch.stages[title] for title in STAGES), strict=True)
    print(json.dumps({"seconds": sum(seconds), "peak_bytes": max(peaks), "stages": watch.stages}))


if __name__ == "__main__":
    main(*sys.argv[1:])
