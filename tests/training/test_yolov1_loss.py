from __future__ import annotations

import pytest
import torch

from edgekit.kernels.suppression.reference import iou
from edgekit.training.yolo_loss import Truth
from edgekit.training.yolov1_loss import AssignedCells, assign_cells, yolov1_loss

S, B, CLASSES = 3, 2, 4
SIZE = (60, 90)
# Two objects in one cell, of which the first counts, one whose center is on the far border, one alone.
TRUTH = Truth(
    torch.tensor([0, 0, 0, 1]),
    torch.tensor([[2.0, 4.0, 34.0, 16.0], [4.0, 4.0, 36.0, 18.0], [70.0, 40.0, 110.0, 60.0], [30.0, 21.0, 59.0, 39.0]]),
    torch.tensor([0, 2, 1, 3]),
)


def output(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, CLASSES + B * 5, S, S, generator=generator).double().requires_grad_()


def assigned_to(raw: torch.Tensor) -> AssignedCells:
    return assign_cells(raw, TRUTH, boxes=B, size=SIZE)


def slow_loss(raw: torch.Tensor, truth: Truth) -> float:
    """Equation 3 of the paper, cell by cell."""
    total = 0.0
    for picture in range(len(raw)):
        for row in range(S):
            for column in range(S):
                numbers = raw[picture, :, row, column].tolist()
                own = None
                for p, corners, kind in zip(
                    truth.image.tolist(), truth.corners.tolist(), truth.classes.tolist(), strict=True
                ):
                    x, y = (corners[0] + corners[2]) / 2 / SIZE[1] * S, (corners[1] + corners[3]) / 2 / SIZE[0] * S
                    here = (p, min(int(y), S - 1), min(int(x), S - 1)) == (picture, row, column)
                    if here and own is None:
                        own = (corners, kind, x - column, y - row)
                confidences = numbers[CLASSES : CLASSES + B]
                if own is None:
                    total += 0.5 * sum(c**2 for c in confidences)
                    continue
                corners, kind, x, y = own
                w, h = (corners[2] - corners[0]) / SIZE[1], (corners[3] - corners[1]) / SIZE[0]
                wanted = (x, y, w**0.5, h**0.5)
                overlaps, distances = [], []
                boxes = []
                for b in range(B):
                    start = CLASSES + B + b * 4
                    box = numbers[start : start + 4]
                    cx, cy = (box[0] + column) / S * SIZE[1], (box[1] + row) / S * SIZE[0]
                    half = box[2] ** 2 * SIZE[1] / 2, box[3] ** 2 * SIZE[0] / 2
                    overlaps.append(iou((cx - half[0], cy - half[1], cx + half[0], cy + half[1]), corners))
                    distances.append(sum((a - c) ** 2 for a, c in zip(box, wanted, strict=True)))
                    boxes.append(box)
                best = overlaps.index(max(overlaps)) if max(overlaps) > 0 else distances.index(min(distances))
                total += 5 * distances[best] + (confidences[best] - overlaps[best]) ** 2
                total += 0.5 * sum(c**2 for b, c in enumerate(confidences) if b != best)
                probabilities = numbers[:CLASSES]
                total += sum((p - float(c == kind)) ** 2 for c, p in enumerate(probabilities))
    return total / len(raw)


@pytest.mark.parametrize("seed", range(4))
def test_loss_is_equation_3_cell_by_cell(seed: int) -> None:
    raw = output(seed)
    assert yolov1_loss(raw, assigned_to(raw)).item() == pytest.approx(slow_loss(raw.detach(), TRUTH), rel=1e-6)


def test_gradients_are_those_of_equation_3() -> None:
    raw = output(0)
    assigned = assigned_to(raw)
    assert torch.autograd.gradcheck(lambda x: yolov1_loss(x, assigned), raw)


def test_if_no_box_overlaps_the_nearest_is_responsible() -> None:
    raw = output(0).detach()
    first = CLASSES + B
    raw[1, first : first + 8, 1, 1] = torch.tensor([0.9, 0.9, 0.0, 0.0, 0.4, 0.4, 0.0, 0.0])
    assigned = assigned_to(raw)
    assert assigned.found[1, 1, 1].tolist() == [False, True]
    assert assigned.iou[1].max() == 0


def test_the_confidence_target_of_an_empty_image_is_zero() -> None:
    raw = output(0)
    nothing = Truth(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    yolov1_loss(raw, assign_cells(raw, nothing, boxes=B, size=SIZE)).backward()
    assert raw.grad is not None
    first, last = CLASSES, CLASSES + B
    torch.testing.assert_close(raw.grad[:, first:last], raw.detach()[:, first:last] / 2)
    assert raw.grad[:, :first].abs().max() == raw.grad[:, last:].abs().max() == 0
