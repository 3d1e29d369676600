"""Non-maximum suppression of a batch in device memory, with the same results as `reference.nms`; see ``nms.cu``."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

import numpy as np

from edgekit.device.cuda.resources import Context, DeviceMemory, Module, Stream
from edgekit.errors import UsageError
from edgekit.kernels import compiled
from edgekit.kernels.suppression.suppress import check_thresholds

__all__ = ["BITS", "CAPACITY", "SELECT_THREADS", "SWEEP_THREADS", "TILES", "WORDS", "BatchedNms"]

# Constants of suppression.cuh.
CAPACITY = 2048
BITS = 64
WORDS = CAPACITY // BITS
TILES = WORDS * (WORDS + 1) // 2
SELECT_THREADS = 1024
SWEEP_THREADS = 256


class BatchedNms:
    """Selects boxes on the GPU by class-aware greedy suppression, without host synchronization.

    The results are those of `edgekit.kernels.suppression.reference.nms` on each image's best `CAPACITY` candidates.
    The launches can be captured in a CUDA graph. Not yet measured on a GPU.

    Args:
        context: the context of the arrays.
        images: maximum number of images of a batch.
        index: number of the GPU.

    Raises:
        BackendUnavailable: no compiled kernel fits the GPU and its driver.
        RunError: CUDA failed, for example because memory is short (0.5 MiB per image are allocated).
        UsageError: ``images`` is less than 1.
    """

    def __init__(self, context: Context, *, images: int, index: int = 0) -> None:
        if images < 1:
            raise UsageError(f"images: expected 1 or more, got {images}")
        binary = compiled.choose("nms", context.driver.properties(index))
        self.images = images
        with ExitStack() as stack:
            self._module = stack.enter_context(Module(context, compiled.image("nms", binary)))
            self._order = stack.enter_context(DeviceMemory(context, images * CAPACITY * 4))
            self._found = stack.enter_context(DeviceMemory(context, images * 4))
            self._matrix = stack.enter_context(DeviceMemory(context, images * CAPACITY * WORDS * 8))
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Frees the workspace and unloads the kernels; a second call does nothing."""
        self._resources.close()

    def __enter__(self) -> BatchedNms:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def launch(
        self,
        stream: Stream,
        *,
        boxes: int,
        scores: int,
        classes: int,
        counts: int,
        kept: int,
        number: int,
        images: int,
        candidates: int,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
    ) -> None:
        """Submits the suppression to a stream of the current context; arrays are addresses of device memory.

        Args:
            stream: the stream.
            boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(images, candidates, 4)``, aligned to 16 bytes.
            scores: float32, shape ``(images, candidates)``.
            classes: int32, shape ``(images, candidates)``.
            counts: number of candidates of each image, the first ones of its row; int32, shape ``(images,)``.
            kept: output, indices of the kept candidates of each image, best first; int32, shape
                ``(images, max_detections)``; entries behind ``number`` are not written.
            number: output, number of kept candidates of each image; int32, shape ``(images,)``.
            images: number of images.
            candidates: length of a row.
            score_threshold: only boxes with a greater score are kept; 0 to 1.
            iou_threshold: maximum overlap of a kept box with a better box of its class; 0 to 1.
            max_detections: maximum number of kept boxes per image.

        Raises:
            UsageError: a threshold is not between 0 and 1, or a number is out of range.
        """
        check_thresholds(score_threshold, iou_threshold, max_detections)
        if not 1 <= images <= self.images:
            raise UsageError(f"images: expected 1 to {self.images}, got {images}")
        if candidates < 1:
            raise UsageError(f"candidates: expected 1 or more, got {candidates}")
        order, found, matrix = (np.uint64(memory.address) for memory in (self._order, self._found, self._matrix))
        stride = np.int32(candidates)
        self._module.launch(
            "nms_select",
            (images, 1, 1),
            (SELECT_THREADS, 1, 1),
            [
                np.uint64(boxes),
                np.uint64(scores),
                np.uint64(counts),
                stride,
                np.float32(score_threshold),
                order,
                found,
            ],
            stream,
        )
        self._module.launch(
            "nms_overlaps",
            (TILES, 1, images),
            (BITS, 1, 1),
            [np.uint64(boxes), np.uint64(classes), order, found, stride, np.float64(iou_threshold), matrix],
            stream,
        )
        self._module.launch(
            "nms_sweep",
            (images, 1, 1),
            (SWEEP_THREADS, 1, 1),
            [matrix, order, found, np.int32(max_detections), np.uint64(kept), np.uint64(number)],
            stream,
        )
