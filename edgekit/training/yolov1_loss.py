"""The loss of YOLOv1, in the two steps of `edgekit.training.yolo_loss`: assignment, and a formula of its result."""

from __future__ import annotations

from typing import NamedTuple

import torch

from edgekit.training.yolo_loss import Truth, centers_sides, corners_from, iou

__all__ = ["AssignedCells", "assign_cells", "yolov1_loss"]

LAMBDA_COORD, LAMBDA_NOOBJ = 5.0, 0.5
"""YOLOv1, section 2.2."""


class AssignedCells(NamedTuple):
    """What YOLOv1's cells should have been; ``S`` by ``S`` cells of ``B`` boxes.

    Attributes:
        found: the box is responsible for an object; bool, shape ``(N, S, S, B)``.
        box: ``x, y`` in the cell and the roots of width and height relative to the picture; ``(N, S, S, 1, 4)``.
        iou: overlap of the predicted box and the object; shape ``(N, S, S, B)``.
        classes: 1 where the cell's object is of that class; shape ``(N, S, S, classes)``.
    """

    found: torch.Tensor
    box: torch.Tensor
    iou: torch.Tensor
    classes: torch.Tensor


def yolov1_loss(output: torch.Tensor, assigned: AssignedCells) -> torch.Tensor:
    """Equation 3 of Redmon et al. 2016 (arXiv:1506.02640).

    ::

        L = 5   * sum_found  (x - x^)^2 + (y - y^)^2 + (sqrt w - sqrt w^)^2 + (sqrt h - sqrt h^)^2
          +       sum_found  (C - IoU)^2
          + 0.5 * sum_others C^2
          +       sum_cells with an object  sum_c (p(c) - p^(c))^2

    ``found`` are the boxes that are responsible for an object: of its cell's boxes the one that overlaps it most.
    The network's numbers for a size are already the roots (``sqrt=1`` in Darknet's cfg), so they may be negative.

    Args:
        output: of each cell class probabilities, then confidences, then boxes; shape ``(N, classes + 5 * B, S, S)``.
        assigned: by `assign_cells`.

    Returns:
        A number, of shape ``()``.
    """
    probabilities, confidence, boxes = _cells(output, assigned.found.shape[-1], assigned.classes.shape[-1])
    found = assigned.found.to(output.dtype)
    coordinates = (found[..., None] * (boxes - assigned.box).square()).sum()
    hit = (found * (confidence - assigned.iou).square()).sum()
    miss = ((1 - found) * confidence.square()).sum()
    wrong = (found.amax(dim=-1, keepdim=True) * (probabilities - assigned.classes).square()).sum()
    return (LAMBDA_COORD * coordinates + hit + LAMBDA_NOOBJ * miss + wrong) / len(output)


@torch.no_grad()
def assign_cells(output: torch.Tensor, truth: Truth, *, boxes: int, size: tuple[int, int]) -> AssignedCells:
    """Which box of which cell is responsible for which object (YOLOv1, section 2).

    The cell that an object's centre falls into has one object; of several, the first one stays. Of the cell's boxes
    the one with the greatest overlap is responsible; where none overlaps, the one whose numbers are nearest
    (``forward_detection_layer`` in Darknet).

    Args:
        output: as for `yolov1_loss`.
        truth: the objects.
        boxes: ``B``, how many each cell predicts.
        size: height and width of the input in px.
    """
    cells, classes = output.shape[2], output.shape[1] - 5 * boxes
    grid = (len(output), cells, cells, boxes)
    _, _, predicted = _cells(output, boxes, classes)
    found = torch.zeros(grid, dtype=torch.bool)
    box, found_iou = output.new_zeros(*grid[:3], 1, 4), output.new_zeros(grid)
    one_hot = output.new_zeros(*grid[:3], classes)
    shape = output.new_tensor([size[1], size[0]])
    centers, sides = centers_sides(truth.corners.to(output.dtype) / shape.repeat(2))
    for picture, center, side, kind in zip(truth.picture.tolist(), centers, sides, truth.classes.tolist(), strict=True):
        column, row = (center * cells).long().clamp(0, cells - 1).tolist()
        if found[picture, row, column].any():
            continue
        place = (picture, row, column)
        corner = output.new_tensor([column, row])
        box[place] = torch.cat((center * cells - corner, side.sqrt()))
        own = predicted[place]
        overlap = iou(corners_from((own[:, :2] + corner) / cells, own[:, 2:].square()), corners_from(center, side))
        distance = (own - box[place]).square().sum(dim=1)
        best = int(overlap.argmax() if overlap.max() > 0 else distance.argmin())
        found[(*place, best)] = True
        found_iou[(*place, best)] = overlap[best]
        one_hot[(*place, kind)] = 1
    return AssignedCells(found, box, found_iou, one_hot)


def _cells(output: torch.Tensor, boxes: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class probabilities ``(N, S, S, classes)``, confidences ``(N, S, S, B)`` and boxes ``(N, S, S, B, 4)``."""
    numbers = output.permute(0, 2, 3, 1)
    probabilities, confidence, places = torch.split(numbers, [classes, boxes, 4 * boxes], dim=-1)
    return probabilities, confidence, places.reshape(*places.shape[:-1], boxes, 4)
