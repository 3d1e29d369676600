"""Measures the preprocessing of a camera's frame on one core, beside OpenCV and Ultralytics.

The part of the benchmark starts ``python -m tools.bench.preprocess RUNS``, which prints medians as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_preprocess"]

FRAME, SIDE, PAD = (1080, 1920, 3), 640, 114
LIMIT_MS = 3.0
BILINEAR = "EdgeKit, bilinear"
OPENCV = "OpenCV and numpy"
Work = Callable[[], Any]


def measure_preprocess(shop: Workshop) -> dict[str, Any]:
    """Letterboxes a frame of 1080p, swaps its channels, and makes float32 planes from 0 to 1 of it."""
    done = run_watched([sys.executable, "-m", "tools.bench.preprocess", 10 if shop.quick else 300])
    rows = json.loads(done.stdout)
    for row in rows.values():
        if row:
            row["ratio"] = round(row["short_ms"] / rows[OPENCV]["short_ms"], 3)
            row["others"] = done.others
    return {
        "title": f"preprocess of a 1920 x 1080 px array for {SIDE} x {SIDE} px, one core",
        "relative_to": OPENCV,
        "target": {BILINEAR: {"short_ms": LIMIT_MS}},
        "rows": rows,
    }


def main(runs: str) -> None:
    """Times all candidates in turns, in random order."""
    # Before numpy and OpenCV count the cores, so that all their threads stay on this one.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np

    frame = np.random.default_rng(0).integers(0, 256, FRAME, dtype=np.uint8)
    works = {**edgekit_works(frame), **opencv_works(frame), **ultralytics_works(frame)}
    rows: dict[str, dict[str, Any]] = {name: {} for name in works}
    times_ms: dict[str, list[float]] = {name: [] for name, work in works.items() if work}
    shuffled = random.Random(0)
    for turn in range(int(runs) + 3):
        for name in shuffled.sample(list(times_ms), len(times_ms)):
            work = works[name]
            assert work is not None
            started = time.perf_counter()
            work()
            if turn >= 3:
                times_ms[name].append(1000 * (time.perf_counter() - started))
    for name, times in times_ms.items():
        rows[name] = {"short_ms": round(median(times), 3), "runs": len(times)}
    print(json.dumps(rows))


def edgekit_works(frame: Any) -> dict[str, Work | None]:
    from edgekit.data.images import preprocess
    from edgekit.kernels.preprocess import resample
    from edgekit.recipe.schema import Preprocess

    def work(*, opencv: bool = True, **fields: Any) -> Work:
        how = Preprocess(resize="letterbox", color="bgr", pad=PAD, **fields)
        found = resample._opencv

        def run() -> Any:
            resample._opencv = found if opencv else _no_opencv  # type: ignore[assignment]
            batch, _ = preprocess(frame, how, (1, 3, SIDE, SIDE))
            resample._opencv = found
            return batch

        return run

    return {
        "EdgeKit, antialiased": work(),
        BILINEAR: work(antialias=False),
        f"{BILINEAR}, without OpenCV": work(antialias=False, opencv=False),
        "EdgeKit, nearest": work(interpolation="nearest"),
        "EdgeKit, nearest, without OpenCV": work(interpolation="nearest", opencv=False),
    }


def _no_opencv() -> None:
    return None


def opencv_works(frame: Any) -> dict[str, Work | None]:
    import numpy as np

    cv2 = importlib.import_module("cv2")

    def letterboxed() -> Any:
        height, width = frame.shape[:2]
        scale = min(SIDE / height, SIDE / width)
        resized = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
        top, left = (SIDE - resized.shape[0]) // 2, (SIDE - resized.shape[1]) // 2
        bottom, right = SIDE - resized.shape[0] - top, SIDE - resized.shape[1] - left
        return cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(PAD, PAD, PAD))

    def with_numpy() -> Any:
        image = cv2.cvtColor(letterboxed(), cv2.COLOR_RGB2BGR)
        return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / np.float32(255)

    return {
        OPENCV: with_numpy,
        "OpenCV, blobFromImage": lambda: cv2.dnn.blobFromImage(letterboxed(), 1 / 255, swapRB=True),
    }


def ultralytics_works(frame: Any) -> dict[str, Work | None]:
    """Returns what Ultralytics' predictor does before the model: ``LetterBox``, then torch."""
    try:
        letterbox = importlib.import_module("ultralytics.data.augment").LetterBox((SIDE, SIDE), auto=False)
    except ImportError as e:
        return {f"Ultralytics (not measured: {e})": None}
    import numpy as np
    import torch

    def work() -> Any:
        image = np.stack([letterbox(image=frame)])[..., ::-1].transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(image)).float() / 255

    return {"Ultralytics LetterBox and torch": work}


if __name__ == "__main__":
    main(*sys.argv[1:])
