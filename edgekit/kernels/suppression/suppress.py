"""Fast non-maximum suppression on the CPU, with the same results as `edgekit.kernels.suppression.reference.nms`.

A compiled library for this machine does it, see `edgekit.kernels.host`, or else numpy.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from edgekit.kernels import host
from edgekit.kernels.suppression.nearby import Circles, Nearby
from edgekit.kernels.suppression.suppress_rotated import kept_rotated
from edgekit.limits import MAX_COUNT
from edgekit.option import given_number, given_real

__all__ = ["Overlap", "check_thresholds", "nms"]

Overlap = Literal["corners", "rotated", "probiou"]
"""Intersection over union of boxes with corners; of rotated boxes; or of rotated boxes as Gaussians."""

# Candidates are taken best first in blocks of at most so many: most images reach `max_detections` within a few hundred.
_BLOCK = 4096
# Pairs of boxes that are compared at once: few enough that the arrays stay in the cache of one core.
_PAIRS = 32768
# Pairs per round to aim for: more heads per round save numpy calls, but compare more boxes that another head removes.
_ROUND = 8192
# When rounds have compared so many pairs and could compare as many more, few boxes overlap. Those that are left are
# then sorted by their place, and compared with those nearby only.
_MANY = 1 << 20
# Boxes whose neighbors are looked up at once, first.
_LOOKED_UP = 64
# Area of a box that has none: avoids 0 / 0, and is lost in a sum with any other product of two float32 numbers.
_NO_AREA = 5e-324

_KEPT_WORDS = 7  # size of `Kept` in greedy.c, in 8 bytes


class _Limit(NamedTuple):
    """What boxes may overlap; see `nms`."""

    iou_threshold: float
    diou_beta: float


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    overlap: Overlap = "corners",
    fast: bool = False,
    diou_beta: float = 0.0,
) -> np.ndarray:
    """Selects boxes by class-aware greedy suppression, by the rules of `edgekit.kernels.suppression.reference.nms`.

    Args:
        boxes: corners ``(x1, y1, x2, y2)``; float32, shape ``(M, 4)``. Rotated boxes are ``(center x, center y, width,
            height, angle)``, shape ``(M, 5)``, the angle in radians.
        scores: float32, shape ``(M,)``.
        classes: integers, shape ``(M,)``.
        score_threshold: only boxes with a greater score are kept; 0 to 1.
        iou_threshold: maximum overlap of a kept box with a better box of its class; 0 to 1.
        max_detections: maximum number of kept boxes.
        overlap: how much two boxes overlap.
        fast: a rotated box is dropped for any better one that it overlaps, as in Ultralytics; otherwise only for one
            that is kept.
        diou_beta: exponent of the distance term of DIoU, see `edgekit.kernels.suppression.reference.diou`, for boxes
            with corners; 0 for intersection over union alone.

    Returns:
        Indices of the kept candidates, best first; int64, shape ``(K,)``.

    Raises:
        UsageError: a threshold is not between 0 and 1, or ``max_detections`` is no whole number from 0 on.
    """
    check_thresholds(score_threshold, iou_threshold, max_detections)
    classes, function = np.asarray(classes), _compiled()
    if overlap != "corners":
        order = _best_first(scores, score_threshold)
        order = order[np.isfinite(boxes[order]).all(axis=1)]
        kept: np.ndarray = order[
            kept_rotated(boxes[order], classes[order], overlap, iou_threshold, max_detections, fast)
        ]
        return kept
    # The library trusts its arguments; numpy takes other types too, and raises an error for shapes that do not fit.
    fits = boxes.shape == (len(scores), 4) and classes.shape == (len(scores),)
    if function and not diou_beta and fits and boxes.dtype == scores.dtype == np.float32 and classes.dtype.kind in "iu":
        return _nms_compiled(function, boxes, scores, classes, score_threshold, iou_threshold, max_detections)
    limit = _Limit(iou_threshold, diou_beta)
    return _nms_numpy(_best_first(scores, score_threshold), boxes, classes, limit, max_detections)


def check_thresholds(score_threshold: float, iou_threshold: float, max_detections: int) -> None:
    """Raises `UsageError` for a threshold that is not between 0 and 1, or a negative number of detections."""
    given_real("score_threshold", score_threshold, 0, 1)
    given_real("iou_threshold", iou_threshold, 0, 1)
    given_number("max_detections", max_detections, 0, MAX_COUNT)


def _best_first(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the indices of scores above the threshold, by descending score, ties by lower index; int64."""
    scores = np.asarray(scores, np.float32)
    passing = (scores > np.float32(threshold)).nonzero()[0]
    # The bits of positive float32 numbers have the order of the numbers. With the index in the low half, keys are
    # unique, so that the default sort, which is faster than the stable one, gives the same order.
    key = scores[passing].view(np.int32).astype(np.int64)
    key *= -(1 << 32)
    key += passing
    key.sort()
    key &= 0xFFFFFFFF
    return key


