"""The common part of the tasks whose engines find objects: boxes, with masks, key points or angles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from edgekit.data.frames import Format
from edgekit.data.images import ImageSource, Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.kernels.decode.families import detect
from edgekit.kernels.suppression.suppress import check_thresholds
from edgekit.option import given_flags
from edgekit.recipe.heads import Head, task_of_head, with_multi_label
from edgekit.runtime.detections import Detections
from edgekit.runtime.draw import draw
from edgekit.runtime.pictures import Picture
from edgekit.runtime.stream import Pending
from edgekit.runtime.tasks.choose import require_task, task_of
from edgekit.runtime.tasks.task import ImageTask, OpenSession, Shown, Started

__all__ = ["MAX_CANDIDATES", "DetectorTask", "boxes_from_outputs", "detections_from_outputs"]

D = TypeVar("D", bound=Detections)

MAX_CANDIDATES = 30_000
"""Only so many of the best candidates are compared: their number is that of Ultralytics (``max_nms`` of
``non_max_suppression``). A threshold of 0 lets a million pass, whose suppression takes up to the square of that."""


@dataclass(frozen=True)
class _Options:
    """What is detected.

    Attributes:
        head: the family of the outputs, with the given ``multi_label``.
        score_threshold: only boxes with a greater score; 0 to 1.
        iou_threshold: maximum overlap of a detection with a better one of its class; 0 to 1.
        max_detections: maximum number of detections of an image.
    """

    head: Head
    score_threshold: float
    iou_threshold: float
    max_detections: int

    @property
    def thresholds(self) -> dict[str, Any]:
        return {
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "max_detections": self.max_detections,
        }


def detections_from_outputs(
    outputs: Mapping[str, np.ndarray],
    manifest: Manifest,
    placement: Placement,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    multi_label: bool | None = None,
) -> Detections:
    """Decodes outputs, applies non-maximum suppression, and maps boxes to the image; drops boxes outside of it.

    Args:
        outputs: the engine's outputs by name, for a batch of one image.
        manifest: has the decoder and the default thresholds.
        placement: placement of the image in the input.
        score_threshold: only detections with a greater score are returned; 0 to 1.
        iou_threshold: a box that overlaps a better one of its class by more is dropped; 0 to 1.
        max_detections: maximum number of detections.
        multi_label: every class of a box whose score passes is a detection; otherwise only the best one. Default: that
            of the head.

    Returns:
        The result type of the engine's task: `Detections`, or a subclass with masks, key points or angles.

    Raises:
        RunError: the engine is not a detector, or an output does not fit the manifest.
        UsageError: a threshold is out of range.
    """
    found: Detections = _detector(manifest).result(
        outputs,
        manifest,
        placement,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        multi_label=multi_label,
    )
    return found


def boxes_from_outputs(
    outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement, **options: Any
) -> Detections:
    """Returns the boxes of `detections_from_outputs` alone, which is faster; those around rotated boxes."""
    rows = _rows(outputs, placement, _options(manifest, **options))
    return _detector(manifest).boxes(rows, manifest, placement.size)


class DetectorTask(ImageTask[D]):
    """A task whose engines find objects; see `ImageTask`.

    Attributes:
        needs_outputs: results need more than boxes, scores, classes and angles, so the outputs are fetched from a GPU.
    """

    method = "use detect(), which takes an image"
    options = ("score_threshold", "iou_threshold", "multi_label")
    parameters = (*options, "max_detections")
    needs_outputs: ClassVar[bool] = False

    def predict(self, session: OpenSession, image: ImageSource, *, format: Format = "rgb", **options: Any) -> D:
        """See `Session.detect`."""
        require_task(self, session.manifest)
        started = self._on_device(session, image, format, options)
        if started is None:
            found = super().predict(session, image, format=format, **options)
        else:
            found = self.made_on_device(started.result(), session.manifest, Picture(image, format).size)
        return self.with_picture(found, image, format)

    def with_picture(self, result: D, image: ImageSource, format: Format) -> D:
        """See `ImageTask.with_picture`."""
        return result.with_picture(image, format)

    def start(self, session: OpenSession, image: ImageSource, *, format: Format = "rgb", **options: Any) -> Pending[D]:
        """See `Session.stream`; the result does not keep the image."""
        require_task(self, session.manifest)
        started = self._on_device(session, image, format, options)
        if started is None:
            return super().start(session, image, format=format, **options)
        size = Picture(image, format).size
        return Started(started, lambda rows: self.made_on_device(rows, session.manifest, size))

    def _on_device(
        self, session: OpenSession, image: ImageSource, format: Format, options: dict[str, Any]
    ) -> Pending[np.ndarray] | None:
        wanted = _options(session.manifest, **options)
        assert session.manifest.postprocess is not None  # checked by `_options`
        if self.needs_outputs or wanted.head != session.manifest.postprocess.head:
            return None
        return session.detect_on_device(image, format, **wanted.thresholds)

    def result(self, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement, **options: Any) -> D:
        """See `detections_from_outputs`."""
        wanted = _options(manifest, **options)
        if self.name not in ("detect", task_of_head(wanted.head)):
            raise RunError(
                f"'{manifest.name}': expected a head for task '{self.name}', got one for '{task_of_head(wanted.head)}'",
                hint="build the engine again",
            )
        return self.made(_rows(outputs, placement, wanted), outputs, manifest, placement)

    def boxes(self, rows: np.ndarray, manifest: Manifest, size: tuple[int, int]) -> Detections:
        """Converts `edgekit.kernels.decode.families.DETECTION` records in px of the image to plain detections.

        Args:
            rows: the records.
            manifest: has the names of the classes.
            size: width and height of the image in px.
        """
        boxes, scores, classes = (np.ascontiguousarray(rows[name]) for name in ("box", "score", "class"))
        return Detections(boxes, scores, classes.astype(np.int64), manifest.labels, size=size)

    def made_on_device(self, rows: np.ndarray, manifest: Manifest, size: tuple[int, int]) -> D:
        """Makes the result of records that were decoded on a GPU; for tasks without ``needs_outputs``."""
        raise AssertionError(f"results of task '{self.name}' are made of the outputs too: see `needs_outputs`")

    @abstractmethod
    def made(self, rows: np.ndarray, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement) -> D:
        """Makes the result of decoded records and the outputs that they come from."""

    def shown(self, result: D) -> Shown:
        """See `ImageTask.shown`."""
        count = f"{len(result)} object{'' if len(result) == 1 else 's'}"
        rows = [(each.label, f"{each.score:.3f}", *self.cells(each)) for each in result]
        return Shown(count, ("label", "score", *self.columns), rows)

    columns: ClassVar[tuple[str, ...]] = ("left", "top", "right", "bottom")

    def cells(self, each: Any) -> tuple[str, ...]:
        """Returns what is shown of an object, below the headings `columns`."""
        return tuple(f"{corner:.0f}" for corner in each.box)

    def entries(self, result: D, image: Path, image_id: int) -> list[dict[str, Any]]:
        """Returns a COCO results entry for each object, with file name and label, which COCO's tools ignore."""
        return [
            {**entry, "file_name": image.name, "label": label}
            for entry, label in zip(result.to_coco(image_id), result.labels, strict=True)
        ]

    def drawn(self, result: D, image: ImageSource) -> Image.Image:
        """See `ImageTask.drawn`."""
        return draw(image, result)


