"""The process of one turn of a comparison: ``python -m edgekit.measure.turn REQUEST RESPONSE``; see `turns.py`."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edgekit.arguments import on_command_line
from edgekit.device.cpu import peak_memory_bytes
from edgekit.engine.backend import Engine, backend
from edgekit.engine.bundle.checks import bundle_in
from edgekit.engine.bundle.manifest import read_engine
from edgekit.engine.bundle.reading import OpenFolder
from edgekit.engine.onnxruntime.backend import load_plain
from edgekit.engine.parent import end_with_parent
from edgekit.errors import EdgeKitError
from edgekit.measure.machine import resident_bytes
from edgekit.text import json_bytes

__all__ = ["TurnRequest", "TurnResponse", "main"]

WARMUP_SHARE = 0.5
MIN_RUNS = 5
MAX_RUNS = 1000


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn runs.

    Attributes:
        parent: process id of the parent; this process ends when the parent ends.
        kind: ``engine`` for a bundle, ``onnx`` for a file that plain ONNX Runtime runs.
        path: the bundle or the file.
        feeds: ``.npz`` file with the inputs by name.
        threads: threads of the engine; 0 leaves it to the backend.
        seconds: duration of the measured runs; half of it is spent on a warm-up before.
        on_command_line: how messages name arguments; see `edgekit.arguments`.
    """

    parent: int
    kind: Literal["engine", "onnx"]
    path: str
    feeds: str
    threads: int
    seconds: float
    on_command_line: bool


class TurnResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn measured; ``error`` and ``hint`` only, if it failed.

    Attributes:
        samples_ms: latency of each run, from input arrays to output arrays.
        peak_bytes: peak memory of the process.
        engine_bytes: memory that loading and warming up the engine added; None if unknown.
        error: message of the error.
        hint: its hint.
    """

    samples_ms: tuple[float, ...] = ()
    peak_bytes: int = 0
    engine_bytes: int | None = None
    error: str = ""
    hint: str = ""


def main(request_file: str, response_file: str) -> None:
    """Runs a turn as requested, and writes the response; an unexpected exception is not caught."""
    request = msgspec.json.decode(Path(request_file).read_bytes(), type=TurnRequest)
    end_with_parent(request.parent)
    try:
        with on_command_line(request.on_command_line):
            response = _turn(request)
    except EdgeKitError as e:
        response = TurnResponse(error=e.message, hint=e.hint)
    Path(response_file).write_bytes(json_bytes(response))


def _turn(request: TurnRequest) -> TurnResponse:
    with np.load(request.feeds, allow_pickle=False) as content:
        feeds = {name: content[name] for name in content.files}
    before = resident_bytes()
    with closing(_loaded(request)) as engine:
        warm_until = time.perf_counter() + WARMUP_SHARE * request.seconds
        engine.run(feeds)
        while time.perf_counter() < warm_until:
            engine.run(feeds)
        after = resident_bytes()
        samples = _samples(engine, feeds, request.seconds)
    return TurnResponse(
        samples_ms=tuple(samples),
        peak_bytes=peak_memory_bytes(),
        engine_bytes=None if before is None or after is None else max(0, after - before),
    )


def _loaded(request: TurnRequest) -> Engine:
    path = Path(request.path)
    if request.kind == "onnx":
        return load_plain(path, threads=request.threads)

    def load(folder: OpenFolder) -> Engine:
        manifest = bundle_in(folder.at)
        return backend(manifest.backend).load(folder.at / manifest.engine, threads=request.threads)

    return read_engine(path, load)


def _samples(engine: Engine, feeds: dict[str, np.ndarray], seconds: float) -> list[float]:
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < MIN_RUNS or (time.perf_counter() < deadline and len(samples) < MAX_RUNS):
        start = time.perf_counter_ns()
        engine.run(feeds)
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return samples


if __name__ == "__main__":
    main(*sys.argv[1:])
