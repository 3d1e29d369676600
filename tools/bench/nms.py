"""Measures non-maximum suppression on one core: EdgeKit's, OpenCV's, torchvision's and ONNX Runtime's.

All get the same candidates, above the same score threshold, in the layout that each needs; making that layout is not
timed, nor is choosing the 300 best of what OpenCV and torchvision (no limit) and ONNX Runtime (300 per class) keep.
ONNX Runtime gets a matrix of scores of only those boxes that are candidates, 0 where a class is none.

``python -m tools.bench.nms RUNS`` is the process that measures, pinned to one core; it prints JSON. The tools take
turns, so that a busy machine disturbs all of them equally.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.kernels.suppression.suppress import nms
from tools.bench.process import run_watched
from tools.bench.workshop import Workshop

__all__ = ["measure_nms"]

CLASSES, OBJECTS = 80, 12
# Side of the image, strides, and boxes per cell: YOLOv8 at 640 x 640 and YOLOv3 at 416 x 416.
GRIDS = {8400: (640, (8, 16, 32), 1), 10_647: (416, (8, 16, 32), 3)}
THRESHOLDS = (0.25, 0.001)
IOU, MOST = 0.45, 300
SLOWEST_S = 2.0  # a tool that has used so much time in a case is measured no further, after three runs
LIMIT = 1.05

Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]
# Suppression to be timed, and what makes the indices of candidates from its result.
Suppress = tuple[Callable[[], Any], Callable[[Any], np.ndarray]]


def measure_nms(shop: Workshop) -> dict[str, Any]:
    """Measures all tools on the boxes of detectors and on scattered boxes; a ratio is to the fastest other tool."""
    done = run_watched([sys.executable, "-m", "tools.bench.nms", 20 if shop.quick else 300])
    found: dict[str, Any] = json.loads(done.stdout)
    for row in found["rows"].values():
        row["others"] = done.others
    edgekit = [name for name in found["rows"] if name.endswith(": EdgeKit")]
    return {
        "title": f"non-maximum suppression, at most {MOST} boxes, one core; {found['tools']}",
        "relative_to": "the fastest other tool",
        "target": {name: {"ratio": LIMIT} for name in edgekit},
        "rows": found["rows"],
    }


def main(runs: str) -> None:
    """See the module."""
    # Before the tools count the cores, so that all their threads stay on this one.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tools = _tools()
    rows: dict[str, Any] = {}
    for case, candidates, threshold in _cases():
        calls = {name: make(candidates, threshold) for name, (_, make) in tools.items()}
        kept = {}
        for name, (suppress, indices) in calls.items():
            found = indices(suppress())
            kept[name] = set(found[np.lexsort([found, -candidates[1][found]])][:MOST].tolist())
        times_ms = _timed(calls, int(runs))
        medians = {name: float(np.median(times)) for name, times in times_ms.items()}
        fastest = min(median for name, median in medians.items() if name != "EdgeKit")
        for name, median in medians.items():
            rows[f"{case}: {name}"] = {
                "median_us": round(1000 * median, 1),
                "ratio": round(median / fastest, 3),
                "runs": len(times_ms[name]),
                "differing": len(kept[name] ^ kept["EdgeKit"]),
            }
    versions = [f"{name} {version}" for name, (version, _) in tools.items() if name != "EdgeKit"]
    print(json.dumps({"tools": ", ".join(versions), "rows": rows}))


def _timed(calls: dict[str, Suppress], runs: int) -> dict[str, list[float]]:
    """Returns the milliseconds of the runs of each tool, in turns, in random order."""
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = random.Random(0)
    for turn in range(runs):
        for name in shuffled.sample(list(calls), len(calls)):
            if turn >= 3 and sum(times_ms[name]) > 1000 * SLOWEST_S:
                continue
            started = time.perf_counter()
            calls[name][0]()
            times_ms[name].append(1000 * (time.perf_counter() - started))
    return times_ms


def _cases() -> list[tuple[str, Candidates, float]]:
    cases = []
    for number in GRIDS:
        boxes, scores = _detector(number)
        for threshold in THRESHOLDS:
            for which, found in (("best class", _best_class(scores)), ("all classes", scores)):
                rows, kinds = np.nonzero(found > threshold)
                name = f"{number:,} boxes, score > {threshold}, {which}, {len(rows):,} candidates"
                cases.append((name, (boxes[rows], found[rows, kinds], kinds), threshold))
        rows, kinds = np.nonzero(_best_class(scores))
        cases.append((f"{number:,} scattered boxes", (_scattered(number), scores[rows, kinds], kinds), 0.0))
    return cases


def _best_class(scores: np.ndarray) -> np.ndarray:
    """Returns the scores with only the best class of each box, and 0 elsewhere."""
    best: np.ndarray = np.where(np.arange(CLASSES) == scores.argmax(axis=1)[:, None], scores, 0)
    return best


def _detector(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes, shape ``(number, 4)``, and scores, shape ``(number, CLASSES)``, like those of a detector.

    Every cell of the grids has boxes. Cells inside an object have boxes close to it, the closer the better their score;
    a few other classes score too. All other scores have a long tail: few are above 0.001.
    """
    rng = np.random.default_rng(number)
    side, strides, anchors = GRIDS[number]
    cells = [(np.indices((side // s, side // s)).reshape(2, -1).T + 0.5) * s for s in strides for _ in range(anchors)]
    stride = np.repeat(strides, [anchors * (side // s) ** 2 for s in strides])[:, None]
    center = np.concatenate(cells) + rng.normal(0, 0.5, (number, 2)) * stride
    size = 4 * stride * np.exp(rng.normal(0, 0.5, (number, 2)))
    scores = np.exp(rng.normal(-10.5, 1.2, (number, CLASSES)))
    for _ in range(OBJECTS):
        middle, extent = rng.uniform(0.1, 0.9, 2) * side, side * np.exp(rng.normal(-1.8, 0.6, 2))
        distance = np.abs((center - middle) / extent).max(axis=1)
        inside = np.flatnonzero((distance < 0.5) & (rng.random(number) < 0.8))
        quality = np.exp(-25 * distance[inside] ** 2) * np.sqrt(rng.random(len(inside)))
        jitter = (0.05 + 0.3 * (1 - quality))[:, None]
        center[inside] = middle + 0.4 * jitter * extent * rng.normal(size=(len(inside), 2))
        size[inside] = extent * np.exp(0.6 * jitter * rng.normal(size=(len(inside), 2)))
        kinds = rng.permutation(CLASSES)[:5]
        shares = [rng.uniform(0.3, 0.97), *rng.uniform(0.005, 0.15, 4)]
        scores[np.ix_(inside, kinds)] = np.maximum(scores[np.ix_(inside, kinds)], quality[:, None] * shares)
    boxes = np.concatenate([center - size / 2, center + size / 2], axis=1)
    return boxes.astype(np.float32), np.minimum(scores, 1).astype(np.float32)


def _scattered(number: int) -> np.ndarray:
    """Returns uniformly distributed boxes, shape ``(number, 4)``, of which few overlap: the more are compared."""
    rng = np.random.default_rng(number)
    corner = rng.uniform(0, GRIDS[number][0], (number, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 64, (number, 2))], axis=1).astype(np.float32)


def _tools() -> dict[str, tuple[str, Callable[[Candidates, float], Suppress]]]:
    """Returns the version and the maker of each tool that is installed."""
    import cv2
    import onnxruntime

    import edgekit

    tools: dict[str, tuple[str, Callable[[Candidates, float], Suppress]]] = {
        "EdgeKit": (edgekit.__version__, _edgekit),
        "OpenCV": (cv2.__version__, _opencv),
        "ONNX Runtime": (onnxruntime.__version__, _onnxruntime()),
    }
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: its operators are not made for this torch
        print(f"torchvision: skipped: {error}", file=sys.stderr)
    else:
        tools["torchvision"] = (torchvision.__version__, _torchvision)
    return tools


def _edgekit(candidates: Candidates, threshold: float) -> Suppress:
    return lambda: nms(*candidates, score_threshold=threshold, iou_threshold=IOU, max_detections=MOST), np.asarray


def _opencv(candidates: Candidates, threshold: float) -> Suppress:
    import cv2

    cv2.setNumThreads(1)
    boxes, scores, kinds = candidates
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kinds = kinds.astype(np.int32)
    return lambda: cv2.dnn.NMSBoxesBatched(xywh, scores, kinds, threshold, IOU), np.asarray


def _torchvision(candidates: Candidates, threshold: float) -> Suppress:
    import torch
    from torchvision.ops import batched_nms

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(array) for array in candidates]
    return lambda: batched_nms(*tensors, IOU), np.asarray


def _onnxruntime() -> Callable[[Candidates, float], Suppress]:
    """Returns a maker of calls of the operator NonMaxSuppression, which limits the number of boxes per class."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    inputs = {"boxes": [1, None, 4], "scores": [1, None, None], "most": [1], "iou": [1], "score": [1]}
    kinds = {"most": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", list(inputs), ["kept"])],
        "nms",
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), inputs[name]) for name in inputs],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def make(candidates: Candidates, threshold: float) -> Suppress:
        boxes, scores, kinds = candidates
        distinct, first, place = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
        first, place = np.sort(first), np.argsort(np.argsort(first))[place.ravel()]  # in the order of the candidates
        matrix, index = np.zeros((1, CLASSES, len(distinct)), np.float32), np.zeros((CLASSES, len(distinct)), np.int64)
        matrix[0, kinds, place], index[kinds, place] = scores, np.arange(len(scores))
        feeds = {
            "boxes": boxes[first][None],
            "scores": matrix,
            "most": np.array([MOST]),
            "iou": np.array([IOU], np.float32),
            "score": np.array([threshold], np.float32),
        }

        return lambda: session.run(None, feeds)[0], lambda found: index[found[:, 1], found[:, 2]]

    return make


if __name__ == "__main__":
    main(*sys.argv[1:])
