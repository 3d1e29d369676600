"""Masks and key points of annotated objects, as annotation files have them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import msgspec

from edgekit.errors import DataError
from edgekit.recipe.schema import Task

__all__ = ["ObjectShape", "decoded_shape", "needed_shape", "scaled_shape"]

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


def decoded_shape(shape: ObjectShape, where: str) -> ObjectShape:
    """Decodes a mask that is still JSON, and checks it.

    Raises:
        DataError: it is neither a list of polygons nor run lengths; the message begins with ``where``.
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
    return shape._replace(mask=mask)


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
    counts, size = mask.get("counts"), mask["size"]
    if not all(isinstance(side, int) and side > 0 for side in size):
        return False
    if isinstance(counts, str):
        return bool(counts) and all("0" <= character <= "o" for character in counts)
    # The C code of pycocotools trusts that the lengths add up to the image.
    return (
        isinstance(counts, list)
        and all(isinstance(n, int) and n >= 0 for n in counts)
        and sum(counts) == size[0] * size[1]
    )
