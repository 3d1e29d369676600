"""Results of detectors: boxes with scores and labels, and masks, key points or angles of the same objects."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, overload

import numpy as np
from PIL import Image

from edgekit.data.coco import COCO_CATEGORY_IDS, is_coco
from edgekit.data.frames import Format
from edgekit.data.images import ImageSource
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.kernels.masks.masks import Crop, whole_masks
from edgekit.runtime.draw import draw
from edgekit.runtime.outlines import polygons_of_mask, rle_of_mask
from edgekit.runtime.pictures import Picture, data_address, save_image
from edgekit.text import html_text

__all__ = [
    "Detection",
    "Detections",
    "Pose",
    "Poses",
    "RotatedDetection",
    "RotatedDetections",
    "Segment",
    "Segments",
    "corners_of_rotated",
]

Corners = tuple[float, float, float, float]
D = TypeVar("D", bound="Detections")

# What a notebook shows of a result.
_HTML_SIDE, _HTML_QUALITY, _HTML_ROWS = 640, 80, 20


class Detection(NamedTuple):
    """A detected object: its label, its score and its corners ``(x1, y1, x2, y2)`` in px of the image."""

    label: str
    score: float
    box: Corners


class Segment(NamedTuple):
    """A detected object with its mask, at the size of the image; bool, shape ``(H, W)``."""

    label: str
    score: float
    box: Corners
    mask: np.ndarray


class Pose(NamedTuple):
    """A detected object with its key points, as x and y in px of the image and visibility; float32, ``(K, 3)``."""

    label: str
    score: float
    box: Corners
    keypoints: np.ndarray


class RotatedDetection(NamedTuple):
    """A detected object with its rotated box.

    ``box`` has the corners of the upright rectangle around it; ``rotated`` has center x, center y, width and height in
    px of the image, and the angle of the width in radians, clockwise from the x axis.
    """

    label: str
    score: float
    box: Corners
    rotated: tuple[float, float, float, float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The detected objects in one image, best first.

    ``detections[0]`` is one object; a slice, a bool array or an array of indices selects some, with the same type.

    Attributes:
        boxes: corners ``(x1, y1, x2, y2)`` in px of the image; float32, shape ``(N, 4)``.
        scores: float32, shape ``(N,)``.
        classes: int64, shape ``(N,)``.
        names: names of all classes of the model; may be empty.
        size: width and height of the image in px; ``(0, 0)`` if it is not known.
        picture: the image, as it was given to `Session.predict`; an array is not copied.
        tracks: number of the object that each box belongs to, the same in all frames of a video, from 1; int64, shape
            ``(N,)``. None if objects are not tracked.

    Raises:
        UsageError: the arrays have different lengths.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...] = ()
    size: tuple[int, int] = field(default=(0, 0), kw_only=True)
    picture: Picture | None = field(default=None, kw_only=True)
    tracks: np.ndarray | None = field(default=None, kw_only=True)

    _columns: ClassVar[tuple[str, ...]] = ("boxes", "scores", "classes")
    _noun: ClassVar[str] = "object"

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in self._columns}
        if len(set(lengths.values())) > 1 or np.shape(self.boxes)[1:] != (4,):
            got = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise UsageError(
                f"{type(self).__name__}: expected boxes (N, 4) and one value per box in each array, got boxes "
                f"{np.shape(self.boxes)} and the lengths {got}"
            )

    @property
    def labels(self) -> list[str]:
        """The class name of each object, or the class index if the model has no class names."""
        return [self.names[c] if c < len(self.names) else str(c) for c in self.classes.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Any]:
        return (self._object(i, label) for i, label in enumerate(self.labels))

    @overload
    def __getitem__(self: D, index: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> D: ...
    @overload
    def __getitem__(self, index: int) -> Any: ...

    def __getitem__(self: D, index: Any) -> Any:
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            place = range(len(self))[index]
            return self._object(place, self[place : place + 1].labels[0])
        chosen = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index, _index_type(index))]
        columns = (*self._columns, *(() if self.tracks is None else ("tracks",)))
        return dataclasses.replace(self, **{name: _chosen(getattr(self, name), chosen) for name in columns})

    def __repr__(self) -> str:
        kinds = ", ".join(f"{count} {label}" for label, count in Counter(self.labels).items())
        count = f"{len(self)} {self._noun}{'' if len(self) == 1 else 's'}"
        where = f" in {self.size[0]} x {self.size[1]} px" if self.size != (0, 0) else ""
        return f"<{type(self).__name__}: {count}{where}{f': {kinds}' if kinds else ''}>"

    def plot(self, image: ImageSource | None = None) -> Image.Image:
        """Returns a copy of the picture with the objects drawn into it; see `edgekit.runtime.draw.draw`.

        Args:
            image: the picture; default: the one that the result was made from. An array that was changed since is
                drawn as it is now.

        Raises:
            DataError: the picture cannot be read.
            UsageError: the result does not know its picture.
        """
        picture = self.picture if image is None else Picture(image)
        if picture is None:
            raise UsageError(
                "plot: expected a picture, got a result that was made without one, as by stream() or postprocess()",
                hint="pass it: plot(image)",
            )
        return draw(picture.rgb(), self)

    def save(self, path: str | Path, image: ImageSource | None = None) -> Path:
        """Writes the picture with the objects drawn into it, and returns the path; see `plot`.

        Raises:
            DataError: the picture cannot be read.
            UsageError: the suffix is not that of an image format, the file cannot be written, or the result does not
                know its picture.
        """
        return save_image(self.plot(image), path)

    def with_picture(self: D, source: ImageSource, format: Format = "rgb") -> D:
        """Returns the same result, which knows the picture that it was made from."""
        return dataclasses.replace(self, picture=Picture(source, format))

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Converts the objects to entries of a COCO results file (https://cocodataset.org/#format-results).

        Category ids are COCO's own, 1 to 90 with gaps, if the model has COCO's 80 classes in order, with COCO's names
        or Darknet's; otherwise they are the class indices plus 1.

        Args:
            image_id: the image's id in the annotation file.

        Returns:
            One dictionary for each object: ``image_id``, ``category_id``, ``bbox`` as ``[x, y, width, height]`` in px
            of the image, ``score``; for masks and rotated boxes ``segmentation``, for key points ``keypoints``; with
            plain Python numbers, for `json`.
        """
        ids = COCO_CATEGORY_IDS if is_coco(self.names) else range(1, int(self.classes.max(initial=0)) + 2)
        corners = self.boxes.astype(np.float64)
        bboxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
        rows = zip(self.classes.tolist(), bboxes.tolist(), self.scores.tolist(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": ids[kind],
                "bbox": bbox,
                "score": round(score, 6),
                **self._coco_fields(i),
                **({} if self.tracks is None else {"track": int(self.tracks[i])}),
            }
            for i, (kind, bbox, score) in enumerate(rows)
        ]

    def to_supervision(self) -> Any:
        """Converts the objects to ``supervision.Detections``; poses to ``supervision.KeyPoints``.

        Masks become ``mask``, and the corners of rotated boxes ``data["xyxyxyxy"]``.

        Raises:
            BackendUnavailable: the package supervision is not installed.
        """
        return self._supervision(_imported_supervision(), {"class_name": np.array(self.labels, dtype=str)})

    def _repr_html_(self) -> str:
        shown = ""
        if self.picture is not None:
            address, (width, height) = data_address(self.plot(), max_side=_HTML_SIDE, quality=_HTML_QUALITY)
            shown = f'<img src="{address}" width="{width}" height="{height}" alt="{html_text(repr(self))}">'
        heading = "".join(f"<th>{name}</th>" for name in ("label", "score", "left", "top", "right", "bottom"))
        rows = "".join(
            f"<tr><td>{html_text(each.label)}</td><td>{each.score:.3f}</td>"
            f"{''.join(f'<td>{side:.0f}</td>' for side in each.box)}</tr>"
            for each in self[:_HTML_ROWS]
        )
        rest = f"<p>and {len(self) - _HTML_ROWS} more</p>" if len(self) > _HTML_ROWS else ""
        return f"<div><p>{html_text(repr(self))}</p>{shown}<table><tr>{heading}</tr>{rows}</table>{rest}</div>"

    def _box(self, index: int) -> tuple[float, Corners]:
        x1, y1, x2, y2 = self.boxes[index].tolist()
        return float(self.scores[index]), (x1, y1, x2, y2)

    def _object(self, index: int, label: str) -> Any:
        return Detection(label, *self._box(index))

    def _coco_fields(self, index: int) -> dict[str, Any]:
        return {}

    def _supervision(self, package: Any, data: dict[str, np.ndarray], mask: np.ndarray | None = None) -> Any:
        return package.Detections(
            xyxy=self.boxes, mask=mask, confidence=self.scores, class_id=self.classes.astype(int), data=data
        )


