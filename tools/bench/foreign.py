"""Compares INT8 of other people's models with that of each peer: processor time of one thread, noise, detections."""

from __future__ import annotations

import datetime
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime

import edgekit
from edgekit.specs import EXACT_DB
from tools.bench.foreign_models import MODELS, ForeignModel
from tools.bench.process import run_watched
from tools.bench.workshop import Workshop
from tools.gpu_check.engines import matches

__all__ = ["measure_foreign"]

OURS = {"EdgeKit cpu": ("cpu",), "EdgeKit openvino": ("openvino",)}
TYPED, TYPED_OPTIONS = "EdgeKit graph for TensorRT", ("tensorrt-rtx", "--graph-only")
"""The graph that TensorRT is given: its noise counts, as ONNX Runtime computes it; its time needs a GPU."""

PEERS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "quantize_static": ("onnxruntime", "onnxruntime", ".onnx", ("--preprocess",)),
    "quantize_static, heads in float": ("onnxruntime", "onnxruntime", ".onnx", ("--preprocess", "--float-heads")),
    "quantize_dynamic": ("onnxruntime", "onnxruntime", ".onnx", ("--preprocess", "--dynamic")),
    "NNCF": ("nncf", "openvino", ".xml", ()),
    "NNCF, heads in float": ("nncf", "openvino", ".xml", ("--float-heads",)),
}
"""By name: the package, the library that runs its graph, the suffix of it, and options of the peer's script."""

SECOND_TRY = {"nncf": (("--transformer",),)}
"""Further options of a peer that fails without them: by its defaults, NNCF quantizes no model with embeddings."""

LEAST_DB, MOST_DB = 10.0, 100.0
"""A peer below is no peer; one above has quantized nothing, as where all layers are in branches of an If."""

SPEED_LIMIT, NOISE_LIMIT_DB, F1_LIMIT, TYPED_LIMIT_DB = 1.03, 0.5, 0.95, 3.0
SCORE = 0.25
PROCESSES, PROCESS_SECONDS = 3, 9.0
"""Processes that measure one model, and how long each takes its times."""
PICTURES, BOXES = 2_000, 800
"""Detections are compared on so many pictures, or on the first that have so many boxes: with 173 boxes in 400 pictures,
the F1 score of nudenet's detector is known to 0.02 only."""


def measure_foreign(shop: Workshop) -> Iterator[dict[str, Any]]:
    """Measures each model of the table whose file lies in the folder of ``--models``.

    Every candidate gets the same calibration inputs, and is tested on others. Time is that of the process, with one
    thread, in turns. Noise is relative to the original file on ONNX Runtime without optimizations; of several outputs
    the noisiest counts. A peer that does not load, has less than 10 dB, or quantizes nothing, counts as none.

    Yields:
        After each model, the results of all models so far, those of earlier runs included.
    """
    if shop.models is None:
        yield {"skipped": "no models: see --models"}
        return
    unknown = sorted(set(shop.only) - set(MODELS))
    if unknown:
        raise click.BadParameter(f"no models of these names: {', '.join(unknown)}", param_hint="--only")
    measured: dict[str, dict[str, Any]] = dict(shop.earlier("foreign").get("measured", {}))
    for name, model in MODELS.items():
        if shop.only and name not in shop.only:
            continue
        file = shop.models / f"{name}.onnx"
        if not file.exists():
            print(f"foreign: {name} is skipped, there is no {file.name}", file=sys.stderr)
            continue
        found = _measure(shop, name, model, file)
        if not shop.times:
            _keep_times(found, measured.get(name, {}).get("candidates", {}))
        measured[name] = {**_provenance(shop), "candidates": found}
        print(f"foreign: {name}: {_row(measured[name])}", file=sys.stderr)
        yield _result(measured)
    yield _result(measured)


def _result(measured: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    shown = {name: model for name, model in MODELS.items() if name in measured}
    labels = {name: name + (", trained" if model.trained else "") for name, model in shown.items()}
    return {
        "title": "INT8 of other people's models: processor milliseconds of one thread, signal to noise in dB",
        "columns": {name: name for name in ("FP32", *OURS, TYPED, *PEERS)},
        "relative_to": "the fastest peer",
        "target": {labels[name]: _limits(model) for name, model in shown.items()},
        "rows": {labels[name]: _row(measured[name]) for name in shown},
        "measured": {name: measured[name] for name in shown},
    }


def _limits(model: ForeignModel) -> dict[str, float]:
    trained = {"ahead_db": -NOISE_LIMIT_DB, "f1_cpu": F1_LIMIT, "f1_openvino": F1_LIMIT, "typed_db": -TYPED_LIMIT_DB}
    return {"speed": SPEED_LIMIT, **(trained if model.trained else {})}


def _provenance(shop: Workshop) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": shop.versions(),
        "quick": shop.quick,
    }