def _detector(manifest: Manifest) -> DetectorTask[Any]:
    task = task_of(manifest)
    if not isinstance(task, DetectorTask):
        raise _no_detector(manifest)
    return task


def _options(
    manifest: Manifest,
    *,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    max_detections: int | None = None,
    multi_label: bool | None = None,
) -> _Options:
    """Returns the given options, and those of the manifest where none is given.

    Raises:
        RunError: the engine is not a detector.
        UsageError: a threshold is out of range.
    """
    how = manifest.postprocess
    if how is None:
        raise _no_detector(manifest)
    if multi_label is not None:
        given_flags(multi_label=multi_label)
    found = _Options(
        with_multi_label(how.head, multi_label),
        how.score_threshold if score_threshold is None else score_threshold,
        how.iou_threshold if iou_threshold is None else iou_threshold,
        how.max_detections if max_detections is None else max_detections,
    )
    check_thresholds(found.score_threshold, found.iou_threshold, found.max_detections)
    return found


def _no_detector(manifest: Manifest) -> RunError:
    return RunError(f"'{manifest.name}': expected a detector, got an engine for task '{manifest.task}'")


def _rows(outputs: Mapping[str, np.ndarray], placement: Placement, wanted: _Options) -> np.ndarray:
    return detect(
        outputs,
        wanted.head,
        input_size=placement.input_size,
        scale=placement.scale,
        offset=placement.offset,
        size=placement.size,
        capacity=MAX_CANDIDATES,
        **wanted.thresholds,
    )