@dataclass(frozen=True, eq=False, repr=False)
class Segments(Detections):
    """The detected objects in one image with their masks, best first.

    Attributes:
        crops: the part of each mask inside its box, which takes less memory than `masks`.
    """

    crops: tuple[Crop, ...] = field(default=(), kw_only=True)

    _columns: ClassVar[tuple[str, ...]] = (*Detections._columns, "crops")

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """The masks at the size of the image; bool, shape ``(N, H, W)``."""
        return whole_masks(self.crops, self.size)

    def rle(self) -> list[dict[str, Any]]:
        """The masks in COCO's compressed run-length form, as pycocotools encodes them; ``counts`` is a text."""
        return [rle_of_mask(crop, self.size) for crop in self.crops]

    def polygons(self) -> list[list[np.ndarray]]:
        """The outer outlines of each mask; see `edgekit.runtime.outlines.polygons_of_mask`."""
        return [polygons_of_mask(crop) for crop in self.crops]

    def _object(self, index: int, label: str) -> Segment:
        return Segment(label, *self._box(index), whole_masks(self.crops[index : index + 1], self.size)[0])

    def _coco_fields(self, index: int) -> dict[str, Any]:
        return {"segmentation": rle_of_mask(self.crops[index], self.size)}

    def _supervision(self, package: Any, data: dict[str, np.ndarray], mask: np.ndarray | None = None) -> Any:
        return super()._supervision(package, data, self.masks)