def _keep_times(found: Mapping[str, dict[str, Any]], earlier: Mapping[str, dict[str, Any]]) -> None:
    for name, result in found.items():
        if "error" not in result and "ms" in earlier.get(name, {}):
            result["ms"] = earlier[name]["ms"]


def _measure(shop: Workshop, name: str, model: ForeignModel, file: Path) -> dict[str, dict[str, Any]]:
    """Returns milliseconds and decibels, or an error, by candidate."""
    folder = shop.folder / f"foreign-{name}"
    calibration, tests = (_feeds(folder, part, model, first, n) for part, first, n in _parts(shop, model))
    graph = _fixed(file, model.feed(0), folder)
    inputs, arrays = _inputs_of_edgekit(model, folder, calibration)
    paths: dict[str, tuple[str, Path]] = {"FP32": ("onnxruntime", graph), "FP32 openvino": ("openvino", graph)}
    failed: dict[str, dict[str, Any]] = {}
    for candidate, (target, *own_options) in {**OURS, TYPED: TYPED_OPTIONS}.items():
        try:
            built = shop.bundle(str(graph), "int8", target, "--calib", str(arrays), *inputs, *own_options)
            typed = candidate == TYPED
            paths[candidate] = ("unoptimized", built / "graph.onnx") if typed else ("edgekit", built)
        except RuntimeError as e:
            failed[candidate] = {"error": _reason(e)}
    images = len(list(calibration.iterdir()))
    for candidate, (peer, runtime, suffix, peer_options) in PEERS.items():
        if shop.interpreter(peer) is None:
            continue
        for options in (peer_options, *((*peer_options, *more) for more in SECOND_TRY.get(peer, ()))):
            try:
                made = shop.peer_graph(peer, graph, calibration, images, suffix, *options)
            except RuntimeError as e:
                failed[candidate] = {"error": str(e).splitlines()[-1]}
                continue
            paths[candidate] = (runtime, made.path)
            failed.pop(candidate, None)
            break
    found: dict[str, dict[str, Any]] = {**_turns(shop, file, tests, paths), **failed}
    if model.pictures is not None:
        for candidate, (target, *_) in OURS.items():
            if candidate in paths:
                fp32 = shop.bundle(str(graph), "fp32", target)
                found[candidate]["f1"] = _f1(fp32, paths[candidate][1], model, 8 if shop.quick else PICTURES)
    return found


def _inputs_of_edgekit(model: ForeignModel, folder: Path, calibration: Path) -> tuple[list[str], Path]:
    """Returns the options of EdgeKit for a model with fixed inputs, and the arrays that calibrate the others."""
    if not model.fixed:
        return [], calibration
    feed, rest = model.feed(0), folder / "calibration-of-others"
    options = [f"{name}={feed[name]}" for name in model.fixed]
    options += [f"{name}:{'x'.join(map(str, feed[name].shape))}" for name in feed if name not in model.fixed]
    rest.mkdir(exist_ok=True)
    for file in calibration.iterdir():
        with np.load(file) as arrays:
            # The keywords of savez are names of inputs, which may be no identifiers.
            others: dict[str, Any] = {name: arrays[name] for name in arrays if name not in model.fixed}
            np.savez(rest / file.name, **others)
    return [word for option in options for word in ("--input", option)], rest


def _reason(error: RuntimeError) -> str:
    """Returns the last lines of what a command printed, from its first line that starts with ``error``."""
    lines = str(error).splitlines()[1:]
    start = next((index for index, line in enumerate(lines) if line.lower().startswith("error")), len(lines) - 3)
    return " ".join(line.strip() for line in lines[max(0, start) :])[:600]


def _parts(shop: Workshop, model: ForeignModel) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    calibration, tests = (4, 2) if shop.quick else (16, model.tests)
    return ("calibration", 0, calibration), ("tests", 1, tests)


def _feeds(folder: Path, part: str, model: ForeignModel, first: int, number: int) -> Path:
    place = folder / part
    place.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        # The keywords of savez are names of inputs, which may be no identifiers.
        np.savez(place / f"{index:02d}.npz", **model.feed(2 * index + first))  # type: ignore[arg-type]
    return place


