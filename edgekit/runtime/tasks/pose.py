"""Task ``pose``: finds objects in an image, with the key points of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.data.images import Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.kernels.decode.extras import extras_of, keypoints_in_image
from edgekit.recipe.heads import End2End, YoloV5, YoloV8
from edgekit.runtime.detections import Poses
from edgekit.runtime.draw import LEAST_VISIBILITY
from edgekit.runtime.tasks.detector import DetectorTask

__all__ = ["TASK"]


class PoseTask(DetectorTask[Poses]):
    """See `DetectorTask`."""

    name = "pose"
    engine = "a model that finds key points"
    draws = "poses"
    needs_outputs = True
    columns = ("left", "top", "right", "bottom", "visible points")

    def made(
        self, rows: np.ndarray, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement
    ) -> Poses:
        """Maps the key points of the found boxes to the image."""
        assert manifest.postprocess is not None  # checked by `result`
        head = manifest.postprocess.head
        assert isinstance(head, YoloV5 | YoloV8 | End2End)  # `task_of_head` says 'pose' for these alone
        values = extras_of(outputs, head, rows["index"])[:, : math.prod(head.keypoints)]
        keypoints = keypoints_in_image(
            values.reshape(len(rows), *head.keypoints),
            scale=placement.scale,
            offset=placement.offset,
            size=placement.size,
        )
        found = self.boxes(rows, manifest, placement.size)
        return Poses(found.boxes, found.scores, found.classes, found.names, size=found.size, keypoints=keypoints)

    def cells(self, each: Any) -> tuple[str, ...]:
        """See `DetectorTask.cells`."""
        visible = int((each.keypoints[:, 2] >= LEAST_VISIBILITY).sum())
        return (*super().cells(each), f"{visible} of {len(each.keypoints)}")


TASK = PoseTask()
