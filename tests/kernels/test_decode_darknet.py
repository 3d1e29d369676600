"""YOLOv3 heads with ``scale_xy`` and ``new_coords`` against a transcription of AlexeyAB's ``yolo_layer.c``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekit.errors import RecipeError
from edgekit.kernels.decode import reference
from edgekit.kernels.decode.device import DeviceDetector
from edgekit.kernels.decode.yolo import decode_yolov3
from edgekit.recipe.heads import YoloHead, YoloV2, YoloV3

CLASSES, ROWS, COLUMNS = 4, 5, 7
ANCHORS = ((12.0, 16.0), (19.0, 36.0), (40.0, 28.0))


def darknet(raw: torch.Tensor, head: YoloHead, thresh: float) -> list[tuple[list[float], float, int]]:
    """``forward_yolo_layer``, ``get_yolo_box`` and ``get_yolo_detections``, with boxes in px of the input.

    The activations there are on the layer's output in place: a sigmoid of x, y, the objectness and the classes, unless
    ``new_coords``; then ``scal_add_cpu`` of x and y with ``scale_x_y`` and ``-0.5 * (scale_x_y - 1)``.
    """
    lw, lh = COLUMNS, ROWS
    w, h = lw * head.stride, lh * head.stride
    x = raw.double().view(len(ANCHORS), 5 + CLASSES, lh, lw).clone()
    if not head.new_coords:
        x[:, 0:2] = x[:, 0:2].sigmoid()
        x[:, 4:] = x[:, 4:].sigmoid()
    x[:, 0:2] = x[:, 0:2] * head.scale_xy + -0.5 * (head.scale_xy - 1)
    found = []
    for n, (biases_w, biases_h) in enumerate(head.anchors):
        for j in range(lh):
            for i in range(lw):
                objectness = x[n, 4, j, i]
                if objectness <= thresh:
                    continue
                bx, by = (i + x[n, 0, j, i]) / lw, (j + x[n, 1, j, i]) / lh
                if head.new_coords:
                    bw = x[n, 2, j, i] * x[n, 2, j, i] * 4 * biases_w / w
                    bh = x[n, 3, j, i] * x[n, 3, j, i] * 4 * biases_h / h
                else:
                    bw = torch.exp(x[n, 2, j, i]) * biases_w / w
                    bh = torch.exp(x[n, 3, j, i]) * biases_h / h
                box = [(bx - bw / 2) * w, (by - bh / 2) * h, (bx + bw / 2) * w, (by + bh / 2) * h]
                for c in range(CLASSES):
                    prob = objectness * x[n, 5 + c, j, i]
                    if prob > thresh:
                        found.append(([float(side) for side in box], float(prob), c))
    return found


def outputs(new_coords: bool, seed: int) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(-0.5, 2, (1, len(ANCHORS) * (5 + CLASSES), ROWS, COLUMNS))
    return (1 / (1 + np.exp(-raw)) if new_coords else raw).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(
    ("scale_xy", "new_coords"), [(1.0, False), (1.05, False), (1.2, False), (2.0, True), (1.0, True)]
)
def test_boxes_are_those_of_darknet(scale_xy: float, new_coords: bool, threshold: float) -> None:
    head = YoloHead(output="o", stride=8, anchors=ANCHORS, scale_xy=scale_xy, new_coords=new_coords)
    raw = outputs(new_coords, seed=round(100 * scale_xy))
    expected = darknet(torch.from_numpy(raw[0]), head, threshold)
    assert len(expected) > 20
    slow = reference.decode_yolov3({"o": raw}, [head], score_threshold=threshold)
    boxes, scores, classes, _ = decode_yolov3({"o": raw}, [head], score_threshold=threshold)
    assert classes.tolist() == [kind for _, _, kind, _ in slow] == [kind for *_, kind in expected]
    wanted = np.array([box for box, *_ in expected])
    np.testing.assert_allclose([box for box, *_ in slow], wanted, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose([score for _, score, *_ in slow], [score for _, score, _ in expected], rtol=1e-9)
    np.testing.assert_allclose(boxes, wanted, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(scores, [score for _, score, _ in expected], rtol=2e-6)


def test_only_the_best_class_of_a_box_may_be_a_candidate() -> None:
    head = YoloHead(output="o", stride=8, anchors=ANCHORS, scale_xy=2.0, new_coords=True)
    raw = outputs(True, seed=5)
    slow = reference.decode_yolov3({"o": raw}, [head], score_threshold=0.1, multi_label=False)
    found = decode_yolov3({"o": raw}, [head], score_threshold=0.1, multi_label=False)
    assert 0 < len(slow) < len(reference.decode_yolov3({"o": raw}, [head], score_threshold=0.1))
    assert found.classes.tolist() == [kind for _, _, kind, _ in slow]
    assert found.cells.tolist() == [cell for *_, cell in slow]


def test_sides_of_values_that_are_no_probabilities_stay_finite() -> None:
    head = YoloHead(output="o", stride=8, anchors=ANCHORS[:1], new_coords=True)
    raw = np.full((1, 5 + CLASSES, 1, 1), 1e30, np.float32)
    raw[:, 4:] = 0.9
    slow = reference.decode_yolov3({"o": raw}, [head], score_threshold=0.5)
    boxes = decode_yolov3({"o": raw}, [head], score_threshold=0.5).boxes
    sides = np.array([box for box, *_ in slow])
    assert np.isfinite(boxes).all() and np.isfinite((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).all()
    np.testing.assert_allclose(boxes, sides, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"scale_xy": 1.1}, {"new_coords": True}])
def test_the_gpu_says_that_it_does_not_decode_them(changes: dict[str, float]) -> None:
    layout = {"o": (np.dtype(np.float32), (1, len(ANCHORS) * (5 + CLASSES), ROWS, COLUMNS))}
    plain = YoloHead(output="o", stride=8, anchors=ANCHORS)
    changed = YoloHead(output="o", stride=8, anchors=ANCHORS, **changes)
    assert DeviceDetector.supports(YoloV3(heads=(plain,)), layout) == ""
    assert "without scale_xy and new_coords" in DeviceDetector.supports(YoloV3(heads=(changed,)), layout)


@pytest.mark.parametrize("changes", [{"scale_xy": 1.1}, {"new_coords": True}])
def test_yolov2_has_neither(changes: dict[str, float]) -> None:
    with pytest.raises((RecipeError, ValueError), match="since family is 'yolov2'"):
        YoloV2(heads=(YoloHead(output="o", stride=8, anchors=ANCHORS, **changes),))
