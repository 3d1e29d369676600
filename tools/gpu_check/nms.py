"""Checks the non-maximum suppression kernels on a GPU: the same boxes as the reference, and their time."""

from __future__ import annotations

import importlib.util
import statistics
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.kernels.suppression.device import CAPACITY, BatchedNms
from edgekit.kernels.suppression.suppress import nms
from tools.gpu_check.timing import times_of_graph_ms

# YOLOv8's number of boxes at 640 x 640, the classes of COCO, and the usual thresholds.
BOXES, CLASSES = 8400, 80
OPTIONS: dict[str, Any] = {"score_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 300}
CASES = tuple((images, passing) for images in (1, 8) for passing in (100, 1000, 8000))
WARMUP, REPEATS = 20, 200


def check_nms(
    cases: tuple[tuple[int, int], ...] = CASES, *, boxes: int = BOXES, warmup: int = WARMUP, repeats: int = REPEATS
) -> dict[str, Any]:
    """Runs batches of random boxes; returns the median time of one launch of a graph, and what is not exact."""
    found: dict[str, Any] = {"boxes": boxes, "cases": [], "problems": []}
    with Context(driver()) as context:
        for images, passing in cases:
            name = f"{images} images, {passing} candidates above the threshold"
            inputs = random_batch(images, boxes, passing)
            kept, times_ms = _measured(context, inputs, warmup, repeats)
            expected = [_expected(*arrays) for arrays in zip(*inputs.values(), strict=True)]
            if kept != expected:
                found["problems"].append(f"{name}: expected the boxes of the reference, got others")
            case = {"images": images, "candidates": passing, "median_us": 1000 * statistics.median(times_ms)}
            if _has_torchvision():
                case["torchvision_median_us"] = _torchvision_us(inputs, warmup, repeats)
            found["cases"].append(case)
    return found


def _has_torchvision() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    import torch

    return torch.cuda.is_available()


def random_batch(images: int, boxes: int, passing: int) -> dict[str, np.ndarray]:
    """Returns boxes, scores and classes; ``passing`` boxes per image have a score above the threshold."""
    random = np.random.default_rng((images, passing))
    corner = random.uniform(0, 600, (images, boxes, 2))
    passing = min(passing, boxes)
    scores = random.uniform(0, 0.25, (images, boxes))
    for row in scores:
        row[random.permutation(boxes)[:passing]] = random.uniform(0.26, 1, passing)
    return {
        "boxes": np.concatenate([corner, corner + random.uniform(4, 120, corner.shape)], axis=2).astype(np.float32),
        "scores": scores.astype(np.float32),
        "classes": random.integers(0, CLASSES, (images, boxes)).astype(np.int32),
    }


def _expected(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> list[int]:
    """Returns the indices that the numpy version keeps of the best `CAPACITY` candidates."""
    best = np.sort(np.argsort(-scores, kind="stable")[:CAPACITY])
    kept: list[int] = best[nms(boxes[best], scores[best], classes[best], **OPTIONS)].tolist()
    return kept


def _measured(
    context: Context, inputs: dict[str, np.ndarray], warmup: int, repeats: int
) -> tuple[list[list[int]], list[float]]:
    """Returns the kept indices of each image, and the time of each launch of the three kernels as one graph."""
    images, boxes = inputs["scores"].shape
    limit = int(OPTIONS["max_detections"])
    outputs = {"kept": np.zeros((images, limit), np.int32), "number": np.zeros(images, np.int32)}
    arrays = inputs | {"counts": np.full(images, boxes, np.int32)} | outputs
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(context))
        host = {name: stack.enter_context(HostMemory(context, array.nbytes)) for name, array in arrays.items()}
        device = {name: stack.enter_context(DeviceMemory(context, array.nbytes)) for name, array in arrays.items()}
        suppressor = stack.enter_context(BatchedNms(context, images=images))
        addresses = {name: memory.address for name, memory in device.items()}
        with context.current():

            def launch() -> None:
                suppressor.launch(stream, **addresses, images=images, candidates=boxes, **OPTIONS)

            for name in (*inputs, "counts"):
                host[name].array[:] = np.frombuffer(arrays[name].tobytes(), np.uint8)
                stream.copy_to_device(addresses[name], host[name].array)
            times_ms = times_of_graph_ms(context, stream, launch, warmup=warmup, repeats=repeats)
            for name in outputs:
                stream.copy_to_host(host[name].array, addresses[name])
            stream.synchronize()
            kept = host["kept"].array[:].view(np.int32).reshape(images, limit)
            number = host["number"].array[:].view(np.int32)
            found = [row[:count].tolist() for row, count in zip(kept, number, strict=True)]
    return found, times_ms


def _torchvision_us(inputs: dict[str, np.ndarray], warmup: int, repeats: int) -> float:
    """Returns the median time of a score threshold and ``torchvision.ops.batched_nms`` per image, on the same GPU."""
    import torch
    import torchvision

    boxes, scores, classes = (torch.from_numpy(array).cuda() for array in inputs.values())
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times_ms = []
    for _ in range(warmup + repeats):
        start.record()
        for image in range(len(boxes)):
            passing = scores[image] > OPTIONS["score_threshold"]
            kept = torchvision.ops.batched_nms(
                boxes[image][passing], scores[image][passing], classes[image][passing], OPTIONS["iou_threshold"]
            )
            kept[: OPTIONS["max_detections"]]
        end.record()
        end.synchronize()
        times_ms.append(start.elapsed_time(end))
    return 1000 * statistics.median(times_ms)
