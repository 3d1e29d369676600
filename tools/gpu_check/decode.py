"""Checks raw outputs to detections on a GPU: the same boxes as numpy, and the time beside torch and torchvision."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekit.device.cuda.choose import driver
from edgekit.device.cuda.resources import Context, DeviceMemory, HostMemory, Stream
from edgekit.kernels.decode.device import DETECTION, PARAMETERS, DeviceDetector
from edgekit.kernels.decode.families import detect
from edgekit.kernels.suppression.device import CAPACITY
from edgekit.recipe.heads import Head, YoloHead, YoloV3, YoloV8
from tools.gpu_check import rotated
from tools.gpu_check.timing import times_of_graph_ms

CLASSES, SIZE = 80, 640
OPTIONS: dict[str, Any] = {"score_threshold": 0.25, "iou_threshold": 0.45, "max_detections": 300}
PLACED: dict[str, Any] = {"scale": (0.5, 0.5), "offset": (0.0, 140.0), "size": (1280, 720)}
FAMILIES = ("yolov8", "yolov8-obb", "yolov3")  # 8400 boxes at 640 px, the same with angles, and 10647 at 416 px
CASES = tuple((family, images, passing) for family in FAMILIES for images in (1, 8) for passing in (100, 1000, 8000))
QUICK = (("yolov8", 1, 1000), ("yolov8-obb", 1, 1000))
WARMUP, REPEATS = 20, 200
# The goals of decoding and suppression with one image and 1000 candidates.
GOAL_US, GOAL_TIMES = 50, 5
# Exponentials round differently on a GPU, which can change the order of scores that are nearly equal.
MIN_SHARED, MAX_DIFFERENCE_PX, MAX_DIFFERENCE_RAD = 0.99, 0.01, 1e-5

Outputs = dict[str, np.ndarray]


def check_decode(
    cases: tuple[tuple[str, int, int], ...] = CASES, *, warmup: int = WARMUP, repeats: int = REPEATS
) -> dict[str, Any]:
    """Runs batches of made outputs; returns the median time of one launch of a graph, and what differs from numpy."""
    found: dict[str, Any] = {"cases": [], "problems": []}
    with Context(driver()) as context:
        for family, images, passing in cases:
            head, size, outputs = made(family, images, passing)
            detections, times_ms = _measured(context, head, size, outputs, warmup, repeats)
            problem = _difference(head, size, outputs, detections, exact=family != "yolov3")
            if problem:
                found["problems"].append(f"{family}, {images} images, {passing} candidates: {problem}")
            case = {"family": family, "images": images, "candidates": passing}
            case["median_us"] = 1000 * statistics.median(times_ms)
            found["cases"].append(case | _peers_us(head, outputs, warmup, repeats))
    found["goals"] = _goals(found["cases"])
    return found


def made(family: str, images: int, passing: int) -> tuple[Head, tuple[int, int], Outputs]:
    """Returns a head, the size of its input, and outputs with about ``passing`` candidates per image."""
    random = np.random.default_rng((images, passing))
    if family == "yolov8-obb":
        output = rotated.made_rotated(random, images, passing, SIZE)
        return rotated.HEAD, (SIZE, SIZE), {rotated.HEAD.output: output}
    if family == "yolov8":
        boxes = 8400
        center = random.uniform(0, SIZE, (images, boxes, 2))
        scores = random.uniform(0, 0.2, (images, boxes, CLASSES))
        for row in scores:
            chosen = random.permutation(boxes)[:passing]
            row[chosen, random.integers(0, CLASSES, len(chosen))] = random.uniform(0.26, 1, len(chosen))
        rows = np.concatenate([center, random.uniform(4, 120, center.shape), scores], axis=2)
        output = np.ascontiguousarray(rows.transpose(0, 2, 1), np.float32)
        return YoloV8(output="output0"), (SIZE, SIZE), {"output0": output}
    heads = tuple(
        YoloHead(
            output=f"stride{stride}", stride=stride, anchors=((2.0 * stride, stride), (stride, stride), (stride, 40))
        )
        for stride in (32, 16, 8)
    )
    total = sum(3 * (416 // head.stride) ** 2 for head in heads)
    outputs = {}
    for head in heads:
        side = 416 // head.stride
        raw = random.normal(0, 0.5, (images, 3, 5 + CLASSES, side, side)).astype(np.float32)
        raw[:, :, 5:] -= 6
        raw[:, :, 4] = -6
        for image in raw:
            chosen = random.permutation(3 * side * side)[: round(passing * 3 * side * side / total)]
            anchor, row, column = np.unravel_index(chosen, (3, side, side))
            image[anchor, 4, row, column] = random.uniform(2, 5, len(chosen))
            image[anchor, 5 + random.integers(0, CLASSES, len(chosen)), row, column] = random.uniform(1, 5, len(chosen))
        outputs[head.output] = raw.reshape(images, -1, side, side)
    return YoloV3(heads=heads), (416, 416), outputs


def _difference(
    head: Head, size: tuple[int, int], outputs: Outputs, detections: list[np.ndarray], *, exact: bool
) -> str:
    """Returns what is not as numpy has it, or an empty string."""
    for index, found in enumerate(detections):
        expected = detect(outputs, head, input_size=size, index=index, capacity=CAPACITY, **OPTIONS, **PLACED)
        ours, theirs = ({(int(row["class"]), int(row["index"])): row for row in rows} for rows in (found, expected))
        shared = ours.keys() & theirs.keys()
        if len(shared) < max(len(ours), len(theirs)) * (1.0 if exact else MIN_SHARED):
            return f"image {index}: expected the {len(theirs)} boxes of numpy, got {len(ours)}, {len(shared)} of them"
        if exact and list(ours) != list(theirs):
            return f"image {index}: expected the order of numpy, got another"
        worst = {
            field: max((float(np.abs(ours[each][field] - theirs[each][field]).max()) for each in shared), default=0.0)
            for field in ("box", "angle")
        }
        if not worst["box"] <= MAX_DIFFERENCE_PX:
            return f"image {index}: expected boxes within {MAX_DIFFERENCE_PX} px of numpy's, got {worst['box']} px"
        if not worst["angle"] <= MAX_DIFFERENCE_RAD:
            return f"image {index}: expected angles within {MAX_DIFFERENCE_RAD} of numpy's, got {worst['angle']}"
    return ""


def _goals(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures that have a goal: one image with 1000 candidates."""
    goals: dict[str, Any] = {"goal_us": GOAL_US, "goal_times_torchvision": GOAL_TIMES}
    for case in cases:
        if (case["images"], case["candidates"]) == (1, 1000):
            goals[f"{case['family']}_us"] = case["median_us"]
            if "torchvision_median_us" in case:
                goals[f"{case['family']}_times_torchvision"] = case["torchvision_median_us"] / case["median_us"]
    return goals


