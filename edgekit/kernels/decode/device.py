"""Raw outputs of a detector to detections on the GPU, with the results of `families.detect`; see ``decode.cu``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import cast

import numpy as np

from edgekit.device.cuda.resources import Context, DeviceMemory, Module, Stream
from edgekit.errors import RunError, UsageError
from edgekit.kernels import compiled
from edgekit.kernels.decode.families import DETECTION, is_fast, is_rotated, keeps_angle, overlap_of
from edgekit.kernels.decode.layout import layout, yolox_grids
from edgekit.kernels.suppression.device import BITS, CAPACITY, SELECT_THREADS, SWEEP_THREADS, TILES, WORDS
from edgekit.kernels.suppression.suppress import check_thresholds
from edgekit.recipe.heads import (
    CellHeads,
    Detr,
    End2End,
    Head,
    YoloV1,
    YoloV2,
    YoloV3,
    YoloV5,
    YoloV8,
    YoloX,
    box_outputs,
)

__all__ = ["DETECTION", "HEAD", "PARAMETERS", "DeviceDetector"]

PARAMETERS = np.dtype(
    [
        ("iou_threshold", np.float64),
        ("pixels", np.float64, 2),
        ("offset", np.float64, 2),
        ("size", np.float64, 2),
        ("score_threshold", np.float32),
        ("max_detections", np.int32),
        ("keeps_angle", np.int32),
        ("unused", np.int32),
    ]
)
"""What may change with each image; made by `DeviceDetector.record`."""

# Constants of decode.cu.
_OUTPUTS = _LEVELS = 4
_ANCHORS = 9
_MAX_IMAGES = 2**16 - 1  # of a grid in y and z
_WARP = 32
_GROUPS = 8
_ROW_WARPS = 8
_FAMILIES: dict[type[Head], int] = {
    YoloV1: 0,
    YoloV2: 1,
    YoloV3: 2,
    YoloV5: 3,
    YoloV8: 3,
    YoloX: 4,
    End2End: 5,
    Detr: 6,
}
_CENTERS, _END2END_CENTERS = 3, 7
_ACTIVATIONS = {"none": 0, "sigmoid": 1, "softmax": 2}
_OVERLAPS = {None: 0, "corners": 1, "rotated": 2, "probiou": 3}

_LEVEL = [
    ("first", np.int32),
    ("columns", np.int32),
    ("area", np.int32),
    ("boxes", np.int32),
    ("stride", np.float32),
    ("sides", np.float32, (_ANCHORS, 2)),
]
HEAD = np.dtype(
    [
        ("elements", np.int64, _OUTPUTS),
        *(
            (name, np.int32)
            for name in (
                "family activation cells classes slots first_class channels class_channels class_channel class_output "
                "angle_channel objectness multi_label channels_last levels half_boxes half_classes overlap limit fast"
            ).split()
        ),
        ("width", np.float32),
        ("height", np.float32),
        ("level", _LEVEL, _LEVELS),
    ]
)
"""The struct ``Head`` of decode.cu."""

Outputs = Mapping[str, tuple[np.dtype, tuple[int, ...]]]


class DeviceDetector:
    """Decodes, suppresses and maps boxes on the GPU, without host synchronization.

    The results are those of `edgekit.kernels.decode.families.detect` on the best 2,048 candidates of each image. The
    launches can be captured in a CUDA graph; thresholds and the placement of the image are read from `PARAMETERS`
    records in device memory when they run. A detector has one workspace, so its launches must not overlap. Not yet
    measured on a GPU.

    Args:
        context: the context of the arrays.
        head: the family and its parameters, or the postprocessing of a recipe.
        outputs: element type and shape of each output, the batch first.
        input_size: width and height of the model's input in px.
        images: maximum number of images of a batch.
        max_detections: number of records per image in the array of detections; 1 to 2048.
        index: number of the GPU.

    Raises:
        BackendUnavailable: no compiled kernel fits the GPU and its driver.
        RunError: an output does not fit the head, or CUDA failed, for example because memory is short.
        UsageError: there is no kernel for the head (see `supports`), or a number is out of range.
    """

    def __init__(
        self,
        context: Context,
        head: Head,
        *,
        outputs: Outputs,
        input_size: tuple[int, int],
        images: int,
        max_detections: int,
        index: int = 0,
    ) -> None:
        for name, number, most in (("images", images, _MAX_IMAGES), ("max_detections", max_detections, CAPACITY)):
            if not 1 <= number <= most:
                raise UsageError(f"{name}: expected 1 to {most}, got {number}")
        if reason := self.supports(head, outputs):
            raise UsageError(f"expected a head that the GPU can decode, got '{type(head).__name__}': {reason}")
        self.images = images
        self.max_detections = max_detections
        self._names = box_outputs(head)
        self._head = head
        self._record = _head_record(head, outputs, input_size, max_detections)
        # As an argument of kernels: read-only numbers can be hashed, which pycuda does with arguments after 2026.1.
        words = np.dtype([(f"word{i}", np.int64) for i in range(HEAD.itemsize // 8)])
        self._head_argument = cast(np.void, np.frombuffer(self._record.tobytes(), words)[0])
        self._rows_per_warp = _WARP if self._record["objectness"] else 4
        with ExitStack() as stack:
            binary = compiled.choose("decode", context.driver.properties(index))
            self._module = stack.enter_context(Module(context, compiled.image("decode", binary)))
            self._workspace = {
                name: stack.enter_context(DeviceMemory(context, size_bytes)) for name, size_bytes in self._sizes()
            }
            self._resources = stack.pop_all()

    @staticmethod
    def supports(head: Head, outputs: Outputs) -> str:
        """Returns why there is no kernel for a head and its outputs, or an empty string if there is one."""
        if type(head) not in _FAMILIES:
            return "the model decodes its detections itself"
        try:
            cells, classes = layout(head, {name: shape for name, (_, shape) in outputs.items()})
        except RunError as e:
            return e.message
        names = box_outputs(head)
        types = [np.dtype(outputs[name][0]) for name in names]
        for name, dtype in zip(names, types, strict=True):
            if dtype not in (np.float32, np.float16):
                return f"output '{name}': expected float32 or float16, got {dtype}"
        if not isinstance(head, Detr) and len(set(types)) > 1:
            return f"outputs {', '.join(names)}: expected one element type, got {', '.join(map(str, types))}"
        if cells < 1 or cells * (classes or 1) >= 2**31:
            return f"expected at least one box, and less than 2^31 pairs of box and class, got {cells} x {classes or 1}"
        return _too_many(head)

    @property
    def workspace_bytes(self) -> int:
        """Device memory of the workspace."""
        return sum(memory.size_bytes for memory in self._workspace.values())

    def close(self) -> None:
        """Frees the workspace and unloads the kernels; a second call does nothing."""
        self._resources.close()

    def __enter__(self) -> DeviceDetector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def record(
        self,
        *,
        scale: tuple[float, float],
        offset: tuple[float, float],
        size: tuple[int, int],
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
    ) -> np.void:
        """Returns the `PARAMETERS` record of an image.

        Args:
            scale: input px per image px, ``(x, y)``.
            offset: position of the image's upper left corner in input px, ``(x, y)``.
            size: width and height of the image in px.
            score_threshold: only detections with a greater score are written; 0 to 1.
            iou_threshold: a box that overlaps a better one of its class by more is dropped; 0 to 1.
            max_detections: maximum number of detections.

        Raises:
            UsageError: a threshold is not between 0 and 1, a scale is not positive, or a number is out of range.
        """
        check_thresholds(score_threshold, iou_threshold, max_detections)
        if max_detections > self.max_detections:
            raise UsageError(f"max_detections: expected 0 to {self.max_detections}, got {max_detections}")
        if not all(0 < value < float("inf") for value in (*scale, *size)):
            raise UsageError(f"scale and size: expected positive numbers, got {tuple(scale)} and {tuple(size)}")
        record = np.zeros((), PARAMETERS)
        record["iou_threshold"], record["score_threshold"] = iou_threshold, score_threshold
        record["pixels"], record["offset"], record["size"] = 1 / np.asarray(scale, np.float64), offset, size
        record["max_detections"], record["keeps_angle"] = max_detections, keeps_angle(self._head, scale)
        return cast(np.void, record[()])

    def launch(
        self,
        stream: Stream,
        *,
        outputs: Mapping[str, int],
        parameters: int,
        detections: int,
        number: int,
        images: int,
    ) -> None:
        """Submits the kernels to a stream of the current context; arrays are addresses of device memory.

        Args:
            stream: the stream.
            outputs: the engine's outputs by name.
            parameters: a `PARAMETERS` record for each image.
            detections: output, `DETECTION` records of each image, best first; shape ``(images, max_detections)`` with
                the constructor's ``max_detections``; entries behind ``number`` are not written.
            number: output, number of detections of each image; int32, shape ``(images,)``.
            images: number of images.

        Raises:
            UsageError: an output is missing, or ``images`` is out of range.
        """
        if not 1 <= images <= self.images:
            raise UsageError(f"images: expected 1 to {self.images}, got {images}")
        missing = [name for name in self._names if name not in outputs]
        if missing:
            raise UsageError(f"outputs: expected {', '.join(self._names)}, got none for {', '.join(missing)}")
        own = [np.uint64(outputs[name]) for name in self._names]
        own += [own[-1]] * (_OUTPUTS - len(own))
        records, work = np.uint64(parameters), {name: np.uint64(m.address) for name, m in self._workspace.items()}
        self._module.launch("decode_reset", (1, 1, 1), (_WARP, 1, 1), [work["counters"], np.int32(images)], stream)
        self._filter(stream, own, records, work, images)
        picked: list[np.generic] = [work[name] for name in ("keys", "boxes", "angles", "kinds", "found")]
        self._module.launch(
            "decode_select",
            (images, 1, 1),
            (SELECT_THREADS, 1, 1),
            [*own, work["lists"], work["counters"], *picked, self._head_argument],
            stream,
        )
        _, boxes, angles, kinds, found = picked
        overlap, grid, block = int(self._record["overlap"]), (TILES, 1, images), (BITS, 1, 1)
        if overlap == _OVERLAPS["corners"]:
            arguments = [boxes, kinds, found, records, work["matrix"]]
            self._module.launch("decode_overlaps", grid, block, arguments, stream)
        elif overlap:
            arguments = [boxes, angles, kinds, found, records, work["matrix"], np.int32(overlap)]
            self._module.launch("decode_overlaps_rotated", grid, block, arguments, stream)
        self._module.launch(
            "decode_emit",
            (images, 1, 1),
            (SWEEP_THREADS, 1, 1),
            [work["matrix"], *picked, records, np.uint64(detections), np.uint64(number), self._head_argument],
            stream,
        )

    def _filter(
        self,
        stream: Stream,
        outputs: list[np.uint64],
        records: np.uint64,
        work: Mapping[str, np.uint64],
        images: int,
    ) -> None:
        cells = int(self._record["cells"])
        if not self._record["channels_last"]:
            arguments: list[np.generic] = [*outputs, records, work["lists"], work["counters"], self._head_argument]
            grid = (-(-cells // _WARP), images, 1)
            self._module.launch("decode_filter_planes", grid, (_WARP, _GROUPS, 1), arguments, stream)
            return
        rows = self._rows_per_warp
        arguments = [*outputs[:2], records, work["lists"], work["counters"], self._head_argument, np.int32(rows)]
        grid = (-(-cells // (rows * _ROW_WARPS)), images, 1)
        self._module.launch("decode_filter_rows", grid, (_WARP * _ROW_WARPS, 1, 1), arguments, stream)

    def _sizes(self) -> list[tuple[str, int]]:
        """Returns name and size of each array of the workspace."""
        head, images = self._record, self.images
        candidates = int(head["cells"]) * (int(head["classes"]) if head["multi_label"] else 1)
        return [
            ("lists", images * candidates * 8),
            ("counters", images * 4),
            ("keys", images * CAPACITY * 8),
            ("boxes", images * CAPACITY * 16),
            ("angles", images * CAPACITY * 4),
            ("kinds", images * CAPACITY * 4),
            ("found", images * 4),
            ("matrix", images * CAPACITY * WORDS * 8 if head["overlap"] else 8),
        ]


def _too_many(head: Head) -> str:
    """Returns which of a head's lists is longer than the kernels' arrays, or an empty string."""
    if isinstance(head, CellHeads):
        if any(each.scale_xy != 1 or each.new_coords for each in head.heads):
            return "the kernel decodes YOLOv3's boxes, without scale_xy and new_coords"
        if isinstance(head, YoloV3) and head.diou_beta:
            return "the kernel suppresses boxes by IoU, without the distance of DIoU"
        if len(head.heads) > _OUTPUTS:
            return f"expected at most {_OUTPUTS} outputs, got {len(head.heads)}"
        most = max(len(each.anchors) for each in head.heads)
        if most > _ANCHORS:
            return f"expected at most {_ANCHORS} anchors per output, got {most}"
    if isinstance(head, YoloX) and len(head.strides) > _LEVELS:
        return f"expected at most {_LEVELS} strides, got {len(head.strides)}"
    return ""


def _head_record(head: Head, outputs: Outputs, input_size: tuple[int, int], limit: int) -> np.void:
    shapes = {name: shape for name, (_, shape) in outputs.items()}
    names = box_outputs(head)
    record = np.zeros((), HEAD)
    cells, classes = layout(head, shapes)
    classes = classes or 1
    halves = [np.dtype(outputs[name][0]) == np.float16 for name in names]
    sizes = [int(np.prod(shapes[name][1:])) for name in names]
    record["elements"] = [*sizes, *[0] * (_OUTPUTS - len(sizes))]
    record["family"] = _FAMILIES[type(head)]
    record["cells"], record["classes"], record["slots"], record["limit"] = cells, classes, classes, limit
    record["half_boxes"], record["half_classes"] = halves[0], halves[-1]
    record["overlap"], record["fast"] = _OVERLAPS[overlap_of(head)], is_fast(head)
    record["width"], record["height"] = input_size
    record["angle_channel"] = -1
    record["multi_label"] = getattr(head, "multi_label", False)
    if isinstance(head, CellHeads):
        _fill_grids(record, head, shapes)
    elif isinstance(head, Detr):
        _fill_queries(record, head, shapes)
    elif isinstance(head, YoloV5 | YoloV8 | YoloX | End2End):
        _fill_cells(record, head, shapes, input_size)
    return cast(np.void, record[()])


def _fill_grids(record: np.ndarray, head: CellHeads, shapes: Mapping[str, tuple[int, ...]]) -> None:
    activation = "none" if isinstance(head, YoloV1) else "softmax" if isinstance(head, YoloV2) else "sigmoid"
    record["activation"], record["objectness"] = _ACTIVATIONS[activation], 1
    record["channels"], record["levels"] = 5 + record["classes"], len(head.heads)
    first = 0
    for level, each in zip(record["level"], head.heads, strict=False):
        rows, columns = shapes[each.output][2:]
        boxes = each.boxes or len(each.anchors)
        level["first"], level["columns"], level["area"], level["boxes"] = first, columns, rows * columns, boxes
        level["stride"] = each.stride
        level["sides"][: len(each.anchors)] = np.reshape(each.anchors, (-1, 2))
        first += boxes * rows * columns


def _fill_queries(record: np.ndarray, head: Detr, shapes: Mapping[str, tuple[int, ...]]) -> None:
    record["activation"], record["channels_last"] = _ACTIVATIONS[head.activation], 1
    record["channels"] = shapes[head.boxes][2]
    record["class_output"] = bool(head.logits)
    record["class_channel"] = 0 if head.logits else 4
    record["class_channels"] = shapes[head.logits or head.boxes][2]
    record["slots"] += head.background != "none"
    record["first_class"] = head.background == "first"


def _fill_cells(
    record: np.ndarray,
    head: YoloV5 | YoloV8 | YoloX | End2End,
    shapes: Mapping[str, tuple[int, ...]],
    input_size: tuple[int, int],
) -> None:
    first = isinstance(head, YoloV8) and head.layout == "channels-first"
    record["channels_last"] = not first
    record["channels"] = record["class_channels"] = shapes[head.output][1 if first else 2]
    record["objectness"] = not isinstance(head, YoloV8)
    record["class_channel"] = 4 if isinstance(head, YoloV8) else 5
    if is_rotated(head):
        record["angle_channel"] = record["channels"] - 1
    if isinstance(head, End2End):
        record["classes"] = record["slots"] = 0
        if head.coordinates == "centers":
            record["family"] = _END2END_CENTERS
        return
    record["activation"] = _ACTIVATIONS[head.activation]
    if not isinstance(head, YoloX):
        return
    if head.decoded:
        record["family"] = _CENTERS
        return
    cell = 0
    grids = yolox_grids(head, int(record["cells"]), input_size)
    record["levels"] = len(grids)
    for level, (columns, rows, stride) in zip(record["level"], grids, strict=False):
        level["first"], level["columns"], level["area"], level["boxes"] = cell, columns, rows * columns, 1
        level["stride"] = stride
        cell += rows * columns
