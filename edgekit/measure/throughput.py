"""Measures throughput against latency with several streams: engines that run side by side in this process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from edgekit.device.cpu import cpu
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.limits import MAX_STREAMS
from edgekit.option import given_number
from edgekit.progress import Progress, Warnings
from edgekit.runtime.session import Session, session_from_bundle

__all__ = ["StreamPoint", "Throughput", "measure_throughput", "streams_from_text"]

SECONDS = 2.0
WARMUP_RUNS = 3
GPU_STREAMS = (1, 2, 3, 4)


class StreamPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Throughput and latency with one number of streams.

    Attributes:
        streams: number of engines that run side by side.
        threads: threads of each engine; 0 on a GPU.
        runs: number of runs of all streams.
        per_s: inputs per second of all streams together; a batch counts as its inputs.
        mean_ms: mean latency of a run.
        p50_ms: median latency of a run.
        p90_ms: 90th percentile of the latencies of these runs.
        max_ms: the slowest run.
    """

    streams: int
    threads: int
    runs: int
    per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    max_ms: float


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """The curve of throughput against latency.

    Attributes:
        how: what a stream is for this backend.
        points: by number of streams, ascending.
        knee: the number of streams with the most throughput per mean latency (Kleinrock 1979, "Power and deterministic
            rules of thumb for probabilistic problems in computer communications"): more streams cost more latency than
            they gain.
        best: the number of streams with the highest throughput.
    """

    how: str
    points: tuple[StreamPoint, ...]
    knee: int
    best: int


def streams_from_text(text: str) -> int:
    """Parses the option ``--streams``: a number, or ``auto``, which is returned as 0.

    Raises:
        ValueError: it is neither.
    """
    if text == "auto":
        return 0
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text):
        raise ValueError(f"expected a number of streams from 1, or auto, got '{text}'")
    return int(text)


def measure_throughput(
    path: str | Path,
    feeds: Mapping[str, np.ndarray],
    *,
    streams: int = 0,
    threads: int = 0,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Throughput:
    """Measures an engine with one stream, and with more.

    On the CPU, each stream is a session of its own with ``cores // streams`` threads, so that all streams together
    use each core once; on a GPU, it is an engine of its own, with its context and CUDA stream. Each is driven by a
    thread of this process.

    Args:
        path: the bundle.
        feeds: inputs of every run.
        streams: measure 1 and this many; 0 measures 1, 2, 4, ... up to twice the cores on the CPU, 1 to 4 on a GPU.
        threads: threads of each engine; 0 divides the cores.
        seconds: duration for each number of streams.
        progress: receives the progress.

    Raises:
        UsageError: ``streams`` is no number, or out of range.
    """
    streams = given_number("streams", streams, 0, MAX_STREAMS)
    on_gpu = backend(read_manifest(Path(path)).backend).on_gpu
    cores = cpu().compute_threads
    counts = [1, streams] if streams else list(GPU_STREAMS) if on_gpu else _up_to(2 * cores)
    points = []
    with (progress or Warnings()).stage("measuring several streams", total=len(set(counts)), unit="points") as advance:
        for count in sorted(set(counts)):
            each = 0 if on_gpu else threads or max(1, cores // count)
            points.append(_point(Path(path), feeds, count, each, seconds))
            advance(1)
    how = (
        "each stream is an engine of its own with its context and CUDA stream"
        if on_gpu
        else "each stream is a session of its own; the cores are divided among them"
    )
    return Throughput(
        how=how,
        points=tuple(points),
        knee=max(points, key=lambda point: point.per_s / point.mean_ms).streams,
        best=max(points, key=lambda point: point.per_s).streams,
    )


def _up_to(limit: int) -> list[int]:
    """Returns the powers of two up to ``limit``, and ``limit``."""
    return sorted({*(2**i for i in range(limit.bit_length())), limit})


def _point(path: Path, feeds: Mapping[str, np.ndarray], streams: int, threads: int, seconds: float) -> StreamPoint:
    with ExitStack() as stack:
        sessions = [stack.enter_context(session_from_bundle(path, threads=threads)) for _ in range(streams)]
        for session in sessions:
            for _ in range(WARMUP_RUNS):
                session.run(feeds)
        spans = _side_by_side([_runner(session, feeds) for session in sessions], seconds)
    starts, ends = (np.array([span[i] for stream in spans for span in stream]) for i in (0, 1))
    latencies_ms = 1000 * (ends - starts)
    p50, p90 = np.percentile(latencies_ms, (50, 90))
    return StreamPoint(
        streams=streams,
        threads=threads,
        runs=len(ends),
        per_s=_rate(spans, _batch(feeds)),
        mean_ms=float(latencies_ms.mean()),
        p50_ms=float(p50),
        p90_ms=float(p90),
        max_ms=float(latencies_ms.max()),
    )


def _batch(feeds: Mapping[str, np.ndarray]) -> int:
    first = next(iter(feeds.values()))
    return int(first.shape[0]) if first.ndim else 1


def _rate(spans: Sequence[Sequence[tuple[float, float]]], batch: int) -> float:
    """Returns inputs per second: each stream by its own runs, as streams do not end at the same time."""
    return sum(batch * len(stream) / (stream[-1][1] - stream[0][0]) for stream in spans)


def _runner(session: Session, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    return lambda: session.run(feeds)


def _side_by_side(runs: Sequence[Callable[[], object]], seconds: float) -> list[list[tuple[float, float]]]:
    """Calls each function again and again in a thread of its own; returns begin and end of each call, by thread.

    Raises:
        Exception: that of the first call that failed.
    """
    ready = threading.Barrier(len(runs))
    spans: list[list[tuple[float, float]]] = [[] for _ in runs]
    errors: list[BaseException] = []

    def loop(run: Callable[[], object], into: list[tuple[float, float]]) -> None:
        try:
            ready.wait()
            deadline = time.perf_counter() + seconds
            while not into or (time.perf_counter() < deadline and not errors):
                start = time.perf_counter()
                run()
                into.append((start, time.perf_counter()))
        except BaseException as e:  # raised again in the thread that waits
            errors.append(e)

    threads = [threading.Thread(target=loop, args=pair, daemon=True) for pair in zip(runs, spans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return spans
