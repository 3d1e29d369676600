"""The losses of YOLOv2 and YOLOv3, from their papers and, for missing details, from the authors' code.

Each loss has two steps. *Assignment* matches predictions to ground truth objects and gives the target of every output
value; it is not differentiated. The *loss* is a formula of the raw outputs and the assigned targets.
All boxes are in px of the model's input. Losses are summed over an image, and averaged over the images of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from edgekit.kernels.decode.limits import MAX_EXPONENT
from edgekit.recipe.heads import YoloHead

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


_SATURATED = 1e-6
"""Probabilities closer to 0 or 1 than this have no gradient, since float32 has few numbers there."""


class Truth(NamedTuple):
    """Ground truth boxes of a batch of images, one per row.

    Attributes:
        image: index of the image in the batch; int64, shape ``(M,)``.
        corners: ``(x1, y1, x2, y2)`` in input px; shape ``(M, 4)``.
        classes: int64, shape ``(M,)``.
    """

    image: torch.Tensor
    corners: torch.Tensor
    classes: torch.Tensor


class Assigned(NamedTuple):
    """Targets of the boxes of one head; ``B`` is ``(N, anchors, h, w)``.

    Attributes:
        found: the box is responsible for an object; bool, shape ``B``.
        empty: the box should predict no object; bool, shape ``B``. An ignored box is neither ``found`` nor ``empty``.
        offset: ``x, y`` of the object's center in its cell, 0 to 1; shape ``(*B, 2)``.
        log_size: logarithm of the object's width and height divided by the anchor's; shape ``(*B, 2)``.
        weight: ``2 - w * h`` with sides relative to the image, to raise the weight of small objects; shape ``B``.
        iou: IoU of the predicted box and the object; shape ``B``.
        classes: 1 for the classes of the object; shape ``(*B, classes)``.
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
    """Computes the loss of YOLO9000 (Redmon and Farhadi 2017, arXiv:1612.08242), as in Darknet's ``region_layer.c``.

    The paper gives no formula. With the raw outputs ``t`` of a box and the sigmoid ``s``::

        L = 1/2 * sum_found (2 - w^ h^) * [(s(tx) - x^)^2 + (s(ty) - y^)^2 + (tw - log w^/pw)^2 + (th - log h^/ph)^2]
          + 5/2 * sum_found (s(to) - IoU)^2
          + 1/2 * sum_empty s(to)^2
          -       sum_found log softmax(class)

    A box is ``empty`` unless it is found, or its prediction overlaps an object with an IoU above 0.6. The factors 1/2
    make the gradient equal to Darknet's ``delta``. Darknet also pulls all boxes towards their anchors during the first
    12,800 images, which neither paper mentions; this loss does not.

    Args:
        outputs: by name, shape ``(N, anchors * (5 + classes), h, w)``.
        assigned: one per head, from `assign_anchors`.
        heads: the outputs' names, strides and anchors.

    Returns:
        A scalar, shape ``()``.
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
    """Computes the loss of YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767, sections 2.1 and 2.2).

    With the raw outputs ``t`` of a box, the sigmoid ``s``, and ``H(p, q) = -q log p - (1 - q) log(1 - p)``::

        L = sum_found (2 - w^ h^) * [H(s(tx), x^) + H(s(ty), y^) + 1/2 (tw - log w^/pw)^2 + 1/2 (th - log h^/ph)^2]
          + sum_found H(s(to), 1) + sum_empty H(s(to), 0)
          + sum_found sum_c H(s(class c), q_c)

    A box is ``empty`` unless it is found, or its prediction overlaps an object with an IoU above 0.5. The paper defines
    the gradient as "the ground truth value minus our prediction". For the offsets this is the gradient of the
    cross-entropy, taken after the sigmoid as in Darknet's ``yolo_layer.c``, since a center on a cell border has no
    finite ``t``. With ``scale_xy`` k, a center ``x^`` is reached by the sigmoid ``(x^ + (k - 1) / 2) / k``, which takes
    its place. With ``new_coords``, ``t`` are the values before the model's own sigmoid, and ``tw`` is
    ``2 log(2 p_w)``, which gives the same side.

    Args:
        outputs: by name, shape ``(N, anchors * (5 + classes), h, w)``.
        assigned: one per head, from `assign_anchors`.
        heads: the outputs' names, strides and anchors.

    Returns:
        A scalar, shape ``()``.
    """
    total = torch.zeros(())
    for head, target in zip(heads, assigned, strict=True):
        raw = _logits_of_head(outputs[head.output], head)
        found, empty = target.found.to(raw.dtype), target.empty.to(raw.dtype)
        reached = (target.offset + (head.scale_xy - 1) / 2) / head.scale_xy
        offset = _entropy(raw[..., 0:2], reached).sum(dim=-1)
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
    """Assigns each object to a box of a head, and marks the boxes that should predict no object.

    An object is assigned to the anchor, among all heads, with the highest IoU when both have the same center, in the
    cell that contains the object's center (YOLOv3, section 2.1: "only assigns one bounding box prior for each ground
    truth object"). If two objects are assigned to one box, the box gets the coordinates of the later one, and with
    ``several_classes`` the classes of both.

    Args:
        outputs: by name, shape ``(N, anchors * (5 + classes), h, w)``.
        truth: the ground truth objects.
        heads: the outputs' names, strides and anchors.
        size: height and width of the input in px.
        ignored: a box whose prediction overlaps an object with a higher IoU than this is not ``empty``.
        several_classes: a box may have several classes, as with YOLOv3's sigmoids but not with YOLOv2's softmax.
    """
    anchors = truth.corners.new_tensor([anchor for head in heads for anchor in head.anchors])
    _, sides = centers_sides(truth.corners)
    centered = [corners_from(torch.zeros_like(pair), pair) for pair in (sides, anchors)]
    best = iou(centered[0][:, None], centered[1][None]).argmax(dim=1)
    assigned, first = [], 0
    for head in heads:
        own = [(i, k - first) for i, k in enumerate(best.tolist()) if first <= k < first + len(head.anchors)]
        found, objects, classes = _placed(outputs[head.output], truth, own, head, several_classes)
        assigned.append(_assigned(outputs[head.output], truth, head, (found, objects, classes), size, ignored))
        first += len(head.anchors)
    return assigned


def boxes_of_head(raw: torch.Tensor, head: YoloHead) -> torch.Tensor:
    """Reshapes ``(N, anchors * (5 + classes), h, w)`` to ``(N, anchors, h, w, 5 + classes)``."""
    batch, channels, rows, columns = raw.shape
    anchors = len(head.anchors)
    return raw.view(batch, anchors, channels // anchors, rows, columns).permute(0, 1, 3, 4, 2)


def _logits_of_head(raw: torch.Tensor, head: YoloHead) -> torch.Tensor:
    """Reshapes as `boxes_of_head`; values of ``new_coords`` become those that YOLOv3 predicts for the same boxes."""
    boxes = boxes_of_head(raw, head)
    if not head.new_coords:
        return boxes
    probabilities = boxes.clamp(_SATURATED, 1 - _SATURATED)
    logits = probabilities.logit()
    return torch.cat((logits[..., 0:2], 2 * (2 * probabilities[..., 2:4]).log(), logits[..., 4:]), dim=-1)


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Computes the pairwise IoU of corner boxes ``(..., 4)``; 0 for a box without area."""
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = overlap.clamp(min=0).prod(dim=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (a, b))
    return torch.where(intersection > 0, intersection / (area_a + area_b - intersection), 0.0)


