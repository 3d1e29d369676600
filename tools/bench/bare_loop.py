"""The process that compares EdgeKit's measurement with a bare loop of the backend's own API; prints JSON.

Called as ``python -m tools.bench.bare_loop BUNDLE THREADS ROUNDS RUNS``. Both use the same loaded engine, since two
instances of one engine differ by more than what is measured here. Blocks of runs take turns in random order.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.engine.onnxruntime.backend import Session as OnnxRuntimeEngine
from edgekit.engine.openvino.backend import Request as OpenVinoEngine
from edgekit.measure.machine import processor_time
from edgekit.measure.profile import measure
from edgekit.runtime.session import Session, session_from_bundle
from edgekit.specs import specs_at

WARMUP_RUNS = 20
BLOCK_WARMUP_RUNS = 2
"""Runs at the start of each block that are not counted: the backend's threads sleep while a report is made between two
blocks, which is not a cost of a run."""


def main(bundle: str, threads: str, rounds: str, runs: str) -> None:
    """See the module."""
    samples_ms: dict[str, list[float]] = {"bare": [], "edgekit": []}
    with session_from_bundle(Path(bundle), threads=int(threads)) as session:
        blocks = {"bare": _bare(session), "edgekit": _edgekit(session)}
        blocks["edgekit"](WARMUP_RUNS)
        before, shuffled = processor_time(), random.Random(0)
        for _ in range(int(rounds)):
            for name in shuffled.sample(sorted(blocks), len(blocks)):
                samples_ms[name] += blocks[name](int(runs))
        after = processor_time()
    assert before and after
    busy_s = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    others = busy_s / ((after.wall_s - before.wall_s) * after.processors)
    print(json.dumps({**samples_ms, "others": others}))


Block = Callable[[int], list[float]]


def _edgekit(session: Session) -> Block:
    return lambda runs: measure(session, runs=runs, warmup=BLOCK_WARMUP_RUNS).samples_ms["inference"]


def _bare(session: Session) -> Block:
    feeds = {
        spec.name: np.random.default_rng(0).standard_normal(spec.shape).astype(spec.dtype)
        for spec in specs_at(session.inputs, session.manifest.shapes)
    }
    run = _call(session._engine.opened(), feeds)

    def block(runs: int) -> list[float]:
        samples_ms = []
        for _ in range(BLOCK_WARMUP_RUNS):
            run()
        for _ in range(runs):
            start = time.perf_counter_ns()
            run()
            samples_ms.append((time.perf_counter_ns() - start) / 1e6)
        return samples_ms

    return block


def _call(engine: object, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    if isinstance(engine, OnnxRuntimeEngine):
        loaded = engine._session
        return lambda: loaded.run(None, feeds)
    assert isinstance(engine, OpenVinoEngine)
    request = engine._request
    return lambda: request.infer(feeds, share_inputs=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
