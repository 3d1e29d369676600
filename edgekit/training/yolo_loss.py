"""The losses of YOLOv2 and v3, as their papers and, where these are silent, their authors' code have them.

Each is two steps. *Assigning* compares predictions with the truth and says what every number should have been: it
chooses, so nothing is differentiated. The *loss* is a plain formula of the raw outputs and what was assigned.
All boxes are in px of the model's input; losses are sums over a picture, and means over the pictures of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from edgekit.kernels.decode.limits import MAX_EXPONENT
from edgekit.recipe.schema import YoloHead

__all__ = [
    "Assigned",
    "Truth",
    "assign_anchors",
    "boxes_of_head",
    "centers_sides",
    "corners_from",
    "iou",
    "yolov2_loss",
    "yolov3_loss",
]

IGNORED_V2 = 0.6
"""``thresh`` of ``[region]`` in yolov2.cfg."""
IGNORED_V3 = 0.5
"""YOLOv3, section 2.1: "We use the threshold of .5"."""

OBJECT_SCALE_V2 = 5.0
"""``object_scale`` of ``[region]`` in yolov2.cfg; ``noobject_scale``, ``class_scale`` and ``coord_scale`` are 1."""


class Truth(NamedTuple):
    """The boxes of a batch of pictures, one a row.

    Attributes:
        picture: which of the batch; int64, shape ``(M,)``.
        corners: ``(x1, y1, x2, y2)`` in px of the input; shape ``(M, 4)``.
        classes: int64, shape ``(M,)``.
    """

    picture: torch.Tensor
    corners: torch.Tensor
    classes: torch.Tensor


class Assigned(NamedTuple):
    """What the boxes of one head should have been; ``B`` is ``(N, anchors, h, w)``.

    Attributes:
        found: the box is responsible for an object; bool, shape ``B``.
        empty: it should say that nothing is there; bool, shape ``B``; neither of the two is an ignored box.
        offset: ``x, y`` of the object's centre in its cell, 0 to 1; shape ``(*B, 2)``.
        log_size: logarithm of width and height over those of the anchor; shape ``(*B, 2)``.
        weight: ``2 - w * h`` with sides relative to the picture, so that small objects count; shape ``B``.
        iou: overlap of the predicted box and the object; shape ``B``.
        classes: 1 where the object is of that class; shape ``(*B, classes)``.
    """

    found: torch.Tensor
    empty: torch.Tensor
    offset: torch.Tensor
    log_size: torch.Tensor
    weight: torch.Tensor
    iou: torch.Tensor
    classes: torch.Tensor


def yolov2_loss(
    outputs: Mapping[str, torch.Tensor], assigned: Sequence[Assigned], heads: Sequence[YoloHead]
) -> torch.Tensor:
    """The loss of YOLO9000 (Redmon and Farhadi 2017, arXiv:1612.08242), as in Darknet's ``region_layer.c``.

    The paper gives no formula. With raw numbers ``t`` of a box, ``s`` for the sigmoid::

        L = 1/2 * sum_found (2 - w^ h^) * [(s(tx) - x^)^2 + (s(ty) - y^)^2 + (tw - log w^/pw)^2 + (th - log h^/ph)^2]
          + 5/2 * sum_found (s(to) - IoU)^2
          + 1/2 * sum_empty s(to)^2
          -       sum_found log softmax(class)

    A box is ``empty`` unless it is found, or what it predicts overlaps some object by more than 0.6. The halves make
    the gradient what Darknet calls ``delta``. Darknet also draws all boxes towards their anchors for its first 12,800
    pictures, which neither paper mentions; that is not done here.

    Args:
        outputs: by name, shape ``(N, anchors * (5 + classes), h, w)``.
        assigned: one a head, by `assign_anchors`.
        heads: the outputs' names, strides and anchors.

    Returns:
        A number, of shape ``()``.
    """
    total = torch.zeros(())
    for head, target in zip(heads, assigned, strict=True):
        raw = boxes_of_head(outputs[head.output], head)
        found, empty = target.found.to(raw.dtype), target.empty.to(raw.dtype)
        objectness = raw[..., 4].sigmoid()
        offset = (raw[..., 0:2].sigmoid() - target.offset).square().sum(dim=-1)
        size = (raw[..., 2:4] - target.log_size).square().sum(dim=-1)
        boxes = (found * target.weight * (offset + size)).sum() / 2
        hit = OBJECT_SCALE_V2 * (found * (objectness - target.iou).square()).sum() / 2
        miss = (empty * objectness.square()).sum() / 2
        kinds = -(found * (target.classes * raw[..., 5:].log_softmax(dim=-1)).sum(dim=-1)).sum()
        total = total + (boxes + hit + miss + kinds) / len(raw)
    return total


def yolov3_loss(
    outputs: Mapping[str, torch.Tensor], assigned: Sequence[Assigned], heads: Sequence[YoloHead]
) -> torch.Tensor:
    """The loss of YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767, sections 2.1 and 2.2).

    With raw numbers ``t`` of a box, ``s`` for the sigmoid, and ``H(p, q) = -q log p - (1 - q) log(1 - p)``::

        L = sum_found (2 - w^ h^) * [H(s(tx), x^) + H(s(ty), y^) + 1/2 (tw - log w^/pw)^2 + 1/2 (th - log h^/ph)^2]
          + sum_found H(s(to), 1) + sum_empty H(s(to), 0)
          + sum_found sum_c H(s(class c), q_c)

    A box is ``empty`` unless it is found, or what it predicts overlaps some object by more than 0.5. The paper asks
    for a gradient of "the ground truth value minus our prediction"; for the offsets that is the cross entropy's,
    taken between sigmoids as in Darknet's ``yolo_layer.c``: a centre on a cell's border has no finite ``t``.

    Args:
        outputs: by name, shape ``(N, anchors * (5 + classes), h, w)``.
        assigned: one a head, by `assign_anchors`.
        heads: the outputs' names, strides and anchors.

    Returns:
        A number, of shape ``()``.
    """
    total = torch.zeros(())
    for head, target in zip(heads, assigned, strict=True):
        raw = boxes_of_head(outputs[head.output], head)
        found, empty = target.found.to(raw.dtype), target.empty.to(raw.dtype)
        offset = _entropy(raw[..., 0:2], target.offset).sum(dim=-1)
        size = (raw[..., 2:4] - target.log_size).square().sum(dim=-1) / 2
        boxes = (found * target.weight * (offset + size)).sum()
        objectness = ((found + empty) * _entropy(raw[..., 4], found)).sum()
        kinds = (found * _entropy(raw[..., 5:], target.classes).sum(dim=-1)).sum()
        total = total + (boxes + objectness + kinds) / len(raw)
    return total


@torch.no_grad()
def assign_anchors(
    outputs: Mapping[str, torch.Tensor],
    truth: Truth,
    heads: Sequence[YoloHead],
    *,
    size: tuple[int, int],
    ignored: float = IGNORED_V3,
    several_classes: bool = True,
) -> list[Assigned]:
    """Which box of which head is responsible for which object, and which boxes are to say that nothing is there.

    An object belongs to the one anchor, of all heads, that its width and height overlap most when both lie on the same
    centre, in the cell that its centre falls into (YOLOv3, section 2.1: "only assigns one bounding box prior for each
    ground truth object"). Where two objects meet in one box, the later one stays, and the class of both counts where
    classes do not exclude each other.

    Args:
        outputs: by name, shape ``(N, anchors * (5 + classes), h, w)``.
        truth: the objects.
        heads: the outputs' names, strides and anchors.
        size: height and width of the input in px.
        ignored: a box whose prediction overlaps an object by more than this is not blamed for seeing one.
        several_classes: one box may be of two classes: YOLOv3's sigmoids, not YOLOv2's softmax.
    """
    anchors = truth.corners.new_tensor([anchor for head in heads for anchor in head.anchors])
    _, sides = centers_sides(truth.corners)
    same_centre = [corners_from(torch.zeros_like(pair), pair) for pair in (sides, anchors)]
    best = iou(same_centre[0][:, None], same_centre[1][None]).argmax(dim=1)
    assigned, first = [], 0
    for head in heads:
        own = [(i, k - first) for i, k in enumerate(best.tolist()) if first <= k < first + len(head.anchors)]
        found, objects, classes = _placed(outputs[head.output], truth, own, head, several_classes)
        assigned.append(_assigned(outputs[head.output], truth, head, (found, objects, classes), size, ignored))
        first += len(head.anchors)
    return assigned


def boxes_of_head(raw: torch.Tensor, head: YoloHead) -> torch.Tensor:
    """``(N, anchors * (5 + classes), h, w)`` as ``(N, anchors, h, w, 5 + classes)``."""
    pictures, channels, rows, columns = raw.shape
    anchors = len(head.anchors)
    return raw.view(pictures, anchors, channels // anchors, rows, columns).permute(0, 1, 3, 4, 2)


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of corner boxes ``(..., 4)``, pair by pair; a box of no area overlaps nothing."""
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = overlap.clamp(min=0).prod(dim=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (a, b))
    return torch.where(intersection > 0, intersection / (area_a + area_b - intersection), 0.0)


def centers_sides(corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres ``(x, y)`` and sides ``(w, h)`` of corner boxes ``(..., 4)``."""
    return (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]


def corners_from(centers: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """Corner boxes ``(..., 4)``; the inverse of `centers_sides`."""
    return torch.cat((centers - sides / 2, centers + sides / 2), dim=-1)


def _placed(
    raw: torch.Tensor, truth: Truth, own: Sequence[tuple[int, int]], head: YoloHead, several_classes: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which boxes of a head have an object, its corners, and its classes; ``own`` are objects and their anchors."""
    boxes = boxes_of_head(raw, head)
    grid, kinds = boxes.shape[:-1], boxes.shape[-1] - 5
    found = torch.zeros(grid, dtype=torch.bool)
    objects, classes = raw.new_zeros(*grid, 4), raw.new_zeros(*grid, kinds)
    # A centre on the picture's far border belongs to the last cell.
    cells = (centers_sides(truth.corners)[0] // head.stride).clamp(min=0).long()
    cells = cells.minimum(cells.new_tensor([grid[3] - 1, grid[2] - 1]))
    pictures, columns_rows = truth.picture.tolist(), cells.tolist()
    inside: dict[tuple[int, int, int, int], list[int]] = {}
    for i, anchor in own:
        column, row = columns_rows[i]
        inside.setdefault((pictures[i], anchor, row, column), []).append(i)
    if inside:
        places, last = torch.tensor(list(inside)).T, [each[-1] for each in inside.values()]
        found[tuple(places)] = True
        objects[tuple(places)] = truth.corners[last].to(raw.dtype)
        counted = inside.values() if several_classes else [[i] for i in last]
        pairs = [(*place, int(truth.classes[i])) for place, each in zip(inside, counted, strict=True) for i in each]
        classes[tuple(torch.tensor(pairs).T)] = 1
    return found, objects, classes


def _assigned(
    raw: torch.Tensor,
    truth: Truth,
    head: YoloHead,
    placed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    size: tuple[int, int],
    ignored: float,
) -> Assigned:
    found, objects, classes = placed
    predicted, cell = _predicted(raw, head)
    overlap = torch.zeros_like(predicted[..., 0])
    for picture in sorted(set(truth.picture.tolist())):
        own = truth.corners[truth.picture == picture].to(raw.dtype)
        overlap[picture] = iou(predicted[picture].unsqueeze(-2), own).amax(dim=-1)
    centers, sides = centers_sides(objects)
    some = found[..., None]
    anchors = raw.new_tensor(head.anchors).view(-1, 1, 1, 2)
    return Assigned(
        found=found,
        empty=~found & (overlap <= ignored),
        offset=torch.where(some, centers / head.stride - cell, 0.0),
        log_size=torch.where(some, sides / anchors, 1.0).log(),
        weight=2 - sides.prod(dim=-1) / (size[0] * size[1]),
        iou=iou(predicted, objects),
        classes=classes,
    )


def _predicted(raw: torch.Tensor, head: YoloHead) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners of the boxes that a head predicts, and their cells; see `edgekit.kernels.decode.reference`."""
    boxes = boxes_of_head(raw, head)
    rows, columns = boxes.shape[2:4]
    cell = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1).to(raw.dtype)
    centers = (boxes[..., 0:2].sigmoid() + cell) * head.stride
    anchors = raw.new_tensor(head.anchors).view(-1, 1, 1, 2)
    return corners_from(centers, anchors * boxes[..., 2:4].clamp(max=MAX_EXPONENT).exp()), cell


def _entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
