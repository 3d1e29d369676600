"""Masks in the forms that COCO's files have: run lengths and polygons."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.kernels.masks.masks import Crop

__all__ = ["polygons_of_mask", "rle_of_mask"]

# A character of a compressed run length has five bits of the number, and one that says whether more follow.
_BITS = 5
_MORE = 1 << _BITS
_FIRST_CHARACTER = 48
# Differences of lengths need 33 bits at most.
_CHARACTERS = 7


def rle_of_mask(crop: Crop, size: tuple[int, int]) -> dict[str, Any]:
    """Converts a mask to COCO's compressed run lengths, as pycocotools' ``mask.encode`` writes them.

    Lengths of runs go down the columns, from left to right, and begin with one of zeros. From the fourth on, a length
    is stored as its difference from the second one before (https://github.com/cocodataset/cocoapi, ``maskApi.c``).

    Args:
        crop: the mask.
        size: width and height of the image in px.

    Returns:
        ``size``, as height and width, and ``counts``, a text.
    """
    (left, top, mask), (width, height) = crop, size
    columns = np.zeros((mask.shape[1], height), bool)
    columns[:, top : top + mask.shape[0]] = mask.T
    flat = columns.reshape(-1)
    inner = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = [0] if flat[:1].any() else [], [len(flat)] if flat[-1:].any() else []
    changes = np.concatenate([ends[0], inner, ends[1]]).astype(np.int64) + left * height
    lengths = np.diff(changes, prepend=0, append=width * height)
    # A mask that ends at the last pixel has no zeros after it, and an empty one only zeros.
    if len(lengths) > 1 and not lengths[-1]:
        lengths = lengths[:-1]
    return {"size": [height, width], "counts": _compressed(lengths)}


def polygons_of_mask(crop: Crop) -> list[np.ndarray]:
    """Returns the outer outlines of a mask, in px of the image, along the edges of pixels.

    Parts that only touch at a corner have an outline each. Holes are filled, since COCO's polygons have none. Pixels
    whose centers lie inside are those of the filled mask.

    Returns:
        Corners of each outline, clockwise, from its upper left one; float32, shape ``(K, 2)``.
    """
    padded = np.pad(crop.mask, 1)
    above_left, above_right, below_left, below_right = (
        padded[:-1, :-1],
        padded[:-1, 1:],
        padded[1:, :-1],
        padded[1:, 1:],
    )
    odd = above_left ^ above_right ^ below_left ^ below_right
    crossed = (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    # Where two diagonal pixels touch, there are two corners.
    y, x = np.nonzero(odd | crossed)
    twice = crossed[y, x]
    y, x, twice = (array.repeat(1 + twice) for array in (y, x, twice))
    second = np.zeros(len(x), bool)
    second[1:] = twice[1:] & (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    # Along a row, edges join corners 0 and 1, 2 and 3, and so on; along a column too. Of two corners in one place, the
    # first has the edge to the left; it has the edge upwards if the pixel above to the left is in the mask.
    down = np.lexsort((second ^ (twice & above_right[y, x]), y, x))
    beside = np.arange(len(x)) ^ 1
    below = np.empty(len(x), np.int64)
    below[down] = down[np.arange(len(x)) ^ 1]
    return _loops(np.column_stack([x + crop.left, y + crop.top]), beside.tolist(), below.tolist(), below_right[y, x])


def _loops(corners: np.ndarray, beside: list[int], below: list[int], filled: np.ndarray) -> list[np.ndarray]:
    """Follows edges from corner to corner; a loop whose upper left corner is not filled is a hole."""
    found, seen = [], np.zeros(len(corners), bool)
    for start in range(len(corners)):
        if seen[start]:
            continue
        loop, at = [], start
        while True:
            loop += [at, beside[at]]
            at = below[beside[at]]
            if at == start:
                break
        seen[loop] = True
        if filled[start]:
            found.append(corners[loop].astype(np.float32))
    return found


def _compressed(lengths: np.ndarray) -> str:
    numbers = lengths.astype(np.int64)
    numbers[3:] -= lengths[1:-2]
    shifted = numbers[:, None] >> (_BITS * np.arange(_CHARACTERS))
    digits, rest = shifted & (_MORE - 1), shifted >> _BITS
    # The last character's highest bit is the sign.
    done = rest == np.where(digits & (_MORE >> 1), -1, 0)
    last = done.argmax(axis=1)[:, None]
    place = np.arange(_CHARACTERS)
    characters = digits + _MORE * (place < last) + _FIRST_CHARACTER
    text: bytes = characters[place <= last].astype(np.uint8).tobytes()
    return text.decode("ascii")
