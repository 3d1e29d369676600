"""Task ``obb``: finds objects in an image, with a rotated box (oriented bounding box) around each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.data.images import Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.runtime.detections import Detections, RotatedDetections, corners_of_rotated
from edgekit.runtime.tasks.detector import DetectorTask

__all__ = ["TASK"]


class Obb(DetectorTask[RotatedDetections]):
    """See `DetectorTask`."""

    name = "obb"
    engine = "a detector of rotated boxes"
    draws = "boxes"
    columns = ("center x", "center y", "width", "height", "angle")

    def made(
        self, rows: np.ndarray, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement
    ) -> RotatedDetections:
        """See `DetectorTask.made`."""
        return self.made_on_device(rows, manifest, placement.size)

    def made_on_device(self, rows: np.ndarray, manifest: Manifest, size: tuple[int, int]) -> RotatedDetections:
        """See `DetectorTask.made_on_device`."""
        found = self.boxes(rows, manifest, size)
        return RotatedDetections(
            found.boxes, found.scores, found.classes, found.names, size=size, rotated=_rotated(rows)
        )

    def boxes(self, rows: np.ndarray, manifest: Manifest, size: tuple[int, int]) -> Detections:
        """Returns the upright rectangles around the rotated boxes; see `DetectorTask.boxes`."""
        corners = corners_of_rotated(_rotated(rows))
        upright = rows.copy()
        upright["box"] = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return super().boxes(upright, manifest, size)

    def cells(self, each: Any) -> tuple[str, ...]:
        """See `DetectorTask.cells`."""
        *sides, angle = each.rotated
        return (*(f"{side:.0f}" for side in sides), f"{math.degrees(angle):.0f}°")


def _rotated(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([rows["box"], rows["angle"]])


TASK = Obb()