@functools.cache
def _compiled() -> Callable[..., int] | None:
    """Returns the function of greedy.c, or None if there is no library for this system."""
    library = host.library("nms")
    if library is None:
        return None
    address, number = ctypes.c_void_p, ctypes.c_int64
    function: Callable[..., int] = library.edgekit_nms
    function.argtypes = [  # type: ignore[attr-defined]
        *(address, address, address, number, ctypes.c_float, ctypes.c_double, number, address, address, address)
    ]
    function.restype = number  # type: ignore[attr-defined]
    return function


def _nms_compiled(
    function: Callable[..., int],
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> np.ndarray:
    count = len(scores)
    most = min(int(max_detections), count)
    arrays = np.ascontiguousarray(boxes), np.ascontiguousarray(scores), np.ascontiguousarray(classes, np.int64)
    room = np.empty(most * (1 + _KEPT_WORDS) + count, np.int64)
    selected = room.ctypes.data
    work = selected + 8 * most
    heap = work + 8 * _KEPT_WORDS * most
    addresses = [array.ctypes.data for array in arrays]
    found = function(*addresses, count, score_threshold, iou_threshold, most, selected, work, heap)
    return room[:found].copy()


def _nms_numpy(
    order: np.ndarray, boxes: np.ndarray, classes: np.ndarray, limit: _Limit, max_detections: int
) -> np.ndarray:
    """Takes candidates in blocks, so that those after the last kept one cost nothing; ``order`` is best first."""
    kept = order[:0]
    done, size = 0, min(max_detections + 64, _BLOCK)
    if len(order) < 2 * size:
        size = len(order)
    while done < len(order) and len(kept) < max_detections:
        kept = _extended(kept, order[done : done + size], boxes, classes, limit)
        done += size
        # As many more as should be enough, if the same share of them is kept.
        missing = (max_detections - len(kept)) * done / max(len(kept), 1)
        size = int(min(32 + 1.25 * missing, 4 * done, _BLOCK))
    return kept[:max_detections]


def _extended(kept: np.ndarray, block: np.ndarray, boxes: np.ndarray, classes: np.ndarray, limit: _Limit) -> np.ndarray:
    """Returns the kept indices, and those of the next block of candidates that are to be kept."""
    corners = boxes[block]
    finite = np.isfinite(corners)
    if not finite.all():
        block = block[finite.all(axis=1)]
    indices = np.concatenate([kept, block])
    kinds = classes[indices]
    by_class = kinds.argsort(kind="stable")
    corners = boxes[indices[by_class]].T.astype(np.float64, order="C")
    np.negative(corners[:2], out=corners[:2])
    decided = by_class < len(kept)
    best = by_class[_keep_within_classes(corners, kinds[by_class], decided, limit)]
    best.sort()
    result: np.ndarray = indices[best]
    return result


def _keep_within_classes(corners: np.ndarray, kinds: np.ndarray, decided: np.ndarray, limit: _Limit) -> np.ndarray:
    """Returns a bool mask of the boxes to keep.

    In rounds: the best few boxes of every class, its heads, are compared with all worse boxes of the class. Then
    greedy suppression is finished for the heads, and the next round only has the others that no kept head suppresses.

    Args:
        corners: ``-x1``, ``-y1``, ``x2``, ``y2`` of boxes, sorted by class, best first; float64, shape ``(4, N)``.
        kinds: the classes, shape ``(N,)``.
        decided: bool mask of boxes that are known to be kept, the first ones of their classes.
        limit: the maximum overlap.
    """
    sizes = np.maximum(corners[:2] + corners[2:], 0)
    areas = np.maximum(sizes[0] * sizes[1], _NO_AREA)
    alive = bytearray(b"\1") * len(kinds)
    mask = np.frombuffer(alive, np.bool_)
    left = np.arange(len(kinds))  # boxes of this round
    compared = 0
    while len(left):
        number = len(left)
        stops = np.append((kinds[1:] != kinds[:-1]).nonzero()[0] + 1, number)  # ends of the classes
        counts = np.diff(stops, prepend=0)
        stop, start = stops.repeat(counts), (stops - counts).repeat(counts)
        known = np.add.reduceat(decided, stops - counts, dtype=np.int64).repeat(counts)
        position = np.arange(number)
        is_head = position - start < known + max(1, _ROUND // number)
        heads = is_head.nonzero()[0]
        first = np.maximum(position + 1, start + known)[heads]  # boxes that are kept already need no comparison
        compared += int((stop[heads] - first).sum())
        if compared > _MANY and _pairs_at_most(stops, decided) > _MANY:
            mask[left] = _kept_by_place(corners[:, left], areas[left], kinds, decided, limit)
            break
        for a, b in _pairs(heads, first, stop[heads] - first):
            hits = _overlapping(corners, areas, left[a], left[b], limit)
            _sweep(alive, mask, left[a[hits]], left[b[hits]])
        rest = (mask[left] & ~is_head).nonzero()[0]
        left, kinds, decided = left[rest], kinds[rest], np.zeros(len(rest), bool)
    return mask


def _pairs_at_most(stops: np.ndarray, decided: np.ndarray) -> int:
    """Returns the number of pairs of a box and a worse one of its class that is not known to be kept.

    ``stops`` are the ends of the classes.
    """
    sizes = np.diff(stops, prepend=0)
    known = np.add.reduceat(decided, stops - sizes, dtype=np.int64)
    unknown = sizes - known
    return int((unknown * known + unknown * (unknown - 1) // 2).sum())


def _kept_by_place(
    corners: np.ndarray,
    areas: np.ndarray,
    kinds: np.ndarray,
    decided: np.ndarray,
    limit: _Limit,
) -> np.ndarray:
    """Returns a bool mask of the boxes to keep, as `_keep_within_classes` does.

    Boxes that overlap are in circles that touch. Suppression goes through the boxes in order, some at once, and looks
    for the worse ones that are near each.
    """
    alive = bytearray(b"\1") * len(kinds)
    mask = np.frombuffer(alive, np.bool_)
    found = Circles((corners[2:] - corners[:2]).T / 2, np.hypot(*(corners[:2] + corners[2:])) / 2, kinds)
    others = np.flatnonzero(~decided)
    places = Nearby(found.at(others))
    done, size = 0, _LOOKED_UP
    while done < len(kinds):
        heads = np.arange(done, min(done + size, len(kinds)))
        heads = heads[mask[heads]]
        done += size
        rows, columns = places.pairs(found.at(heads))
        first, second = heads[rows], others[columns]
        worse = ((second > first) & mask[second]).nonzero()[0]
        worse = worse[first[worse].argsort(kind="stable")]
        first, second = first[worse], second[worse]
        for start in range(0, len(first), _PAIRS):
            a, b = first[start : start + _PAIRS], second[start : start + _PAIRS]
            hits = _overlapping(corners, areas, a, b, limit)
            _sweep(alive, mask, a[hits], b[hits])
        # So many more that the arrays stay in the cache, if they have as many neighbors each.
        size = int(min(max(_PAIRS * len(heads) // max(len(rows), 1), _LOOKED_UP // 2), 4 * size, _BLOCK))
    return mask


def _pairs(heads: np.ndarray, first: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs ``heads[i]`` with each of the ``counts[i]`` numbers from ``first[i]`` on; about `_PAIRS` at once."""
    ends = counts.cumsum()
    start = before = 0
    while start < len(heads):
        stop = max(start + 1, int(ends.searchsorted(before + _PAIRS, "right")))
        part, number = slice(start, stop), counts[start:stop]
        shift = (first - ends + counts)[part].repeat(number)
        yield heads[part].repeat(number), shift + np.arange(before, before + len(shift))
        start, before = stop, before + len(shift)


def _sweep(alive: bytearray, mask: np.ndarray, heads: np.ndarray, others: np.ndarray) -> None:
    """Clears each ``others[i]`` whose ``heads[i]`` is alive, in order; ``mask`` is a view of the bytes of ``alive``.

    Pairs with the same head are neighbors, so there is one step per head. Bytes are faster to test than numpy's bools.
    """
    starts = np.flatnonzero(np.diff(heads, prepend=-1))
    stops = [*starts[1:].tolist(), len(heads)] if len(heads) else []
    for start, stop, head in zip(starts.tolist(), stops, heads[starts].tolist(), strict=True):
        if alive[head]:
            mask[others[start:stop]] = False


def _overlapping(corners: np.ndarray, areas: np.ndarray, a: np.ndarray, b: np.ndarray, limit: _Limit) -> np.ndarray:
    """Returns the positions of the pairs ``(a[i], b[i])`` that overlap by more than the threshold."""
    first, second = corners.take(a, axis=1), corners.take(b, axis=1)
    # With the first corner negated, one minimum finds both corners of the intersection.
    inner = np.minimum(first, second)
    sizes = inner[:2]
    sizes += inner[2:]
    np.maximum(sizes, 0, out=sizes)
    intersection = sizes[0] * sizes[1]
    union = areas.take(a)
    union += areas.take(b)
    union -= intersection
    intersection /= union
    if limit.diou_beta:
        intersection -= _distances(first, second) ** limit.diou_beta
    hits: np.ndarray = (intersection > limit.iou_threshold).nonzero()[0]
    return hits


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the squared distance of centers in squared diagonals of the smallest box around both, as DIoU has it."""
    outer = np.maximum(first, second)
    diagonals = np.square(outer[:2] + outer[2:]).sum(axis=0)
    offsets = (first[2:] - first[:2] - second[2:] + second[:2]) / 2
    distances = np.square(offsets).sum(axis=0)
    # Two points at one place have no diagonal, and no distance.
    shares: np.ndarray = np.divide(distances, diagonals, out=np.zeros_like(distances), where=diagonals > 0)
    return shares
