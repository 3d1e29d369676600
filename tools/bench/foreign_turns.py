"""The process that measures all candidates of one model in turns; prints JSON.

Called as ``python -m tools.bench.foreign_turns ORIGINAL TESTS NOISE SECONDS CANDIDATES``: the original ONNX file, a
folder of ``.npz`` files, whether to measure the noise (1 or 0), how long to measure times, and, as JSON, the runtime
and path of each candidate by name. Each gets one thread. A time is the processor time of the whole process, which the
load of others disturbs less than the wall clock.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import edgekit
from edgekit.specs import EXACT_DB
from edgekit.telemetry import import_openvino

MOST_ROUNDS = 9
Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


def _edgekit(path: Path, outputs: Sequence[str]) -> Run:
    session = edgekit.load(path, threads=1)
    inputs = [each.name for each in session.inputs]

    def run(feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        found = session.run({name: feed[name] for name in inputs})  # without inputs that the build fixed
        return [found[name] for name in outputs]

    return run


def _onnxruntime(path: Path, outputs: Sequence[str]) -> Run:
    return _session(path, outputs, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)


def _unoptimized(path: Path, outputs: Sequence[str]) -> Run:
    return _session(path, outputs, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


def _session(path: Path, outputs: Sequence[str], level: onnxruntime.GraphOptimizationLevel) -> Run:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    return lambda feed: session.run(list(outputs), {name: feed[name] for name in inputs})


def _openvino(path: Path, outputs: Sequence[str]) -> Run:
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_openvino().Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    # A tensor may have several names, of which the graph's inputs and outputs have one. The index of a port is that
    # among the ports of its node.
    places = {name: place for place, port in enumerate(compiled.inputs) for name in port.get_names()}
    made = {name: place for place, port in enumerate(compiled.outputs) for name in port.get_names()}

    def run(feed: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        results = request.infer({places[name]: feed[name] for name in feed}, share_inputs=True).to_tuple()
        return [results[made[name]] for name in outputs]

    return run


RUNTIMES: dict[str, Callable[[Path, Sequence[str]], Run]] = {
    "edgekit": _edgekit,
    "onnxruntime": _onnxruntime,
    "unoptimized": _unoptimized,
    "openvino": _openvino,
}


def main(original: str, tests: str, noise: str, seconds: str, candidates: str) -> None:
    """See the module."""
    feeds = [dict(np.load(file)) for file in sorted(Path(tests).iterdir())]
    outputs = [output.name for output in onnx.load(original, load_external_data=False).graph.output]
    expected = None
    if noise == "1":
        reference = _unoptimized(Path(original), outputs)
        expected = [reference(feed) for feed in feeds]
    runs: dict[str, Run] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, (runtime, path) in json.loads(candidates).items():
        try:
            run = RUNTIMES[runtime](Path(path), outputs)
            results = [run(feed) for feed in (feeds if expected else feeds[:1])]
        except Exception as e:  # each library raises types of its own
            found[name] = {"error": f"{type(e).__name__}: {str(e)[:300]}"}
            continue
        found[name] = {"ms": []}
        if expected:
            found[name]["db"] = round(min(_db(expected, results, index) for index in range(len(outputs))), 2)
        if runtime != "unoptimized":
            runs[name] = run
    _measure_times(runs, feeds, float(seconds), found)
    print(json.dumps(found))


def _measure_times(
    runs: dict[str, Run], feeds: Sequence[dict[str, np.ndarray]], seconds: float, found: dict[str, dict[str, Any]]
) -> None:
    shuffled, until = random.Random(0), time.perf_counter() + seconds
    for turn in range(MOST_ROUNDS if seconds else 0):
        if turn and time.perf_counter() > until:
            break
        for name in shuffled.sample(sorted(runs), len(runs)):
            runs[name](feeds[turn % len(feeds)])  # the caches are another's
            started = time.process_time_ns()
            runs[name](feeds[turn % len(feeds)])
            found[name]["ms"].append((time.process_time_ns() - started) / 1e6)


def _db(expected: Sequence[Sequence[np.ndarray]], results: Sequence[Sequence[np.ndarray]], index: int) -> float:
    """Returns the signal-to-noise ratio of an output over all feeds; -200 with infinities or NaN, 200 without noise."""
    signal = noise = 0.0
    for one, other in zip(expected, results, strict=True):
        true = one[index].astype(np.float64)
        signal += float(np.square(true).sum())
        noise += float(np.square(true - other[index]).sum())
    if not math.isfinite(noise):
        return -EXACT_DB
    return EXACT_DB if noise == 0 else float(10 * np.log10(signal / noise))


if __name__ == "__main__":
    main(*sys.argv[1:])
