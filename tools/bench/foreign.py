"""Compares INT8 of other people's models with that of each peer: processor time of one thread, noise, detections."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

import edgekit
from tools.bench.foreign_models import MODELS, ForeignModel
from tools.bench.process import run_watched
from tools.bench.workshop import Workshop
from tools.gpu_check.engines import matches

__all__ = ["measure_foreign"]

OURS = ("EdgeKit cpu", "EdgeKit openvino")
PEERS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "quantize_static": ("onnxruntime", "onnxruntime", ".onnx", ("--preprocess",)),
    "quantize_static, heads in float": ("onnxruntime", "onnxruntime", ".onnx", ("--preprocess", "--float-heads")),
    "quantize_dynamic": ("onnxruntime", "onnxruntime", ".onnx", ("--preprocess", "--dynamic")),
    "NNCF": ("nncf", "openvino", ".xml", ()),
    "NNCF, heads in float": ("nncf", "openvino", ".xml", ("--float-heads",)),
}
"""By name: the package, the library that runs its graph, the suffix of it, and options of the peer's script."""

LEAST_DB = 10.0
"""A peer below is no peer."""

SPEED_LIMIT, NOISE_LIMIT_DB, F1_LIMIT = 1.03, 0.5, 0.95
SCORE = 0.25
PICTURES = 400
"""Pictures that detections are compared on; nudenet's detector finds 173 boxes in them."""


def measure_foreign(shop: Workshop) -> dict[str, Any]:
    """Measures each model of the table whose file lies in the folder of ``--models``.

    Every candidate gets the same calibration inputs, and is tested on others. Time is that of the process, with one
    thread, in turns. Noise is relative to the original file on ONNX Runtime without optimizations; of several outputs
    the noisiest counts. A peer that does not load, or has less than 10 dB, counts as none.
    """
    if shop.models is None:
        return {"skipped": "no models: see --models"}
    rows, measured, target = {}, {}, {}
    for name, model in MODELS.items():
        file = shop.models / f"{name}.onnx"
        if not file.exists():
            print(f"foreign: {name} is skipped, there is no {file.name}", file=sys.stderr)
            continue
        found = _measure(shop, name, model, file)
        measured[name] = found
        rows[name + (", trained" if model.trained else "")] = _row(found)
        target[name + (", trained" if model.trained else "")] = {
            "speed": SPEED_LIMIT,
            **({"ahead_db": -NOISE_LIMIT_DB, "f1_cpu": F1_LIMIT, "f1_openvino": F1_LIMIT} if model.trained else {}),
        }
        print(f"foreign: {name}: {rows[name + (', trained' if model.trained else '')]}", file=sys.stderr)
    return {
        "title": "INT8 of other people's models: processor milliseconds of one thread, signal to noise in dB",
        "columns": {name: name for name in ("FP32", *OURS, *PEERS)},
        "relative_to": "the fastest peer",
        "target": target,
        "rows": rows,
        "measured": measured,
    }


def _measure(shop: Workshop, name: str, model: ForeignModel, file: Path) -> dict[str, dict[str, Any]]:
    """Returns milliseconds and decibels, or an error, by candidate."""
    folder = shop.folder / f"foreign-{name}"
    calibration, tests = (_feeds(folder, part, model, first, n) for part, first, n in _parts(shop))
    graph = _fixed(file, model.feed(0), folder)
    paths: dict[str, tuple[str, Path]] = {"FP32": ("onnxruntime", graph), "FP32 openvino": ("openvino", graph)}
    failed: dict[str, dict[str, Any]] = {}
    for candidate in OURS:
        try:
            built = shop.bundle(str(graph), "int8", candidate.split()[-1], "--calib", str(calibration))
            paths[candidate] = ("edgekit", built)
        except RuntimeError as e:
            failed[candidate] = {"error": str(e).splitlines()[-1]}
    images = len(list(calibration.iterdir()))
    for candidate, (peer, runtime, suffix, options) in PEERS.items():
        if shop.interpreter(peer) is None:
            continue
        try:
            made = shop.peer_graph(peer, graph, calibration, images, suffix, *options)
            paths[candidate] = (runtime, made.path)
        except RuntimeError as e:
            failed[candidate] = {"error": str(e).splitlines()[-1]}
    found: dict[str, dict[str, Any]] = {**_turns(shop, file, tests, paths), **failed}
    if model.pictures is not None:
        for candidate in OURS:
            if candidate in paths:
                fp32 = shop.bundle(str(graph), "fp32", candidate.split()[-1])
                found[candidate]["f1"] = _f1(fp32, paths[candidate][1], model, 8 if shop.quick else PICTURES)
    return found


