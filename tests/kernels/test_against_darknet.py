"""YOLOv3-tiny with its published weights, run and decoded by OpenCV."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.data.images import preprocess
from edgekit.kernels.decode.yolo import decode_yolov3
from edgekit.kernels.suppression.suppress import nms
from edgekit.recipe.heads import YoloHead
from edgekit.recipe.schema import load_recipe

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("EDGEKIT_TEST_DATA" not in os.environ, reason="needs EDGEKIT_TEST_DATA"),
]

# As in the cfg that OpenCV reads; EdgeKit's recipe knows better about the second one.
HEADS = (
    YoloHead(output="conv_15", stride=32, anchors=((81, 82), (135, 169), (344, 319))),
    YoloHead(output="conv_22", stride=16, anchors=((10, 14), (23, 27), (37, 58))),
)


@pytest.fixture(scope="module")
def net():
    folder = Path(os.environ["EDGEKIT_TEST_DATA"]) / "yolov3-tiny"
    return cv2.dnn.readNetFromDarknet(str(folder / "yolov3-tiny.cfg"), str(folder / "yolov3-tiny.weights"))


@pytest.mark.parametrize("photo", ["dog", "eagle", "giraffe", "horses", "kite", "person"])
def test_candidates_and_what_is_kept_of_them_are_opencv_s(net, photo):
    recipe = load_recipe("yolov3-tiny")
    path = Path(os.environ["EDGEKIT_TEST_DATA"]) / "photos" / f"{photo}.jpg"
    batch, _ = preprocess(path, recipe.preprocess, recipe.inputs[0].shape)
    net.setInput(batch)
    *regions, coarse, fine = net.forward(["yolo_16", "yolo_23", "conv_15", "conv_22"])
    outputs = {"conv_15": coarse, "conv_22": fine}
    for head, region in zip(HEADS, regions, strict=True):
        # OpenCV's layer drops up to 0.2
        boxes, scores, kinds, _ = decode_yolov3(outputs, (head,), score_threshold=0.2)
        row, kind = np.nonzero(region[:, 5:])
        center, size = region[row, :2] * 416, region[row, 2:4] * 416
        theirs = np.column_stack([center - size / 2, center + size / 2, region[row, 5 + kind], kind])
        ours = np.column_stack([boxes, scores, kinds])
        ours, theirs = (rows[np.lexsort(rows[:, [0, 5]].round(1).T)] for rows in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)

        kept = nms(boxes, scores, kinds, score_threshold=0.25, iou_threshold=0.45, max_detections=300)
        xywh = np.concatenate([theirs[:, :2], theirs[:, 2:4] - theirs[:, :2]], axis=1)
        their_kept = cv2.dnn.NMSBoxesBatched(xywh, theirs[:, 4], theirs[:, 5].astype(int), 0.25, 0.45)
        np.testing.assert_allclose(scores[kept], np.sort(theirs[list(their_kept), 4])[::-1], rtol=1e-4)


def test_objects_of_darknet_s_example_photos_are_found(net):
    recipe = load_recipe("yolov3-tiny")
    expected = {"dog": {"dog", "bicycle", "car"}, "eagle": {"bird"}, "person": {"person", "dog", "horse"}}
    for photo, labels in expected.items():
        path = Path(os.environ["EDGEKIT_TEST_DATA"]) / "photos" / f"{photo}.jpg"
        batch, _ = preprocess(path, recipe.preprocess, recipe.inputs[0].shape)
        net.setInput(batch)
        coarse, fine = net.forward(["conv_15", "conv_22"])
        heads = recipe.postprocess.head.heads
        found = decode_yolov3({heads[0].output: coarse, heads[1].output: fine}, heads, score_threshold=0.5)
        assert labels <= {recipe.labels.names[kind] for kind in found.classes}
