"""Time and memory of calibration: EdgeKit's entropy beside NNCF's and ModelOpt's quantization of the same graph."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_calibration"]

MODEL = "yolov3"
IMAGES = 32
FLAT = (8, 32, 128)
PEAK_LIMIT_BYTES = 1_500_000_000
TIME_LIMIT = 0.7


def measure_calibration(shop: Workshop) -> dict[str, Any]:
    """From the loaded float graph to the quantized one, on the same arrays, each in a process of its own."""
    fp32 = shop.bundle(MODEL, "fp32", "cpu")
    images = 4 if shop.quick else IMAGES
    rows: dict[str, dict[str, Any]] = {}
    counts = (2, 4) if shop.quick else FLAT
    for count in counts:
        rows[f"EdgeKit entropy, {count} images"] = _edgekit(shop, count, max(counts))
    feeds = shop.feeds("sample", max(counts), fp32)
    graph = fp32 / "graph.onnx"
    peers = {"nncf": ("NNCF {}", ".xml", ()), "modelopt": ("ModelOpt {} entropy", ".onnx", ("entropy",))}
    for peer, (name, suffix, options) in peers.items():
        if shop.interpreter(peer) is None:
            continue
        made = shop.peer_graph(peer, graph, feeds, images, suffix, *options)
        rows[f"{name.format(made.version)}, {images} images"] = {
            "seconds": round(made.seconds, 2),
            "peak_bytes": made.largest_bytes,
        }
    ours = f"EdgeKit entropy, {images} images"
    nncf = next((name for name in rows if name.startswith("NNCF")), None)
    for row in rows.values():
        row["ratio"] = round(row["seconds"] / rows[nncf]["seconds"], 3) if nncf else None
    return {
        "title": f"{MODEL}, calibration",
        "relative_to": nncf,
        "target": {ours: {"ratio": TIME_LIMIT, "peak_bytes": PEAK_LIMIT_BYTES}},
        "rows": rows,
    }


def _edgekit(shop: Workshop, images: int, most: int) -> dict[str, Any]:
    fp32 = shop.bundle(MODEL, "fp32", "cpu")
    feeds = shop.feeds("sample", most, fp32)
    output = shop.folder / "calibrated"
    # Nothing may be found that an earlier run has measured.
    environment = {**shop.environment, "EDGEKIT_CACHE": str(shop.folder / f"cache-{images}")}
    shutil.rmtree(environment["EDGEKIT_CACHE"], ignore_errors=True)
    command = [sys.executable, "-m", "tools.bench.edgekit_calibration", fp32 / "graph.onnx", feeds, output, images]
    done = run_watched([*command, "entropy"], environment=environment)
    shutil.rmtree(output)
    facts = json.loads(done.stdout)
    return {"seconds": round(facts["seconds"], 2), "peak_bytes": facts["peak_bytes"]}
