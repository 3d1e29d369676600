"""Measures time and memory of calibration: EdgeKit's entropy method, and NNCF and ModelOpt on the same graph."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_calibration"]

MODEL = "yolov3"
IMAGES = 32
FLAT = (8, 128)
ROUNDS = 3
PEAK_LIMIT_BYTES = 1_500_000_000
TIME_LIMIT = 0.7
PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "nncf": ("NNCF {}", ".xml", ()),
    "modelopt": ("ModelOpt {} entropy", ".onnx", ("entropy",)),
}


def measure_calibration(shop: Workshop) -> dict[str, Any]:
    """Measures from loaded float graph to quantized graph, on the same arrays, in turns, each in a new process."""
    images, counts, rounds = (4, (2, 8), 1) if shop.quick else (IMAGES, FLAT, ROUNDS)
    fp32 = shop.bundle(MODEL, "fp32", "cpu")
    feeds = shop.feeds("sample", max(counts), fp32)
    graph = fp32 / "graph.onnx"
    turns: dict[str, list[tuple[float, int, float]]] = {}
    for _ in range(rounds):
        turns.setdefault(f"EdgeKit entropy, {images} images", []).append(_edgekit(shop, graph, feeds, images))
        for peer, (name, suffix, options) in PEERS.items():
            if shop.interpreter(peer) is not None:
                made = shop.peer_graph(peer, graph, feeds, images, suffix, *options, fresh=True)
                taken = made.seconds, made.largest_bytes, made.others
                turns.setdefault(f"{name.format(made.version)}, {images} images", []).append(taken)
    for count in counts:
        turns.setdefault(f"EdgeKit entropy, {count} images", []).append(_edgekit(shop, graph, feeds, count))
    rows: dict[str, dict[str, Any]] = {name: _row(taken) for name, taken in turns.items()}
    ours = f"EdgeKit entropy, {images} images"
    nncf = next((name for name in rows if name.startswith("NNCF")), None)
    if nncf:
        for name in rows:
            if name.endswith(f", {images} images"):
                rows[name]["ratio"] = round(rows[name]["seconds"] / rows[nncf]["seconds"], 3)
    return {
        "title": f"{MODEL}, calibration",
        "relative_to": nncf,
        "target": {ours: {"ratio": TIME_LIMIT, "peak_bytes": PEAK_LIMIT_BYTES}},
        "rows": rows,
    }


def _row(taken: list[tuple[float, int, float]]) -> dict[str, Any]:
    """Returns the median time and the highest peak of several turns."""
    seconds, peaks, others = zip(*taken, strict=True)
    return {"seconds": round(median(seconds), 2), "peak_bytes": max(peaks), "others": max(others), "turns": len(taken)}


def _edgekit(shop: Workshop, graph: Path, feeds: Path, images: int) -> tuple[float, int, float]:
    output = shop.folder / "calibrated"
    # An empty cache, because a calibration table of an earlier run would be reused.
    environment = {**shop.environment, "EDGEKIT_CACHE": str(shop.folder / "cache-calibration")}
    shutil.rmtree(environment["EDGEKIT_CACHE"], ignore_errors=True)
    command = [sys.executable, "-m", "tools.bench.edgekit_calibration", graph, feeds, output, images, "entropy"]
    done = run_watched(command, environment=environment)
    facts = json.loads(done.stdout)
    shutil.rmtree(output)
    return facts["seconds"], facts["peak_bytes"], done.others
