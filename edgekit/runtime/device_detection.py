"""Detections whose every step runs on the GPU, for a session; `edgekit.runtime.detection` has the steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.data.frames import Format
from edgekit.data.images import ImageSource, read_image
from edgekit.device.cuda.arrays import is_on_device
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import BackendUnavailable, RunError
from edgekit.kernels.suppression.device import CAPACITY
from edgekit.runtime.detection import DetectionPipeline, PendingRows
from edgekit.runtime.stream import Pending, RunsOnDevice
from edgekit.specs import TensorSpec

__all__ = ["DeviceDetection"]


class DeviceDetection:
    """Detects objects on the GPU of an engine, with a pipeline that is made for the first frame.

    Args:
        manifest: the manifest of the engine's bundle.
        inputs: specifications of the engine's inputs.
        outputs: specifications of its outputs.
        open_engine: returns the engine; raises `RunError` if the session is closed.
        lock: the lock under which the engine runs, and is closed.
    """

    def __init__(
        self,
        manifest: Manifest,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        open_engine: Callable[[], object],
        lock: threading.Lock,
    ) -> None:
        self._manifest, self._inputs, self._outputs = manifest, inputs, outputs
        self._open_engine, self._lock = open_engine, lock
        self._pipeline: DetectionPipeline | None = None
        self._obstacle = ""  # until the first frame shows that there is one

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs on the CPU in place of the GPU, and why."""
        own = () if self._pipeline is None else tuple(self._pipeline.notes)
        return (*((self._obstacle,) if self._obstacle else ()), *own)

    def close(self) -> None:
        """Frees the pipeline after the frames in flight; the caller holds the lock."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def start(
        self,
        image: ImageSource,
        format: Format,
        *,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
    ) -> Pending[np.ndarray] | None:
        """Starts a detection; None if a step has to run on the CPU. See `Session.detect_on_device`."""
        if self._obstacle or not isinstance(self._open_engine(), RunsOnDevice) or max_detections > CAPACITY:
            return None
        # Images are decoded outside of the lock.
        frame = image if is_on_device(image) or isinstance(image, np.ndarray) else read_image(image)
        with self._lock:
            pipeline = self._opened(max_detections)
            if pipeline is None:
                return None
            started = pipeline.start(
                frame,
                format,
                score_threshold=score_threshold,
                iou_threshold=iou_threshold,
                max_detections=max_detections,
            )
            return _Started(self._lock, pipeline, started)

    def _opened(self, max_detections: int) -> DetectionPipeline | None:
        engine = self._open_engine()  # again, since another thread may have closed the session
        assert isinstance(engine, RunsOnDevice)
        if self._pipeline is not None and self._pipeline.max_detections < max_detections:
            self._pipeline.close()
            self._pipeline = None
        if self._pipeline is None and not self._obstacle:
            how = self._manifest.postprocess
            max_detections = max(1, max_detections, how.max_detections if how is not None else 0)
            try:
                self._pipeline = DetectionPipeline(
                    engine, self._inputs, self._outputs, self._manifest, max_detections=max_detections
                )
            except (RunError, BackendUnavailable) as e:
                self._obstacle = f"frames are preprocessed and decoded on the CPU: {e.message}"
        return self._pipeline


class _Started:
    """A detection on the GPU that is in flight; see `Pending`."""

    def __init__(self, lock: threading.Lock, pipeline: DetectionPipeline, rows: PendingRows) -> None:
        self._lock = lock
        self._pipeline = pipeline
        self._rows = rows

    def done(self) -> bool:
        with self._lock:
            return self._pipeline.is_done(self._rows)

    def result(self) -> np.ndarray:
        with self._lock:
            return self._pipeline.collect(self._rows)
