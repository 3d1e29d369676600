"""Task ``detect``: finds objects in an image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.data.images import Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.runtime.detections import Detections
from edgekit.runtime.tasks.detector import DetectorTask

__all__ = ["TASK"]


class Detect(DetectorTask[Detections]):
    """See `DetectorTask`."""

    name = "detect"
    engine = "a detector"
    draws = "boxes"

    def made(
        self, rows: np.ndarray, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement
    ) -> Detections:
        """See `DetectorTask.made`."""
        return self.made_on_device(rows, manifest, placement.size)

    def made_on_device(self, rows: np.ndarray, manifest: Manifest, size: tuple[int, int]) -> Detections:
        """See `DetectorTask.made_on_device`."""
        return self.boxes(rows, manifest, size)


TASK = Detect()