def centers_sides(corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Converts corner boxes ``(..., 4)`` to centers ``(x, y)`` and sides ``(w, h)``."""
    return (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]


def corners_from(centers: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """Converts centers and sides to corner boxes ``(..., 4)``; the inverse of `centers_sides`."""
    return torch.cat((centers - sides / 2, centers + sides / 2), dim=-1)


def _placed(
    raw: torch.Tensor, truth: Truth, own: Sequence[tuple[int, int]], head: YoloHead, several_classes: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns which boxes of a head have an object, its corners, and its classes; ``own`` pairs objects and anchors."""
    boxes = boxes_of_head(raw, head)
    grid, kinds = boxes.shape[:-1], boxes.shape[-1] - 5
    found = torch.zeros(grid, dtype=torch.bool)
    objects, classes = raw.new_zeros(*grid, 4), raw.new_zeros(*grid, kinds)
    # A center on the right or bottom image border belongs to the last cell.
    cells = (centers_sides(truth.corners)[0] // head.stride).clamp(min=0).long()
    cells = cells.minimum(cells.new_tensor([grid[3] - 1, grid[2] - 1]))
    images, columns_rows = truth.image.tolist(), cells.tolist()
    inside: dict[tuple[int, int, int, int], list[int]] = {}
    for i, anchor in own:
        column, row = columns_rows[i]
        inside.setdefault((images[i], anchor, row, column), []).append(i)
    if inside:
        indices, last = torch.tensor(list(inside)).T, [each[-1] for each in inside.values()]
        found[tuple(indices)] = True
        objects[tuple(indices)] = truth.corners[last].to(raw.dtype)
        counted = inside.values() if several_classes else [[i] for i in last]
        pairs = [(*index, int(truth.classes[i])) for index, each in zip(inside, counted, strict=True) for i in each]
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
    for image in sorted(set(truth.image.tolist())):
        own = truth.corners[truth.image == image].to(raw.dtype)
        overlap[image] = iou(predicted[image].unsqueeze(-2), own).amax(dim=-1)
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
    """Decodes a head to corners, as `edgekit.kernels.decode.reference` does; also returns the cells."""
    boxes = _logits_of_head(raw, head)
    rows, columns = boxes.shape[2:4]
    cell = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1).to(raw.dtype)
    offsets = head.scale_xy * boxes[..., 0:2].sigmoid() - (head.scale_xy - 1) / 2
    centers = (offsets + cell) * head.stride
    anchors = raw.new_tensor(head.anchors).view(-1, 1, 1, 2)
    return corners_from(centers, anchors * boxes[..., 2:4].clamp(max=MAX_EXPONENT).exp()), cell


def _entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
