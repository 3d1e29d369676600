"""Checks the profiler: its own overhead, and whether it finds a slow layer that was planted in a graph."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tools.bench.process import run_watched
from tools.bench.turns import Candidate, measure_by_turns
from tools.bench.workshop import Workshop

__all__ = ["measure_profiler"]

TARGETS = ("cpu", "openvino")
MODEL = "resnet18"
OVERHEAD_LIMIT = 1.01
ERROR_LIMIT = 0.10
PLANTED = "planted"
SMALL_LAYERS = 8
CHANNELS, SIZE_PX, KERNEL = 32, 56, 11


def measure_profiler(shop: Workshop) -> dict[str, Any]:
    """Measures both on each backend of the CPU."""
    rows: dict[str, dict[str, Any]] = {}
    targets: dict[str, dict[str, float]] = {}
    for target in TARGETS:
        bare, measured = f"bare loop on {target}, {MODEL}", f"edgekit profile on {target}, {MODEL}"
        rows[bare], rows[measured] = _overhead(shop, target)
        targets[measured] = {"ratio": OVERHEAD_LIMIT}
        added, found = f"what a planted layer adds on {target}", f"its time by --layers on {target}"
        rows[added], rows[found] = _planted(shop, target)
        targets[found] = {"difference": ERROR_LIMIT}
    return {
        "title": "the profiler itself",
        "relative_to": "a bare loop of the backend's API",
        "target": targets,
        "rows": rows,
    }


def _overhead(shop: Workshop, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the rows of the bare loop and of EdgeKit's measurement."""
    rounds, runs = (10, 4) if shop.quick else (100, 5)
    bundle = shop.bundle(MODEL, "int8", target, "--calib-images", "4")
    done = run_watched([sys.executable, "-m", "tools.bench.bare_loop", bundle, shop.threads, rounds, runs])
    samples = json.loads(done.stdout)
    bare_ms, edgekit_ms = median(samples["bare"]), median(samples["edgekit"])
    others = round(samples["others"], 3)
    return (
        {"median_ms": round(bare_ms, 3), "ratio": 1.0, "others": others},
        {"median_ms": round(edgekit_ms, 3), "ratio": round(edgekit_ms / bare_ms, 4), "others": others},
    )


def _planted(shop: Workshop, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the rows of what the planted layer adds to a run, and of its time by ``edgekit profile --layers``."""
    rounds, runs = (1, 10) if shop.quick else (9, 60)
    without, with_it = (shop.bundle(str(_graph(shop.folder, planted)), "fp32", target) for planted in (False, True))
    feed = shop.folder / "planted.npy"
    np.save(feed, np.random.default_rng(0).standard_normal((1, CHANNELS, SIZE_PX, SIZE_PX)).astype(np.float32))
    candidates = [Candidate("without", "edgekit", without), Candidate("with", "edgekit", with_it)]
    turns = measure_by_turns(candidates, feed, threads=shop.threads, rounds=rounds, runs=runs)
    added_ms = turns["with"]["median_ms"] - turns["without"]["median_ms"]
    layer_ms = median(_slowest_ms(shop, with_it, runs) for _ in range(rounds))
    return (
        {"median_ms": round(added_ms, 3), "others": turns["with"]["others"]},
        {"median_ms": round(layer_ms, 3), "difference": round(abs(layer_ms / added_ms - 1), 4)},
    )


def _slowest_ms(shop: Workshop, bundle: Path, runs: int) -> float:
    """Returns the time of the slowest layer.

    Raises:
        RuntimeError: it is not the planted one.
    """
    report = shop.folder / "planted.json"
    command = ["profile", bundle, "--layers", "--runs", runs, "--threads", shop.threads, "--json-file", report]
    run_watched([sys.executable, "-m", "edgekit", *command])
    layers = json.loads(report.read_text())["layer_times"]["layers"]
    slowest = max(layers, key=lambda layer: layer["median_ms"])
    if PLANTED not in slowest["nodes"]:
        raise RuntimeError(f"the slowest layer is '{slowest['name']}', expected the planted one")
    return float(slowest["median_ms"])


def _graph(folder: Path, planted: bool) -> Path:
    """Writes a chain of small convolutions; with ``planted``, one with a large kernel stands in the middle."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(0)
    kernels = [1] * SMALL_LAYERS
    kernels.insert(SMALL_LAYERS // 2, KERNEL)
    nodes, weights, value = [], [], "x"
    for index, size in enumerate(kernels):
        if size == KERNEL and not planted:
            continue
        name, shape = PLANTED if size == KERNEL else f"small{index}", (CHANNELS, CHANNELS, size, size)
        weight = random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", [value, f"{name}.weight"], [f"{name}.out"], name=name, pads=pads))
        nodes.append(helper.make_node("Relu", [f"{name}.out"], [f"{name}.act"], name=f"{name}.relu"))
        value = f"{name}.act"
    shape = (1, CHANNELS, SIZE_PX, SIZE_PX)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    path = folder / ("chain-with-planted.onnx" if planted else "chain.onnx")
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
