"""Writes what ``edgekit run`` has found as YOLO's text files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgekit.cli.run.items import Item
from edgekit.cli.terminal import say_written
from edgekit.data.video.source import Source
from edgekit.errors import UsageError
from edgekit.runtime.detections import Detections, Poses, RotatedDetections, Segments

__all__ = ["YoloText", "check_text_folder"]


def check_text_folder(folder: Path, *, force: bool) -> None:
    """Checks the folder of `YoloText`: it may hold labels that somebody has drawn.

    Raises:
        UsageError: it is a file, or has text files and ``force`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--save-txt {folder}: expected a folder, got a file", hint="name a new folder")
    if not force and folder.is_dir() and any(folder.rglob("*.txt")):
        raise UsageError(
            f"--save-txt {folder}: expected a folder without text files, which could be replaced, got one with some",
            hint="choose another folder, or replace them with --force",
        )


class YoloText:
    """Writes the objects of each frame to a text file in YOLO's form, as data sets have them.

    A line is the class, then center x, center y, width and height of the box; of a mask, the points of its largest
    outline; of a rotated box, its four corners; of a pose, the box, then x, y and visibility of each key point. Places
    are relative to the size of the image. The number of the track follows, if objects are tracked. A frame without
    objects has an empty file.

    Args:
        folder: where to write; the names of files are those of the pictures, or of the video and the frame.
        places: the sources' paths below the folder, by the names of the sources.
    """

    def __init__(self, folder: Path, places: Mapping[str, Path]) -> None:
        self._folder = folder
        self._places = places

    def add(self, item: Item) -> None:
        """See `Output.add`."""
        place = self._folder / self._places[item.frame.source]
        name = place.stem if item.is_picture else f"{place.stem}_{item.frame.index:06d}"
        path = place.with_name(f"{name}.txt")
        height, width = item.frame.pixels.shape[:2]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_lines(item.result, np.array([width, height]))), encoding="utf-8")
        except OSError as e:
            raise UsageError(f"--save-txt {path}: cannot be written: {e.strerror}", hint="choose another folder") from e

    def end(self, source: Source) -> None:
        """See `Output.end`."""

    def close(self) -> None:
        """Says where the files are."""
        say_written(self._folder, replaced=False)


def _lines(found: Detections, size: np.ndarray) -> Iterator[str]:
    """Yields a line for each object; ``size`` is the width and height of the image in px."""
    tracks = [""] * len(found) if found.tracks is None else [f" {track}" for track in found.tracks.tolist()]
    rows = zip(found.classes.tolist(), _numbers(found, size), tracks, strict=True)
    for kind, numbers, track in rows:
        yield f"{kind} {' '.join(f'{number:.6f}' for number in numbers.tolist())}{track}\n"


def _numbers(found: Detections, size: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the numbers of each object; shape ``(K,)``."""
    if isinstance(found, Segments):
        for outlines, box in zip(found.polygons(), found.boxes, strict=True):
            # A mask of less than a pixel has no outline.
            points = max(outlines, key=_area, default=box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2))
            yield (points / size).reshape(-1)
        return
    if isinstance(found, RotatedDetections):
        yield from (found.corners / size).reshape(len(found), 8)
        return
    corners = found.boxes.astype(np.float64) / np.tile(size, 2)
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    if isinstance(found, Poses):
        keypoints = found.keypoints / (*size, 1)
        boxes = np.concatenate([boxes, keypoints.reshape(len(found), -1)], axis=1)
    yield from boxes


def _area(outline: np.ndarray) -> float:
    """Returns the area that an outline encloses, by the shoelace formula; ``outline`` has the shape ``(K, 2)``."""
    x, y = outline[:, 0].astype(np.float64), outline[:, 1].astype(np.float64)
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
