"""Task ``segment``: finds objects in an image, with the mask of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.data.images import Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.kernels.decode.extras import extras_of
from edgekit.kernels.masks.masks import masks_of_boxes
from edgekit.recipe.heads import End2End, YoloV5, YoloV8
from edgekit.runtime.detections import Segments
from edgekit.runtime.tasks.detector import DetectorTask

__all__ = ["TASK"]


class SegmentTask(DetectorTask[Segments]):
    """See `DetectorTask`."""

    name = "segment"
    engine = "a model that segments objects"
    draws = "masks"
    needs_outputs = True
    columns = ("left", "top", "right", "bottom", "mask px")

    def made(
        self, rows: np.ndarray, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement
    ) -> Segments:
        """Computes the masks of the found boxes; an object whose mask is empty is left out, as in Ultralytics."""
        assert manifest.postprocess is not None  # checked by `result`
        head = manifest.postprocess.head
        assert isinstance(head, YoloV5 | YoloV8 | End2End)  # `task_of_head` says 'segment' for these alone
        prototypes = outputs[head.masks][0]
        before = math.prod(head.keypoints)
        coefficients = extras_of(outputs, head, rows["index"])[:, before : before + len(prototypes)]
        crops = masks_of_boxes(
            prototypes,
            coefficients,
            rows["box"],
            input_size=placement.input_size,
            scale=placement.scale,
            offset=placement.offset,
            size=placement.size,
        )
        found = self.boxes(rows, manifest, placement.size)
        segments = Segments(found.boxes, found.scores, found.classes, found.names, size=found.size, crops=tuple(crops))
        return segments[[bool(crop.mask.any()) for crop in crops]]

    def cells(self, each: Any) -> tuple[str, ...]:
        """See `DetectorTask.cells`."""
        return (*super().cells(each), f"{each.mask.sum()}")


TASK = SegmentTask()
