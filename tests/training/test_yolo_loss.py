from __future__ import annotations

import math

import msgspec
import pytest
import torch

from edgekit.kernels.decode import reference
from edgekit.kernels.suppression.reference import iou
from edgekit.recipe.heads import YoloHead
from edgekit.training.yolo_loss import (
    IGNORED_V2,
    IGNORED_V3,
    Truth,
    assign_anchors,
    yolov2_loss,
    yolov3_loss,
)

CLASSES = 3
SIZE = (64, 96)
HEADS = (
    YoloHead(output="head32", stride=32, anchors=((30.0, 24.0), (50.0, 60.0))),
    YoloHead(output="head16", stride=16, anchors=((8.0, 10.0), (20.0, 14.0))),
)
# Two objects of different classes in one box of one cell, one whose center is on the far border, one alone.
TRUTH = Truth(
    torch.tensor([0, 0, 0, 1]),
    torch.tensor([[2.0, 4.0, 34.0, 28.0], [4.0, 4.0, 36.0, 30.0], [88.0, 20.0, 104.0, 36.0], [40.0, 30.0, 49.0, 39.0]]),
    torch.tensor([0, 2, 1, 1]),
)
NOTHING = Truth(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

Outputs = dict[str, torch.Tensor]


def outputs(seed: int, scale: float = 1.0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return {
        head.output: (
            scale
            * torch.randn(
                2, 2 * (5 + CLASSES), SIZE[0] // head.stride, SIZE[1] // head.stride, generator=generator
            ).double()
        ).requires_grad_()
        for head in HEADS
    }


def entropy(logit: float, target: float) -> float:
    p = reference.sigmoid(logit)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def best_box(corners: list[float]) -> tuple[int, int]:
    """Head and anchor with the highest IoU with an object of the same center."""
    width, height = corners[2] - corners[0], corners[3] - corners[1]
    overlaps = {
        (h, a): iou((-w / 2, -t / 2, w / 2, t / 2), (-width / 2, -height / 2, width / 2, height / 2))
        for h, head in enumerate(HEADS)
        for a, (w, t) in enumerate(head.anchors)
    }
    return max(overlaps, key=lambda place: overlaps[place])


def slow_loss(raw: Outputs, truth: Truth, version: int) -> float:
    """The formulas of YOLOv2 or YOLOv3, box by box, object by object, in the order of Darknet's own loops."""
    total = 0.0
    objects = list(zip(truth.image.tolist(), truth.corners.tolist(), truth.classes.tolist(), strict=True))
    for h, head in enumerate(HEADS):
        numbers = raw[head.output].detach()
        pictures, _, rows, columns = numbers.shape
        for picture in range(pictures):
            for a, (pw, ph) in enumerate(head.anchors):
                for row in range(rows):
                    for column in range(columns):
                        t = numbers[picture, a * (5 + CLASSES) : (a + 1) * (5 + CLASSES), row, column].tolist()
                        x, y = reference.sigmoid(t[0]), reference.sigmoid(t[1])
                        bx, by = (x + column) * head.stride, (y + row) * head.stride
                        bw, bh = pw * math.exp(t[2]), ph * math.exp(t[3])
                        box = (bx - bw / 2, by - bh / 2, bx + bw / 2, by + bh / 2)
                        overlaps = [iou(box, corners) for p, corners, _ in objects if p == picture]
                        own = [
                            (corners, kind)
                            for p, corners, kind in objects
                            if p == picture
                            and best_box(corners) == (h, a)
                            and min(int((corners[0] + corners[2]) / 2 // head.stride), columns - 1) == column
                            and min(int((corners[1] + corners[3]) / 2 // head.stride), rows - 1) == row
                        ]
                        ignored = max(overlaps, default=0.0) > (IGNORED_V2 if version == 2 else IGNORED_V3)
                        objectness = reference.sigmoid(t[4])
                        if not own:
                            if not ignored:
                                total += objectness**2 / 2 if version == 2 else entropy(t[4], 0)
                            continue
                        corners, kind = own[-1]
                        w, h_ = corners[2] - corners[0], corners[3] - corners[1]
                        tx = (corners[0] + corners[2]) / 2 / head.stride - column
                        ty = (corners[1] + corners[3]) / 2 / head.stride - row
                        weight = 2 - w * h_ / (SIZE[0] * SIZE[1])
                        sides = ((t[2] - math.log(w / pw)) ** 2 + (t[3] - math.log(h_ / ph)) ** 2) / 2
                        if version == 2:
                            total += weight * (((x - tx) ** 2 + (y - ty) ** 2) / 2 + sides)
                            total += 5 * (objectness - iou(box, corners)) ** 2 / 2
                            total -= math.log(math.exp(t[5 + kind]) / sum(math.exp(c) for c in t[5:]))
                        else:
                            total += weight * (entropy(t[0], tx) + entropy(t[1], ty) + sides)
                            total += entropy(t[4], 1)
                            kinds = {kind for _, kind in own}
                            total += sum(entropy(t[5 + c], float(c in kinds)) for c in range(CLASSES))
    return total / 2


def loss_v2(raw: Outputs, truth: Truth) -> torch.Tensor:
    assigned = assign_anchors(raw, truth, HEADS, size=SIZE, ignored=IGNORED_V2, several_classes=False)
    return yolov2_loss(raw, assigned, HEADS)


def loss_v3(raw: Outputs, truth: Truth) -> torch.Tensor:
    return yolov3_loss(raw, assign_anchors(raw, truth, HEADS, size=SIZE), HEADS)


LOSSES = {2: loss_v2, 3: loss_v3}


@pytest.mark.parametrize("version", LOSSES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("truth", [TRUTH, NOTHING], ids=["objects", "nothing"])
def test_loss_is_that_of_the_formula_box_by_box(version: int, seed: int, truth: Truth) -> None:
    raw = outputs(seed)
    assert LOSSES[version](raw, truth).item() == pytest.approx(slow_loss(raw, truth, version), rel=1e-9)


@pytest.mark.parametrize("version", LOSSES)
def test_gradients_are_those_of_the_formula(version: int) -> None:
    raw = outputs(0)
    assigned = assign_anchors(
        raw, TRUTH, HEADS, size=SIZE, ignored=IGNORED_V2 if version == 2 else IGNORED_V3, several_classes=version == 3
    )
    loss = yolov2_loss if version == 2 else yolov3_loss

    def of_tensors(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return loss({"head32": coarse, "head16": fine}, assigned, HEADS)

    assert torch.autograd.gradcheck(of_tensors, (raw["head32"], raw["head16"]), fast_mode=True)


def test_gradient_of_yolov3_is_the_truth_minus_the_prediction() -> None:
    """Section 2.1 of the paper, and the class of section 2.2, for the one object of the second image."""
    raw = outputs(5)
    loss_v3(raw, TRUTH).backward()
    corners = TRUTH.corners[3].tolist()
    head, anchor = best_box(corners)
    assert head == 1
    column, row = 44 // 16, 34 // 16
    place = (1, slice(anchor * 8, anchor * 8 + 8), row, column)
    t, delta = raw["head16"][place].detach(), -2 * raw["head16"].grad[place]  # type: ignore[index]
    weight = 2 - 81 / (SIZE[0] * SIZE[1])
    sides = torch.tensor(HEADS[1].anchors[anchor], dtype=torch.float64)
    expected = torch.cat(
        (
            weight * (torch.tensor([44.5 / 16 - column, 34.5 / 16 - row]) - t[:2].sigmoid()),
            weight * ((9 / sides).log() - t[2:4]),
            1 - t[4:5].sigmoid(),
            torch.tensor([0.0, 1.0, 0.0]) - t[5:].sigmoid(),
        )
    )
    torch.testing.assert_close(delta, expected, check_dtype=False)


def test_a_box_that_overlaps_an_object_is_ignored() -> None:
    raw = {name: torch.full_like(tensor.detach(), -9.0) for name, tensor in outputs(0).items()}
    # An anchor of the coarse head predicts the object, although the object is assigned to another head.
    for number, value in zip(range(8, 13), [0.0, 0.0, math.log(9 / 50), math.log(9 / 60), 8.0], strict=True):
        raw["head32"][1, number, 1, 1] = value
    near = Truth(torch.tensor([1]), torch.tensor([[43.5, 43.5, 52.5, 52.5]]), torch.tensor([0]))
    far = near._replace(corners=near.corners - 32)
    empty = [assign_anchors(raw, truth, HEADS, size=SIZE)[0].empty[1, 1, 1, 1] for truth in (near, far)]
    assert not empty[0]
    assert empty[1]
    assert (loss_v3(raw, far) - loss_v3(raw, near)).item() == pytest.approx(entropy(8.0, 0) / 2, rel=1e-3)


@pytest.mark.parametrize("version", LOSSES)
def test_gradient_descent_on_the_raw_numbers_finds_the_objects(version: int) -> None:
    truth = Truth(*(part[2:] for part in TRUTH))
    raw = outputs(1)
    optimizer = torch.optim.Adam(raw.values(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        LOSSES[version](raw, truth).backward()
        optimizer.step()
    arrays = {name: tensor.detach().float().numpy()[1:] for name, tensor in raw.items()}
    decoded = reference.decode_yolov3(arrays, HEADS, score_threshold=0.5)
    box, score, kind, _ = max(decoded, key=lambda found: found[1])
    assert kind == 1
    assert score > 0.8
    assert iou(box, TRUTH.corners[3].tolist()) > 0.95


def as_new_coords(raw: torch.Tensor, anchors: int) -> torch.Tensor:
    """The probabilities that mean the same boxes and classes with ``new_coords`` as ``raw`` without."""
    values = raw.view(len(raw), anchors, -1, *raw.shape[2:])
    sides = (values[:, :, 2:4] / 2).exp() / 2
    return torch.cat([values[:, :, :2].sigmoid(), sides, values[:, :, 4:].sigmoid()], dim=2).view_as(raw)


def test_new_coords_have_the_loss_of_the_same_boxes() -> None:
    # Sides up to four anchors, which are all that new_coords can express.
    raw = {name: values.detach().clamp(max=1.3) for name, values in outputs(3).items()}
    new = [msgspec.structs.replace(head, new_coords=True) for head in HEADS]
    probabilities = {name: as_new_coords(values, 2) for name, values in raw.items()}
    plain = yolov3_loss(raw, assign_anchors(raw, TRUTH, HEADS, size=SIZE), HEADS)
    found = yolov3_loss(probabilities, assign_anchors(probabilities, TRUTH, new, size=SIZE), new)
    assert found.item() == pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("new_coords", [False, True])
def test_the_offset_of_a_scaled_head_is_learned(new_coords: bool) -> None:
    """The loss is least where the decoder finds the object's center, also at the border of its cell."""
    head = YoloHead(output="o", stride=16, anchors=((16.0, 16.0),), scale_xy=1.5, new_coords=new_coords)
    truth = Truth(torch.tensor([0]), torch.tensor([[8.0, 25.0, 24.0, 41.0]]), torch.tensor([0]))  # center (16, 33)
    logits = torch.zeros(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        raw = {"o": logits.sigmoid() if new_coords else logits}
        loss = yolov3_loss(raw, assign_anchors(raw, truth, [head], size=(64, 64)), [head])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    final = {"o": (logits.sigmoid() if new_coords else logits).detach().numpy().astype("float32")}
    (box, _, kind, _) = max(reference.decode_yolov3(final, [head], score_threshold=0.2), key=lambda each: each[1])
    assert kind == 0
    assert box == pytest.approx((8.0, 25.0, 24.0, 41.0), abs=0.3)
