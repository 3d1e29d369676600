"""Measures time and memory of the command ``edgekit build yolov3 --int8``."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_build"]

MODEL = "yolov3"
IMAGES = 32
SECONDS_LIMIT = 60
PEAK_LIMIT_BYTES = 3_000_000_000


def measure_build(shop: Workshop) -> dict[str, Any]:
    """Runs the command as a user does, with an empty cache."""
    images = 4 if shop.quick else IMAGES
    rows: dict[str, dict[str, Any]] = {}
    for _ in range(1 if shop.quick else 3):
        cache, output = shop.folder / "cache-build", shop.folder / "built"
        shutil.rmtree(cache, ignore_errors=True)
        command = [sys.executable, "-m", "edgekit", "build", MODEL, "--int8", "--calib-images", images, "-o", output]
        done = run_watched(command, environment={**shop.environment, "EDGEKIT_CACHE": str(cache)})
        shutil.rmtree(output)
        rows[f"edgekit build {MODEL} --int8, {images} images, run {len(rows) + 1}"] = {
            "seconds": round(done.wall_s, 1),
            "peak_bytes": done.largest_bytes,
            "sum_bytes": done.sum_bytes,
            "others": done.others,
        }
    limits = {"seconds": SECONDS_LIMIT, "peak_bytes": PEAK_LIMIT_BYTES}
    return {"title": "the whole build", "target": {name: limits for name in rows}, "rows": rows}
