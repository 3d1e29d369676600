"""The loss of YOLOv1, in two steps as in `edgekit.training.yolo_loss`: assignment, then loss."""

from __future__ import annotations

from typing import NamedTuple

import torch

from edgekit.training.yolo_loss import Truth, centers_sides, corners_from, iou

__all__ = ["AssignedCells", "assign_cells", "yolov1_loss"]

LAMBDA_COORD, LAMBDA_NOOBJ = 5.0, 0.5
"""YOLOv1, section 2.2."""


class AssignedCells(NamedTuple):
    """Targets of YOLOv1's cells: ``S`` by ``S`` cells of ``B`` boxes.

    Attributes:
        found: the box is responsible for an object; bool, shape ``(N, S, S, B)``.
        box: ``x, y`` in the cell, and square roots of width and height relative to the image; ``(N, S, S, 1, 4)``.
        iou: IoU of the predicted box and the object; shape ``(N, S, S, B)``.
        classes: 1 for the class of the cell's object; shape ``(N, S, S, classes)``.
    """

    found: torch.Tensor
    box: torch.Tensor
    iou: torch.Tensor
    classes: torch.Tensor


def yolov1_loss(output: torch.Tensor, assigned: AssignedCells) -> torch.Tensor:
    """Computes the loss of YOLOv1: equation 3 of Redmon et al. 2016 (arXiv:1506.02640).

    ::

        L = 5   * sum_found  (x - x^)^2 + (y - y^)^2 + (sqrt w - sqrt w^)^2 + (sqrt h - sqrt h^)^2
          +       sum_found  (C - IoU)^2
          + 0.5 * sum_others C^2
          +       sum_cells with an object  sum_c (p(c) - p^(c))^2

    ``found`` are the boxes that are responsible for an object: the box of its cell with the highest IoU.
    The network predicts the square roots of the sides (``sqrt=1`` in Darknet's cfg), so its outputs may be negative.

    Args:
        output: class probabilities, confidences and boxes of each cell; shape ``(N, classes + 5 * B, S, S)``.
        assigned: from `assign_cells`.

    Returns:
        A scalar, shape ``()``.
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
    """Assigns each object to a box of a cell (YOLOv1, section 2).

    An object is assigned to the cell that contains its center; a cell keeps only the first of several objects. The
    responsible box is the box of the cell with the highest IoU or, if none overlaps the object, the one with the
    smallest squared distance (``forward_detection_layer`` in Darknet).

    Args:
        output: as for `yolov1_loss`.
        truth: the ground truth objects.
        boxes: ``B``, boxes per cell.
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
    for image, center, side, kind in zip(truth.image.tolist(), centers, sides, truth.classes.tolist(), strict=True):
        column, row = (center * cells).long().clamp(0, cells - 1).tolist()
        if found[image, row, column].any():
            continue
        index = (image, row, column)
        corner = output.new_tensor([column, row])
        box[index] = torch.cat((center * cells - corner, side.sqrt()))
        own = predicted[index]
        overlap = iou(corners_from((own[:, :2] + corner) / cells, own[:, 2:].square()), corners_from(center, side))
        distance = (own - box[index]).square().sum(dim=1)
        best = int(overlap.argmax() if overlap.max() > 0 else distance.argmin())
        found[(*index, best)] = True
        found_iou[(*index, best)] = overlap[best]
        one_hot[(*index, kind)] = 1
    return AssignedCells(found, box, found_iou, one_hot)


def _cells(output: torch.Tensor, boxes: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Splits into probabilities ``(N, S, S, classes)``, confidences ``(N, S, S, B)``, boxes ``(N, S, S, B, 4)``."""
    numbers = output.permute(0, 2, 3, 1)
    probabilities, confidence, places = torch.split(numbers, [classes, boxes, 4 * boxes], dim=-1)
    return probabilities, confidence, places.reshape(*places.shape[:-1], boxes, 4)
