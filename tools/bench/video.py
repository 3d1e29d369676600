"""Measures the throughput of a detector on a video, beside that of its slowest stage alone.

The part of the benchmark starts ``python -m tools.bench.video BUNDLE VIDEO THREADS ROUNDS``, which prints medians as
JSON.
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

import numpy as np

import edgekit
from edgekit.data.video.opening import source_of
from edgekit.data.video.writer import VideoWriter
from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_video"]

CASES = (("yolov3-tiny", 1), ("yolov3-tiny", 2), ("yolov3", 2))
"""Models and the threads of their inference."""
SIZE, RATE = (1280, 720), 30
STREAM = "all stages, `session.stream`"
WORK = "all stages' work, divided by the processors"
LEAST_THROUGHPUT = 0.9
"""Of all stages, relative to the slowest one alone, or to what the processors can do."""


def measure_video(shop: Workshop) -> dict[str, Any]:
    """Runs detectors on a video of 720p: decoding, preprocessing, inference and postprocessing, each alone and all.

    Where inference alone takes every processor, the other stages can only take time from it: no order of the work is
    faster than all of it divided by the processors, which is a row of its own and then the target. Where inference
    leaves processors to the others, the slowest stage is. The video has 13 s, since of a short one a large part of the
    time is that of the first frame, which has no other to run beside it. Images are resized as OpenCV does it, as
    today's detectors want.
    """
    frames, rounds = (60, 2) if shop.quick else (400, 3)
    video = shop.folder / f"video-{frames}.mp4"
    if not video.exists():
        write_scene(video, frames)
    processors = len(os.sched_getaffinity(0))
    rows: dict[str, dict[str, Any]] = {}
    target: dict[str, dict[str, float]] = {}
    for model, threads in CASES:
        if threads > processors:
            continue
        bundle = shop.bundle(model, "int8", "cpu", "--calib-images", "8", "--preprocess", "antialias=false")
        done = run_watched([sys.executable, "-m", "tools.bench.video", bundle, video, threads, rounds])
        found: dict[str, float] = json.loads(done.stdout)
        alone = {name: time_ms for name, time_ms in found.items() if name != STREAM}
        slowest = max(alone.values())
        work = (sum(alone.values()) + (threads - 1) * alone["inference"]) / processors
        for name, time_ms in {**found, WORK: work}.items():
            row = {"short_ms": round(time_ms, 3), "ratio": round(time_ms / slowest, 3)}
            rows[f"{model}, {_threads(threads)}, {name}"] = {**row, "others": done.others}
        target[f"{model}, {_threads(threads)}, {STREAM}"] = {
            "ratio": round(max(slowest, work) / slowest / LEAST_THROUGHPUT, 3)
        }
    return {
        "title": f"detectors in INT8 on a video of {SIZE[0]} x {SIZE[1]} px, time of a frame on ONNX Runtime, "
        f"{processors} processors",
        "relative_to": "the slowest stage alone",
        "target": target,
        "rows": rows,
    }


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def write_scene(path: Path, frames: int) -> None:
    """Writes a video of blocks that move over noise, which a decoder has work with."""
    random = np.random.default_rng(0)
    width, height = SIZE
    background = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    starts, speeds = random.uniform(0, 500, (12, 2)), random.uniform(-4, 4, (12, 2))
    with VideoWriter(path, frame_rate=RATE) as video:
        for index in range(frames):
            frame = background.copy()
            for number, (x, y) in enumerate((starts + index * speeds).astype(int) % (width - 120, height - 120)):
                frame[y : y + 120, x : x + 80] = 20 * number
            video.write(frame, index / RATE)


def main(bundle: str, video: str, threads: str, rounds: str) -> None:
    """Times each stage and all of them, in turns."""
    frames = [frame.pixels for frame in source_of(video).frames()]
    times_ms: dict[str, list[float]] = {}
    with edgekit.load(bundle, threads=int(threads)) as session:
        feeds, placement = session.preprocess(frames[0])
        outputs = session.run(feeds)
        works: dict[str, Callable[[], Any]] = {
            "decoding": lambda: [None for _ in source_of(video).frames()],
            "preprocessing": lambda: [session.preprocess(frame) for frame in frames],
            "inference": lambda: [session.run(feeds) for _ in frames],
            "postprocessing": lambda: [session.postprocess(outputs, placement) for _ in frames],
            STREAM: lambda: [None for _ in session.stream(video)],
        }
        for _ in range(int(rounds)):
            for name, work in works.items():
                started = time.perf_counter()
                work()
                times_ms.setdefault(name, []).append(1000 * (time.perf_counter() - started) / len(frames))
    print(json.dumps({name: median(times) for name, times in times_ms.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
