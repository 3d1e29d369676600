"""Measures preprocessing and postprocessing of ``.detect`` on one core."""

from __future__ import annotations

import json
import sys
from typing import Any

from tools.bench.accuracy import MODEL, test_data
from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_detect"]

PHOTO = "dog.jpg"
BOTH_LIMIT_MS = 12.0


def measure_detect(shop: Workshop) -> dict[str, Any]:
    """Measures preprocessing and postprocessing of a 768 x 576 photo at the default thresholds.

    YOLOv3-tiny has trained weights. YOLOv3 has more cells, but random weights, because its weights would have to be
    downloaded; the number of boxes above its threshold shows how much postprocessing has to do.
    """
    data = test_data()
    if data is None:
        return {"skipped": "EDGEKIT_TEST_DATA is not set"}
    weights = str(data / "yolov3-tiny" / "yolov3-tiny.weights")
    bundles = {
        f"{MODEL}, trained": shop.bundle(MODEL, "fp32", "cpu", "--weights", weights),
        "yolov3, random weights": shop.bundle("yolov3", "fp32", "cpu"),
    }
    rows = {}
    for name, bundle in bundles.items():
        runs = 20 if shop.quick else 200
        command = [sys.executable, "-m", "tools.bench.one_core", bundle, data / "photos" / PHOTO, runs]
        rows.update({f"{name}, from {source}": row for source, row in json.loads(run_watched(command).stdout).items()})
    return {
        "title": "preprocess and postprocess of .detect, 768 x 576, one core",
        "target": {name: {"both_ms": BOTH_LIMIT_MS} for name in rows},
        "rows": rows,
    }