def _fixed(file: Path, feed: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Writes the model with the shapes of a feed, for all candidates, and returns the file.

    A model that ONNX Runtime does not load with them keeps its own: in one branch of an If, another size may be right.
    """
    model = onnx.load(file)
    for value in model.graph.input:
        if value.name in feed:
            for dimension, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
                dimension.dim_value = size
    # Some exporters give all unknown sizes one name.
    del model.graph.value_info[:]
    path = folder / file.name
    onnx.save(model, path)
    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception:  # its types of errors are not public
        shutil.copyfile(file, path)
    return path


def _turns(
    shop: Workshop, original: Path, tests: Path, paths: Mapping[str, tuple[str, Path]]
) -> dict[str, dict[str, Any]]:
    """Measures noise in the first of several processes, and in each the times of the candidates in turns."""
    processes, seconds = (1, 1) if shop.quick else (PROCESSES, PROCESS_SECONDS)
    if not shop.times:
        processes, seconds = 1, 0
    request = json.dumps({name: [runtime, str(path)] for name, (runtime, path) in paths.items()})
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    for process in range(processes):
        noise = int(process == 0)
        words = [sys.executable, "-m", "tools.bench.foreign_turns", original, tests, noise, seconds, request]
        done = run_watched(words)
        for name, result in json.loads(done.stdout).items():
            times.setdefault(name, []).extend(result.pop("ms", []))
            found[name] = {**found.get(name, {}), **result, "others": done.others}
    for name, values in times.items():
        if values:
            found[name]["ms"] = round(median(values), 3)
    return found


def _row(model: Mapping[str, Any]) -> dict[str, Any]:
    found: Mapping[str, dict[str, Any]] = model["candidates"]
    row: dict[str, Any] = {name: _cell(result) for name, result in found.items() if name != "FP32 openvino"}
    floats = [result["ms"] for name, result in found.items() if name.startswith("FP32") and "ms" in result]
    row["FP32"] = f"{min(floats):.1f}" if floats else None
    peers = [found[name] for name in PEERS if LEAST_DB <= found.get(name, {}).get("db", -math.inf) <= MOST_DB]
    ours = [found[name] for name in OURS if "db" in found.get(name, {})]
    if ours and peers:
        row["ahead_db"] = round(max(each["db"] for each in ours) - max(each["db"] for each in peers), 2)
    fastest = [min((each["ms"] for each in some if "ms" in each), default=None) for some in (ours, peers)]
    if fastest[0] is not None and fastest[1] is not None:
        row["speed"] = round(fastest[0] / fastest[1], 3)
    cpu, typed = (found.get(name, {}).get("db") for name in ("EdgeKit cpu", TYPED))
    if cpu is not None and typed is not None:
        row["typed_db"] = round(typed - cpu, 2)
    for name in OURS:
        if "f1" in found.get(name, {}):
            row[f"f1_{name.split()[-1]}"] = found[name]["f1"]
    row["others"] = max((result.get("others", 0.0) for result in found.values() if "ms" in result), default=0.0)
    row["date"] = model["date"]
    return row


def _cell(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return "fails"
    noise = f"{result['db']:.1f}" if "db" in result else "–"
    noise = "NaN" if result.get("db") == -EXACT_DB else noise
    return f"{result['ms']:.1f} / {noise}" if "ms" in result else f"– / {noise}"


def _f1(fp32: Path, int8: Path, model: ForeignModel, pictures: int) -> float:
    """Returns the F1 score of INT8's detections with FP32's as the truth, over pictures that did not calibrate."""
    assert model.pictures is not None
    truth: list[Any] = []
    found: list[Any] = []
    exact, quantized = _sessions(fp32, int8)
    for index in range(pictures):
        image = model.pictures(2 * index + 1)
        truth.append(exact.detect(image, score_threshold=SCORE))
        found.append(quantized.detect(image, score_threshold=SCORE))
        if sum(map(len, truth)) >= BOXES:
            break
    same = sum(matches(b, a) for a, b in zip(truth, found, strict=True))
    all_boxes = sum(map(len, truth)) + sum(map(len, found))
    return round(2 * same / all_boxes, 4) if all_boxes else math.nan


def _sessions(*bundles: Path) -> Sequence[Any]:
    return [edgekit.load(bundle, threads=1) for bundle in bundles]
