"""Values of boxes beside their corners, scores and classes."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.kernels.decode.extras import extras_of, keypoints_in_image
from edgekit.kernels.decode.families import detect
from edgekit.recipe.heads import End2End, YoloV5, YoloV8

CELLS, CLASSES, EXTRAS = 9, 2, 3
HEADS = {
    "yolov8": (YoloV8(output="o", extras=EXTRAS), 4 + CLASSES, True),
    "yolov8, channels last": (YoloV8(output="o", extras=EXTRAS, layout="channels-last"), 4 + CLASSES, False),
    "yolov5": (YoloV5(output="o", extras=EXTRAS), 5 + CLASSES, False),
    "end2end": (End2End(output="o", extras=EXTRAS), 6, False),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", HEADS)
def test_extras_are_those_of_the_box_that_was_detected(name: str, dtype: type) -> None:
    head, before, first = HEADS[name]
    rows = np.zeros((2, CELLS, before + EXTRAS), np.float32)
    rows[..., before:] = np.arange(2 * CELLS * EXTRAS).reshape(2, CELLS, EXTRAS)
    corners = name == "end2end"
    for cell, score in ((6, 0.5), (2, 0.75)):
        rows[1, cell, :4] = [8 * cell, 8, 8 * cell + 6, 14] if corners else [8 * cell, 8, 6, 6]
        rows[1, cell, 4] = score if corners or name.startswith("yolov8") else 1
        if name == "yolov5":
            rows[1, cell, 5] = score
    output = (rows.transpose(0, 2, 1) if first else rows).astype(dtype)
    found = detect(
        {"o": output}, head, input_size=(96, 32), scale=(1.0, 1.0), offset=(0.0, 0.0), size=(96, 32),
        score_threshold=0.3, iou_threshold=0.5, max_detections=5, index=1,
    )  # fmt: skip
    assert found["index"].tolist() == [2, 6]
    extras = extras_of({"o": output}, head, found["index"], index=1)
    assert extras.dtype == np.float32
    np.testing.assert_array_equal(extras, rows[1, [2, 6], before:])


def test_key_points_are_mapped_and_clipped_to_the_image() -> None:
    values = np.array([[[10, 20, 0.5], [-3, 50, 0.1]]])
    found = keypoints_in_image(values, scale=(0.5, 0.25), offset=(2.0, 4.0), size=(100, 90))
    np.testing.assert_allclose(found, [[[16, 64, 0.5], [0, 90, 0.1]]])
    without = keypoints_in_image(values[..., :2], scale=(1.0, 1.0), offset=(0.0, 0.0), size=(100, 90))
    np.testing.assert_allclose(without, [[[10, 20, 1], [0, 50, 1]]])
    assert keypoints_in_image(np.zeros((0, 5, 3)), scale=(1, 1), offset=(0, 0), size=(9, 9)).shape == (0, 5, 3)
