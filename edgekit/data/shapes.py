"""Masks and key points of annotated objects, as annotation files have them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["ObjectShape", "corners_of_mask", "decoded_shape", "needed_shape", "scaled_shape"]

Needed = Literal["masks", "keypoints", ""]

# A polygon has three corners at least.
_LEAST_NUMBERS = 6


class ObjectShape(NamedTuple):
    """What an annotation says about an object beside its box.

    Attributes:
        mask: in COCO's form: polygons as lists ``[x1, y1, x2, y2, ...]``, or run lengths as a dictionary; JSON that is
            not decoded yet; or None.
        keypoints: ``(x1, y1, v1, x2, ...)``, where v is 0 for a point that is not annotated.
        area: in square px; 0 if the file does not have it.
    """

    mask: Any = None
    keypoints: tuple[float, ...] = ()
    area: float = 0.0


def needed_shape(task: Task | None) -> Needed:
    """Returns which shapes a task needs beside boxes: rotated boxes come from masks."""
    return "keypoints" if task == "pose" else "masks" if task in ("segment", "obb") else ""


def decoded_shape(shape: ObjectShape, where: str, size: tuple[int, int]) -> ObjectShape:
    """Decodes a mask that is still JSON, and checks it.

    Args:
        shape: the shape.
        where: location of the annotation, with which a message begins.
        size: width and height of the image in px.

    Raises:
        DataError: it is neither a list of polygons nor run lengths, or the run lengths are not those of the image.
    """
    if not isinstance(shape.mask, bytes):
        return shape
    try:
        mask = msgspec.json.decode(shape.mask)
    except msgspec.DecodeError as e:
        raise DataError(f"{where}: segmentation: expected JSON, got: {e}") from e
    if not (_is_polygons(mask) or _is_run_lengths(mask)):
        raise DataError(
            f"{where}: segmentation: expected polygons [[x1, y1, x2, y2, x3, y3, ...]] or run lengths with counts and "
            f"size, got {str(mask)[:60]}"
        )
    if isinstance(mask, dict):
        _require_size(mask, where, size)
    return shape._replace(mask=mask)


def corners_of_mask(mask: Any) -> tuple[float, float, float, float]:
    """Returns the corners ``(x1, y1, x2, y2)`` of the box around a mask, in px; without area if the mask has no pixel.

    Args:
        mask: polygons or run lengths that `decoded_shape` has checked. Run lengths count along the columns, and the
            first one is of pixels outside of the mask.
    """
    if isinstance(mask, list):
        points = np.concatenate([np.reshape(each, (-1, 2)) for each in mask])
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        return x1, y1, x2, y2
    height = mask["size"][0]
    counts = mask["counts"]
    edges = np.cumsum(_decompressed(counts) if isinstance(counts, str) else counts)
    starts, lasts = edges[: len(edges) // 2 * 2 : 2], edges[1::2] - 1
    starts, lasts = starts[starts <= lasts], lasts[starts <= lasts]
    if not len(starts):
        return 0.0, 0.0, 0.0, 0.0
    # A run that goes on in the next column has pixels in the last row and in the first.
    in_one_column = starts // height == lasts // height
    top = (starts % height).min() if in_one_column.all() else 0
    bottom = (lasts % height).max() + 1 if in_one_column.all() else height
    return float(starts[0] // height), float(top), float(lasts[-1] // height + 1), float(bottom)


def scaled_shape(shape: ObjectShape, width: int, height: int) -> ObjectShape:
    """Converts polygons and key points from fractions of the image to px."""
    polygons = shape.mask and [[n * (height if i % 2 else width) for i, n in enumerate(each)] for each in shape.mask]
    keypoints = tuple(n * (width, height, 1)[i % 3] for i, n in enumerate(shape.keypoints))
    return ObjectShape(polygons, keypoints, shape.area * width * height)


def _is_polygons(mask: Any) -> bool:
    return (
        isinstance(mask, list)
        and bool(mask)
        and all(isinstance(each, list) and len(each) >= _LEAST_NUMBERS and len(each) % 2 == 0 for each in mask)
        and all(isinstance(n, (int, float)) and math.isfinite(n) for each in mask for n in each)
    )


def _is_run_lengths(mask: Any) -> bool:
    if not isinstance(mask, dict) or not isinstance(mask.get("size"), list) or len(mask["size"]) != 2:
        return False
    counts = mask.get("counts")
    if not all(isinstance(side, int) and side > 0 for side in mask["size"]):
        return False
    if isinstance(counts, str):
        return bool(counts) and all("0" <= character <= "o" for character in counts)
    return isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts)


def _require_size(mask: dict[str, Any], where: str, size: tuple[int, int]) -> None:
    """Raises a `DataError` unless run lengths are those of an image of this width and height.

    Masks of another size overlap none in pycocotools, whose C code may not end on lengths that add up to another number
    of pixels.
    """
    width, height = size
    if mask["size"] != [height, width]:
        raise DataError(
            f"{where}: segmentation: expected run lengths with the size [{height}, {width}] of the image, height "
            f"first, got {mask['size']}"
        )
    counts = mask["counts"]
    lengths = _decompressed(counts) if isinstance(counts, str) else counts
    if min(lengths, default=-1) < 0 or sum(lengths) != width * height:
        raise DataError(
            f"{where}: segmentation: expected run lengths that add up to the {width * height:,} px of the image, got "
            f"{max(sum(lengths), 0):,}"
        )


def _decompressed(counts: str) -> list[int]:
    """Decodes the text of run lengths as pycocotools does (``rleFrString`` in ``maskApi.c``).

    A number has 5 bits a character, the lowest first, a bit that says whether another one follows, and the sign in its
    last one; from the fourth on, the length before the last is subtracted from each. A text that ends within a number
    has the length -1.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in counts:
        bits = ord(character) - ord("0")
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    return [*lengths, -1] if shift else lengths
