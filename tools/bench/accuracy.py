"""Measures accuracy and latency together: YOLOv3-tiny with trained weights in INT8, compared with FP32."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.data.images import preprocess
from edgekit.runtime.detections import Detections
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.detector import detections_from_outputs
from tools.bench.agreement import FOUND_SCORE, agreement, views
from tools.bench.turns import Candidate, measure_by_turns
from tools.bench.workshop import Workshop

__all__ = ["measure_accuracy", "test_data"]

MODEL = "yolov3-tiny"
EVALUATED = ("dog", "eagle", "giraffe", "horses", "kite", "person")
MOST_DETECTIONS = 100
AGREEMENT_LIMIT = 0.98
LATENCY_LIMIT = 1.1


@dataclass(frozen=True)
class _Scored:
    candidate: Candidate
    calibration: str


def test_data() -> Path | None:
    """Returns the folder with trained weights and photos; None if ``EDGEKIT_TEST_DATA`` is not set."""
    named = os.environ.get("EDGEKIT_TEST_DATA")
    return Path(named) if named else None


def measure_accuracy(shop: Workshop) -> dict[str, Any]:
    """Measures agreement with FP32 on photos that were not used for calibration, and latency, on ONNX Runtime."""
    data = test_data()
    if data is None:
        return {"skipped": "EDGEKIT_TEST_DATA is not set"}
    weights = data / "yolov3-tiny" / "yolov3-tiny.weights"
    photos = {file.stem: file for file in sorted((data / "photos").iterdir())}
    folder = shop.folder / "photos"
    folder.mkdir(exist_ok=True)
    for name, file in photos.items():
        if name not in EVALUATED:
            shutil.copy(file, folder / file.name)
    fp32 = shop.bundle(MODEL, "fp32", "cpu", "--weights", str(weights))
    scored = [*_ours(shop, weights, folder), *_peers(shop, fp32, folder)]
    images = [view for name in EVALUATED for view in list(views(photos[name]))[: 2 if shop.quick else None]]
    truth = _detections(shop, Candidate("FP32", "edgekit", fp32), fp32, images)
    feed = shop.feeds(str(folder), 1, fp32) / "0000.npy"
    candidates = [Candidate("FP32", "edgekit", fp32), *(entry.candidate for entry in scored)]
    rounds, runs = (3, 3) if shop.quick else (12, 40)
    rows = measure_by_turns(candidates, feed, threads=shop.threads, rounds=rounds, runs=runs)
    rows["FP32"].update(agreement=1.0, calibration="")
    for entry in scored:
        found = _detections(shop, entry.candidate, fp32, images)
        rows[entry.candidate.name].update(agreement=round(agreement(truth, found), 4), calibration=entry.calibration)
    theirs = next(row["ratio"] for name, row in rows.items() if name.startswith("ONNX Runtime"))
    for row in rows.values():
        row["ratio_to_onnxruntime"] = round(row["ratio"] / theirs, 4)
    limits = {"ratio_to_onnxruntime": LATENCY_LIMIT, "agreement": AGREEMENT_LIMIT}
    return {
        "title": f"{MODEL} with trained weights: agreement with FP32 (mAP 0.50:0.95) and latency on ONNX Runtime",
        "relative_to": "FP32",
        "pictures": len(images),
        "objects": sum(int((found.scores > 0.25).sum()) for found in truth),
        "target": {scored[0].candidate.name: limits},
        "rows": rows,
    }


def _ours(shop: Workshop, weights: Path, photos: Path) -> list[_Scored]:
    common = ("--weights", str(weights))
    own = shop.bundle(MODEL, "int8", "cpu", *common, "--calib", str(photos))
    sample = shop.bundle(MODEL, "int8", "cpu", *common)
    return [
        _Scored(Candidate("EdgeKit INT8", "edgekit", own), "photos"),
        _Scored(Candidate("EdgeKit INT8, shipped calibration set", "edgekit", sample), "shipped set"),
    ]


def _peers(shop: Workshop, fp32: Path, photos: Path) -> Iterator[_Scored]:
    """Yields each peer's graph with default settings, and with float head convolutions if the peer has that option."""
    images = len(list(photos.iterdir()))
    feeds = shop.feeds(str(photos), images, fp32)
    settings: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
        "onnxruntime": ("ONNX Runtime {} quantize_static", {"": (), ", heads in float": ("--float-heads",)}),
        "nncf": ("NNCF {}", {"": (), ", heads in float": ("--float-heads",)}),
        "modelopt": ("ModelOpt {}", {" entropy": ("entropy",), " max": ("max",)}),
    }
    for peer, (name, variants) in settings.items():
        if shop.interpreter(peer) is None:
            continue
        for variant, options in variants.items():
            made = shop.peer_graph(peer, fp32 / "graph.onnx", feeds, images, ".onnx", *options)
            yield _Scored(Candidate(name.format(made.version) + variant, "onnxruntime", made.path), "photos")


def _detections(shop: Workshop, candidate: Candidate, fp32: Path, images: list[np.ndarray]) -> list[Detections]:
    """Returns the detections of a candidate; EdgeKit preprocesses and postprocesses for all candidates."""
    manifest = shop.manifest(fp32)
    assert manifest.preprocess is not None
    with _run(candidate, shop.threads) as run:
        found = []
        for image in images:
            array, placement = preprocess(image, manifest.preprocess, manifest.inputs[0].shape)
            found.append(
                detections_from_outputs(
                    run({manifest.inputs[0].name: array}),
                    manifest,
                    placement,
                    score_threshold=FOUND_SCORE,
                    max_detections=MOST_DETECTIONS,
                    multi_label=True,  # as `edgekit eval`
                )
            )
    return found


@contextmanager
def _run(candidate: Candidate, threads: int) -> Iterator[Any]:
    if candidate.runtime == "edgekit":
        session: Session
        with edgekit.load(candidate.path, threads=threads) as session:
            yield session.run
        return
    import onnxruntime as ort

    peer = ort.InferenceSession(str(candidate.path), providers=["CPUExecutionProvider"])
    names = [output.name for output in peer.get_outputs()]
    yield lambda feeds: dict(zip(names, peer.run(names, feeds), strict=True))