@dataclass(frozen=True, eq=False, repr=False)
class Poses(Detections):
    """The detected objects in one image with their key points, best first.

    Attributes:
        keypoints: x and y in px of the image, inside it, and visibility in 0..1; float32, shape ``(N, K, 3)``. The
            visibility is 1 if the model has none.
    """

    keypoints: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32), kw_only=True)

    _columns: ClassVar[tuple[str, ...]] = (*Detections._columns, "keypoints")

    def _object(self, index: int, label: str) -> Pose:
        return Pose(label, *self._box(index), self.keypoints[index])

    def _coco_fields(self, index: int) -> dict[str, Any]:
        return {"keypoints": self.keypoints[index].astype(np.float64).round(3).reshape(-1).tolist()}

    def _supervision(self, package: Any, data: dict[str, np.ndarray], mask: np.ndarray | None = None) -> Any:
        # By position, since the name of the third parameter differs between versions.
        return package.KeyPoints(self.keypoints[..., :2], self.classes.astype(int), self.keypoints[..., 2], data=data)


@dataclass(frozen=True, eq=False, repr=False)
class RotatedDetections(Detections):
    """The detected objects in one image with their rotated boxes, best first.

    `boxes` has the upright rectangles around them, which may reach beyond the image.

    Attributes:
        rotated: center x, center y, width and height in px of the image, and the angle of the width in radians,
            clockwise from the x axis; float32, shape ``(N, 5)``.
    """

    rotated: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32), kw_only=True)

    _columns: ClassVar[tuple[str, ...]] = (*Detections._columns, "rotated")

    @property
    def corners(self) -> np.ndarray:
        """The corners of the rotated boxes in px of the image, in order around the box; float32, ``(N, 4, 2)``."""
        return corners_of_rotated(self.rotated)

    def _object(self, index: int, label: str) -> RotatedDetection:
        x, y, width, height, angle = self.rotated[index].tolist()
        return RotatedDetection(label, *self._box(index), (x, y, width, height, angle))

    def _coco_fields(self, index: int) -> dict[str, Any]:
        outline = corners_of_rotated(self.rotated[index : index + 1]).astype(np.float64).round(3)
        return {"segmentation": outline.reshape(1, 8).tolist(), "rotated": self.rotated[index].tolist()}

    def _supervision(self, package: Any, data: dict[str, np.ndarray], mask: np.ndarray | None = None) -> Any:
        return super()._supervision(package, {**data, "xyxyxyxy": self.corners})


def corners_of_rotated(rotated: np.ndarray) -> np.ndarray:
    """Returns the corners of rotated boxes, from that at the end of width and height on, around the box.

    Args:
        rotated: center x, center y, width, height and angle in radians, shape ``(N, 5)``.

    Returns:
        float32, shape ``(N, 4, 2)``.
    """
    center, angle = rotated[:, None, :2].astype(np.float64), rotated[:, 4].astype(np.float64)
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rotated[:, 2:3] / 2
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * rotated[:, 3:4] / 2
    sides = np.stack([along + across, along - across, -along - across, across - along], axis=1)
    corners: np.ndarray = (center + sides).astype(np.float32)
    return corners


def _index_type(index: Any) -> type[np.int64] | None:
    """Returns the type that an empty list of indices needs."""
    return np.int64 if isinstance(index, Sequence) and not index else None


def _chosen(column: Any, chosen: np.ndarray) -> Any:
    return tuple(column[i] for i in chosen.tolist()) if isinstance(column, tuple) else column[chosen]


def _imported_supervision() -> Any:
    try:
        import supervision
    except ImportError as e:
        raise BackendUnavailable(
            f"to_supervision: expected the package supervision, got: {e}", hint="pip install supervision"
        ) from e
    return supervision
