"""Checks the accuracy and the speed of an engine, for one target and precision."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgekit
from edgekit.engine.tensorrt.runtime import RunTimes, TensorRtEngine
from edgekit.errors import EdgeKitError
from edgekit.measure.latency import statistics_ms
from edgekit.runtime.detections import Detections
from edgekit.runtime.session import Session
from edgekit.specs import TensorSpec

MODEL = "yolov3-tiny"

# Max error against ONNX Runtime's FP32, relative to the max output.
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}

# The share of FP32's objects that INT8 has to find: with the same class, and an IoU of at least OVERLAP.
FOUND_AGAIN = 0.8
OVERLAP = 0.5
SCORE = 0.3


def check_engine(target: str, precision: str, *, quick: bool = False) -> dict[str, Any]:
    """Builds YOLOv3-tiny, compares it with ONNX Runtime on the CPU, and measures its latency.

    Raises:
        EdgeKitError: it cannot be built, loaded or run.
    """
    weights = trained_weights()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        bundle = _built(Path(folder), target, precision, weights)
        figures: dict[str, Any] = {
            "model": MODEL,
            "trained": weights is not None,
            "build_s": time.perf_counter() - start,
            "engine_bytes": (bundle / "engine.plan").stat().st_size,
        }
        reference = edgekit.load(_built(Path(folder), "cpu", "fp32", weights))
        start = time.perf_counter()
        with reference, edgekit.load(bundle) as session:
            figures["load_s"] = time.perf_counter() - start
            figures |= compared(session, reference, precision)
            figures |= timed(session, runs=20 if quick else 300)
        return figures


def trained_weights() -> Path | None:
    data = os.environ.get("EDGEKIT_TEST_DATA")
    file = Path(data) / MODEL / f"{MODEL}.weights" if data else None
    return file if file is not None and file.is_file() else None


def compared(session: Session, reference: Session, precision: str) -> dict[str, Any]:
    """Returns the errors of the outputs against the reference, and those that are above the tolerance."""
    problems = []
    errors = []
    for seed in range(3):
        feeds = random_inputs(reference.inputs, seed)
        expected = list(reference.run(feeds).values())
        got = list(
            session.run({spec.name: feed for spec, feed in zip(session.inputs, feeds.values(), strict=True)}).values()
        )
        errors.append([relative_error(a, b) for a, b in zip(got, expected, strict=True)])
    figures: dict[str, Any] = {"relative_errors": errors}
    worst = max(max(row) for row in errors)
    if not np.isfinite(worst):
        problems.append(f"outputs are not finite: relative errors {errors}")
    elif precision in TOLERANCE and worst > TOLERANCE[precision]:
        problems.append(
            f"outputs: expected an error of at most {TOLERANCE[precision]:g} of the max output, got {worst:.3g}"
        )
    photos = photos_at_hand() if session.manifest.task == "detect" else []
    if photos:
        found, total = found_again(session, reference, photos)
        figures["detections"] = {"photos": len(photos), "found_again": found, "of": total}
        if total and found < FOUND_AGAIN * total:
            problems.append(f"{found} of {total} objects are found again, expected {FOUND_AGAIN:.0%}")
    elif precision == "int8":
        figures["detections"] = "not measured: no trained weights"
    return figures | {"problems": problems}


def photos_at_hand() -> list[Path]:
    """Returns photos with objects that the trained weights detect; empty without trained weights."""
    return sorted((Path(os.environ["EDGEKIT_TEST_DATA"]) / "photos").glob("*.jpg")) if trained_weights() else []


def random_inputs(specs: Iterable[TensorSpec], seed: int) -> dict[str, np.ndarray]:
    """Returns images of noise from 0 to 1, with batch 1."""
    random = np.random.default_rng(seed)
    shapes = {spec.name: [size if isinstance(size, int) else 1 for size in spec.shape] for spec in specs}
    return {spec.name: random.random(shapes[spec.name]).astype(spec.dtype) for spec in specs}


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Returns the max error, relative to the max expected value."""
    return float(np.abs(got.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-30))


def found_again(session: Session, reference: Session, photos: Iterable[Path]) -> tuple[int, int]:
    """Returns how many of the reference's objects the session finds, and the number of the reference's objects."""
    found = total = 0
    for photo in photos:
        got = session.detect(photo, score_threshold=SCORE / 2)
        expected = reference.detect(photo, score_threshold=SCORE)
        found += matches(got, expected)
        total += len(expected)
    return found, total


def matches(got: Detections, expected: Detections) -> int:
    """Counts objects of ``expected`` with a match in ``got``: one to one, same class, IoU of at least OVERLAP."""
    left = list(range(len(got)))
    count = 0
    for box, label in zip(expected.boxes, expected.labels, strict=True):
        overlaps = {i: _iou(box, got.boxes[i]) for i in left if got.labels[i] == label}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= OVERLAP:
            left.remove(best)
            count += 1
    return count


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    common = float(np.prod(sides))
    return common / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - common)


def timed(session: Session, *, runs: int) -> dict[str, Any]:
    """Measures the parts of a run with and without CUDA graphs, and the frames per second of a stream."""
    engine = session._engine.opened()
    if not isinstance(engine, TensorRtEngine):
        raise EdgeKitError(f"expected a TensorRT engine, got {type(engine).__name__}")
    feeds = random_inputs(session.inputs, 0)
    with_graphs = engine.use_graphs
    figures: dict[str, Any] = {}
    for kind in ("graph", "no_graph") if with_graphs else ("no_graph",):
        engine.use_graphs = kind == "graph"
        for _ in range(20):
            engine.run(feeds)
        figures[kind] = _statistics([engine.time_run(feeds) for _ in range(runs)])
    engine.use_graphs = with_graphs
    for _ in session.stream([feeds] * 20):
        pass
    start = time.perf_counter()
    for _ in range(runs):
        session.run(feeds)
    one_by_one = time.perf_counter() - start
    start = time.perf_counter()
    for _ in session.stream([feeds] * runs):
        pass
    streamed = time.perf_counter() - start
    return figures | {"run_fps": runs / one_by_one, "stream_fps": runs / streamed, "notes": list(engine.notes)}


def _statistics(times: Sequence[RunTimes]) -> dict[str, Any]:
    fields = RunTimes.__struct_fields__
    return {
        field: msgspec.to_builtins(statistics_ms([getattr(time_of_run, field) for time_of_run in times]))
        for field in fields
    }


def _built(folder: Path, target: str, precision: str, weights: Path | None) -> Path:
    output = folder / f"{target}-{precision}"
    return edgekit.build(
        MODEL, precision=precision, target=target, weights=weights, output=output, profile=False, seed=0
    )