def _measured(
    context: Context, head: Head, size: tuple[int, int], outputs: Outputs, warmup: int, repeats: int
) -> tuple[list[np.ndarray], list[float]]:
    """Returns the detections of each image, and the time of each launch of the kernels as one graph."""
    images, limit = len(next(iter(outputs.values()))), int(OPTIONS["max_detections"])
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(context))
        types = {name: (array.dtype, array.shape) for name, array in outputs.items()}
        detector = stack.enter_context(
            DeviceDetector(context, head, outputs=types, input_size=size, images=images, max_detections=limit)
        )
        inputs = outputs | {"parameters": np.array([detector.record(**OPTIONS, **PLACED)] * images, PARAMETERS)}
        results = {"detections": np.zeros((images, limit), DETECTION), "number": np.zeros(images, np.int32)}
        arrays = inputs | results
        host = {name: stack.enter_context(HostMemory(context, array.nbytes)) for name, array in arrays.items()}
        device = {name: stack.enter_context(DeviceMemory(context, array.nbytes)) for name, array in arrays.items()}
        addresses = {name: memory.address for name, memory in device.items()}
        with context.current():

            def launch() -> None:
                detector.launch(
                    stream,
                    outputs={name: addresses[name] for name in outputs},
                    images=images,
                    **{name: addresses[name] for name in ("parameters", "detections", "number")},
                )

            for name, array in inputs.items():
                host[name].array[:] = np.frombuffer(array.tobytes(), np.uint8)
                stream.copy_to_device(addresses[name], host[name].array)
            times_ms = times_of_graph_ms(context, stream, launch, warmup=warmup, repeats=repeats)
            for name in results:
                stream.copy_to_host(host[name].array, addresses[name])
            stream.synchronize()
            rows = np.array(host["detections"].array[:]).view(DETECTION).reshape(images, limit)
            number = host["number"].array[:].view(np.int32).tolist()
            found = [row[:count] for row, count in zip(rows, number, strict=True)]
    return found, times_ms