def _parts(shop: Workshop) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    calibration, tests = (4, 2) if shop.quick else (16, 8)
    return ("calibration", 0, calibration), ("tests", 1, tests)


def _feeds(folder: Path, part: str, model: ForeignModel, first: int, number: int) -> Path:
    place = folder / part
    place.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        # The keywords of savez are names of inputs, which may be no identifiers.
        np.savez(place / f"{index:02d}.npz", **model.feed(2 * index + first))  # type: ignore[arg-type]
    return place


def _fixed(file: Path, feed: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Writes the model with the shapes of a feed, for all candidates, and returns the file."""
    model = onnx.load(file)
    for value in model.graph.input:
        if value.name in feed:
            for dimension, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
                dimension.dim_value = size
    # Some exporters give all unknown sizes one name.
    del model.graph.value_info[:]
    path = folder / file.name
    onnx.save(model, path)
    return path


def _turns(
    shop: Workshop, original: Path, tests: Path, paths: Mapping[str, tuple[str, Path]]
) -> dict[str, dict[str, Any]]:
    """Measures in several processes, each of which runs the candidates in turns."""
    processes, rounds = (1, 3) if shop.quick else (3, 9)
    request = json.dumps({name: [runtime, str(path)] for name, (runtime, path) in paths.items()})
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for _ in range(processes):
        done = run_watched([sys.executable, "-m", "tools.bench.foreign_turns", original, tests, rounds, request])
        for name, result in json.loads(done.stdout).items():
            times.setdefault(name, []).extend(result.pop("ms", []))
            found[name] = {**result, "others": done.others}
    for name, values in times.items():
        if values:
            found[name]["ms"] = round(median(values), 3)
    return found


def _row(found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {name: _cell(result) for name, result in found.items() if name != "FP32 openvino"}
    row["FP32"] = f"{min(result['ms'] for name, result in found.items() if name.startswith('FP32')):.1f}"
    peers = [found[name] for name in PEERS if found.get(name, {}).get("db", -math.inf) >= LEAST_DB]
    ours = [found[name] for name in OURS if "ms" in found[name]]
    if ours and peers:
        row["speed"] = round(min(each["ms"] for each in ours) / min(each["ms"] for each in peers), 3)
        row["ahead_db"] = round(max(each["db"] for each in ours) - max(each["db"] for each in peers), 2)
    for name in OURS:
        if "f1" in found[name]:
            row[f"f1_{name.split()[-1]}"] = found[name]["f1"]
    row["others"] = max(result.get("others", 0.0) for result in found.values())
    return row


def _cell(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return "fails"
    return f"{result['ms']:.1f} / {result['db']:.1f}"


def _f1(fp32: Path, int8: Path, model: ForeignModel, pictures: int) -> float:
    """Returns the F1 score of INT8's detections with FP32's as the truth, over pictures that did not calibrate."""
    assert model.pictures is not None
    images = [model.pictures(2 * index + 1) for index in range(pictures)]
    truth, found = (
        [session.detect(image, score_threshold=SCORE) for image in images] for session in _sessions(fp32, int8)
    )
    same = sum(matches(b, a) for a, b in zip(truth, found, strict=True))
    all_boxes = sum(map(len, truth)) + sum(map(len, found))
    return round(2 * same / all_boxes, 4) if all_boxes else math.nan


def _sessions(*bundles: Path) -> Sequence[Any]:
    return [edgekit.load(bundle, threads=1) for bundle in bundles]
