"""The process that times preprocessing and postprocessing on one core; prints medians as JSON.

Called as ``python -m tools.bench.one_core BUNDLE PHOTO RUNS``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import edgekit
from edgekit.data.images import ImageSource, read_image


def main(bundle: str, photo: str, runs: str) -> None:
    """See the module."""
    # Before numpy and the runtime count the cores, so that all their threads stay on this one.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pixels = read_image(Path(photo))
    sources: dict[str, ImageSource] = {"a file": Path(photo), "an array": pixels}
    rows = {}
    with edgekit.load(bundle, threads=1) as session:
        feeds, placement = session.preprocess(pixels)
        outputs = session.run(feeds)
        found = session.postprocess(outputs, placement)
        post_ms = _median_ms(lambda: session.postprocess(outputs, placement), int(runs))
        for name, source in sources.items():
            pre_ms = _median_ms(lambda source=source: session.preprocess(source), int(runs))  # type: ignore[misc]
            rows[name] = {
                "preprocess_ms": round(pre_ms, 3),
                "postprocess_ms": round(post_ms, 3),
                "both_ms": round(pre_ms + post_ms, 3),
                "detections": len(found),
            }
    print(json.dumps(rows))


def _median_ms(work: Callable[[], Any], runs: int) -> float:
    samples_ms = []
    for _ in range(runs + 3):
        started = time.perf_counter()
        work()
        samples_ms.append(1000 * (time.perf_counter() - started))
    return median(samples_ms[3:])


if __name__ == "__main__":
    main(*sys.argv[1:])