def _peers_us(head: Head, outputs: Outputs, warmup: int, repeats: int) -> dict[str, float]:
    """Returns the median times of the same decoding in torch, before two suppressions, on the same GPU."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    tensors = {name: torch.from_numpy(array).cuda() for name, array in outputs.items()}
    suppressions: dict[str, Callable[..., Any]] = {"torch_median_us": greedy}
    # torchvision suppresses no rotated boxes.
    if head is not rotated.HEAD and importlib.util.find_spec("torchvision") is not None:
        from torchvision.ops import batched_nms

        suppressions["torchvision_median_us"] = batched_nms
    found = {}
    for name, suppress in suppressions.items():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times_ms = []
        for _ in range(warmup + repeats):
            start.record()
            for image in range(len(next(iter(tensors.values())))):
                detected_by_torch(head, {key: tensor[image] for key, tensor in tensors.items()}, suppress)
            end.record()
            end.synchronize()
            times_ms.append(start.elapsed_time(end))
        found[name] = 1000 * statistics.median(times_ms)
    return found


def detected_by_torch(head: Head, outputs: dict[str, Any], suppress: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """Decodes, suppresses and maps the boxes of one image in torch; returns boxes, scores and classes."""
    import torch

    if head is rotated.HEAD:
        return _rotated_by_torch(outputs[rotated.HEAD.output])
    boxes, scores, classes = _centers(head, outputs) if isinstance(head, YoloV8) else _anchors(head, outputs)
    half = boxes[:, 2:] / 2
    corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
    kept = suppress(corners, scores, classes, OPTIONS["iou_threshold"])[: OPTIONS["max_detections"]]
    offset, scale, size = (corners.new_tensor(PLACED[name] * 2) for name in ("offset", "scale", "size"))
    mapped = ((corners[kept] - offset) / scale).clamp(min=0).minimum(size)
    return mapped, scores[kept], classes[kept]


def _rotated_by_torch(planes: Any) -> tuple[Any, Any, Any]:
    boxes, scores, classes = rotated.candidates(planes, OPTIONS["score_threshold"])
    kept = rotated.fast_nms(boxes, scores, classes, OPTIONS["iou_threshold"], CAPACITY)[: OPTIONS["max_detections"]]
    mapped = boxes[kept]  # a copy
    mapped[:, :2] -= mapped.new_tensor(PLACED["offset"])
    mapped[:, :4] /= mapped.new_tensor(PLACED["scale"] * 2)
    return mapped, scores[kept], classes[kept]


def _centers(head: YoloV8, outputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    planes = outputs[head.output]
    scores, classes = planes[4:].max(dim=0)
    passing = scores > OPTIONS["score_threshold"]
    return planes[:4, passing].T, scores[passing], classes[passing]


def _anchors(head: Any, outputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    import torch

    boxes, scores, classes = [], [], []
    for each in head.heads:
        raw = outputs[each.output]
        raw = raw.reshape(len(each.anchors), -1, *raw.shape[1:])
        products = torch.sigmoid(raw[:, 4:5]) * torch.sigmoid(raw[:, 5:])
        anchor, kind, row, column = torch.nonzero(products > OPTIONS["score_threshold"], as_tuple=True)
        cells = raw[anchor, :4, row, column]
        center = (torch.sigmoid(cells[:, :2]) + torch.stack([column, row], dim=1)) * each.stride
        boxes.append(torch.cat([center, cells.new_tensor(each.anchors)[anchor] * torch.exp(cells[:, 2:])], dim=1))
        scores.append(products[anchor, kind, row, column])
        classes.append(kind)
    return torch.cat(boxes), torch.cat(scores), torch.cat(classes)


def greedy(boxes: Any, scores: Any, classes: Any, iou_threshold: float) -> Any:
    """Suppresses in plain torch, as a matrix; returns the indices of the kept boxes, best first."""
    import torch

    order = torch.argsort(scores, descending=True, stable=True)[:CAPACITY]
    sorted_boxes, kinds = boxes[order], classes[order]
    areas = (sorted_boxes[:, 2:] - sorted_boxes[:, :2]).clamp(min=0).prod(dim=1)
    low = torch.maximum(sorted_boxes[:, None, :2], sorted_boxes[None, :, :2])
    high = torch.minimum(sorted_boxes[:, None, 2:], sorted_boxes[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=2)
    overlaps = intersection > iou_threshold * (areas[:, None] + areas[None] - intersection)
    suppresses = torch.triu(overlaps & (kinds[:, None] == kinds[None]), diagonal=1)
    kept = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    while True:
        # A box is dropped if one that is kept suppresses it; after as many steps as the longest chain this is settled.
        again = ~(suppresses & kept[:, None]).any(dim=0)
        if torch.equal(again, kept):
            return order[kept]
        kept = again
