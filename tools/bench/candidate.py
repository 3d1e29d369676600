"""The process of one turn of a candidate: loads it, warms it up, and times a number of runs.

Called as ``python -m tools.bench.candidate RUNTIME PATH FEED THREADS RUNS``. Prints the milliseconds of each run, and
the CPU load of other processes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.measure.machine import processor_time
from edgekit.telemetry import import_openvino

WARMUP_S = 1.0

Run = Callable[[Any], Any]


def _edgekit(path: Path, threads: int) -> Run:
    session = edgekit.load(path, threads=threads)
    name = session.inputs[0].name
    return lambda feed: session.run(feed if isinstance(feed, dict) else {name: feed})


def _onnxruntime(path: Path, threads: int) -> Run:
    """Loads an unchanged graph with EdgeKit's session options: all optimizations, spinning threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda feed: session.run(None, {name: feed})


def _openvino(path: Path, threads: int) -> Run:
    """Loads an unchanged graph with EdgeKit's settings: optimized for latency, floats in float32."""
    ov = import_openvino()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda feed: request.infer([feed], share_inputs=True)


RUNTIMES: dict[str, Callable[[Path, int], Run]] = {
    "edgekit": _edgekit,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _turn(run: Run, feed: Any, runs: int) -> dict[str, Any]:
    samples_ms = []
    before = processor_time()
    for _ in range(runs):
        started = time.perf_counter()
        run(feed)
        samples_ms.append(1000 * (time.perf_counter() - started))
    after = processor_time()
    usage: dict[str, Any] = {"wall_s": 0.0, "others_s": 0.0, "processors": 0}
    if before and after:
        usage = {
            "wall_s": after.wall_s - before.wall_s,
            "others_s": (after.all_s - before.all_s + after.stolen_s - before.stolen_s) - (after.own_s - before.own_s),
            "processors": after.processors,
        }
    return {"ms": samples_ms, **usage}


def main(runtime: str, path: str, feed_file: str, threads: str, runs: str) -> None:
    """See the module."""
    feed = np.load(feed_file)
    if isinstance(feed, np.lib.npyio.NpzFile):
        feed = dict(feed)
    run = RUNTIMES[runtime](Path(path), int(threads))
    started = time.perf_counter()
    while time.perf_counter() - started < WARMUP_S:
        run(feed)
    print(json.dumps(_turn(run, feed, int(runs))))


if __name__ == "__main__":
    main(*sys.argv[1:])
