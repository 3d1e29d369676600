import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import RunError
from edgekit.kernels.decode import reference
from edgekit.kernels.decode.families import decode
from edgekit.kernels.decode.yolo import decode_yolov1, decode_yolov2, decode_yolov3
from edgekit.kernels.suppression.suppress import nms
from edgekit.recipe.heads import YoloHead, YoloV1, YoloV2, YoloV3

FAMILIES = {"yolov1": YoloV1, "yolov2": YoloV2, "yolov3": YoloV3}
COARSE = YoloHead(output="coarse", stride=32, anchors=((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)))
FINE = YoloHead(output="fine", stride=16, anchors=((10.0, 14.0), (23.0, 27.0)))
CELLS = YoloHead(output="cells", stride=64, boxes=2)


def raw(rng, classes=5, coarse=(3, 4), fine=(6, 8), batch=1):
    return {
        "coarse": rng.normal(-1, 2, (batch, 3 * (5 + classes), *coarse)).astype(np.float32),
        "fine": rng.normal(-1, 2, (batch, 2 * (5 + classes), *fine)).astype(np.float32),
        "cells": rng.normal(0.3, 0.5, (batch, classes + 10, *coarse)).astype(np.float32),
    }


KINDS = {
    "yolov1": (decode_yolov1, reference.decode_yolov1, (CELLS,)),
    "yolov2": (decode_yolov2, reference.decode_yolov2, (COARSE, FINE)),
    "yolov3": (decode_yolov3, reference.decode_yolov3, (COARSE, FINE)),
}


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference_in_values_and_order(kind, threshold, seed):
    fast, slow, heads = KINDS[kind]
    outputs = raw(np.random.default_rng(seed), classes=1 + seed)
    expected = slow(outputs, heads, score_threshold=threshold)
    boxes, scores, classes, _ = fast(outputs, heads, score_threshold=threshold)
    assert boxes.dtype == scores.dtype == np.float32 and classes.dtype == np.int64
    assert classes.tolist() == [kind for _, _, kind, _ in expected]
    np.testing.assert_allclose(scores, [score for _, score, *_ in expected], rtol=2e-6)
    np.testing.assert_allclose(boxes, np.array([box for box, *_ in expected]).reshape(-1, 4), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_recipe_chooses_its_formulas(kind):
    fast, _, heads = KINDS[kind]
    outputs = raw(np.random.default_rng(1))
    chosen = decode(
        outputs, FAMILIES[kind](heads=heads[:1], multi_label=True), input_size=(416, 416), score_threshold=0.2
    )
    for got, expected in zip(chosen, fast(outputs, heads[:1], score_threshold=0.2), strict=True):
        assert len(got) > 0
        np.testing.assert_array_equal(got, expected)


def test_a_cell_of_yolov1_written_by_hand_is_decoded_as_in_the_paper():
    outputs = {"cells": np.zeros((1, 2 + 10, 7, 7), np.float32)}
    # cell in row 1, column 0: two classes, two confidences, and two boxes of which the second is sure
    outputs["cells"][0, :, 1, 0] = [0.9, 0.5, 0.1, 0.8, 0, 0, 0, 0, 0.5, 0.25, 0.5, 1]
    boxes, scores, classes, _ = decode_yolov1(outputs, (CELLS,), score_threshold=0.25)
    # centre (0.5, 1.25) * 64, a quarter of the width 448 and all of the height
    np.testing.assert_allclose(boxes, [[32 - 56, 80 - 224, 32 + 56, 80 + 224]] * 2)
    np.testing.assert_allclose(scores, [0.72, 0.4])
    assert classes.tolist() == [0, 1]


def test_a_cell_of_yolov2_written_by_hand_shares_one_softmax_among_its_classes():
    outputs = {"coarse": np.full((1, 3 * 8, 2, 2), -100, np.float32)}
    cell = outputs["coarse"].reshape(3, 8, 2, 2)[0, :, 0, 1]  # first anchor, upper right
    cell[:] = [0, 0, np.log(2), 0, 100, np.log(3), np.log(2), np.log(1)]
    boxes, scores, classes, _ = decode_yolov2(outputs, (COARSE,), score_threshold=0.25)
    np.testing.assert_allclose(boxes, [[48 - 81, 16 - 41, 48 + 81, 16 + 41]] * 2, rtol=1e-6)
    np.testing.assert_allclose(scores, [1 / 2, 1 / 3], rtol=1e-6)
    assert classes.tolist() == [0, 1]


def test_a_cell_written_by_hand_is_decoded_as_in_the_paper():
    outputs = {"coarse": np.full((1, 3 * 7, 2, 2), -100, np.float32)}
    cell = outputs["coarse"].reshape(3, 7, 2, 2)[1, :, 1, 0]  # second anchor, lower left
    cell[:] = [0, 0, 0, np.log(2), 100, 100, 0]
    boxes, scores, classes, _ = decode_yolov3(outputs, (COARSE,), score_threshold=0.25)
    # center (0.5, 1.5) * 32, size 135 x 338; class 0 with probability 1, class 1 with 1/2
    np.testing.assert_allclose(boxes, [[16 - 67.5, 48 - 169, 16 + 67.5, 48 + 169]] * 2, rtol=1e-6)
    np.testing.assert_allclose(scores, [1, 0.5])
    assert classes.tolist() == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_are_decoded_independently(kind):
    fast, _, heads = KINDS[kind]
    outputs = raw(np.random.default_rng(0), batch=3)
    for index in range(3):
        alone = {name: array[index : index + 1] for name, array in outputs.items()}
        one = fast(outputs, heads, score_threshold=0.1, index=index)
        for got, expected in zip(one, fast(alone, heads, score_threshold=0.1), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("section", "kind"), [("region", "yolov2"), ("yolo", "yolov3")])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_is_what_opencv_s_layer_keeps(section, kind, seed, tmp_path):
    classes, side, anchors = 4, 6, ((1.5, 2.5), (3.0, 1.0), (0.7, 0.9))
    channels = len(anchors) * (5 + classes)
    flat = ",".join(f"{side:g}" for anchor in anchors for side in anchor)
    text = (
        f"[net]\nwidth={side}\nheight={side}\nchannels={channels}\n"
        f"[convolutional]\nfilters={channels}\nsize=1\nstride=1\nactivation=linear\n"
        f"[{section}]\nanchors={flat}\nclasses={classes}\nnum=3\nmask=0,1,2\nsoftmax=1\nthresh=0.2\nnms_threshold=0.4\n"
    )
    (tmp_path / "head.cfg").write_text(text)
    identity = np.concatenate([np.zeros(channels), np.eye(channels).ravel()]).astype("<f4")
    (tmp_path / "head.weights").write_bytes(np.array([0, 2, 0, 0, 0], "<i4").tobytes() + identity.tobytes())
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "head.cfg"), str(tmp_path / "head.weights"))
    numbers = np.random.default_rng(seed).normal(0, 1.5, (1, channels, side, side)).astype(np.float32)
    net.setInput(numbers)
    rows = net.forward().reshape(-1, 5 + classes)

    head = FAMILIES[kind](heads=(YoloHead(output="head", stride=1, anchors=anchors),), multi_label=True)
    boxes, scores, kinds, _ = decode({"head": numbers}, head, input_size=(side, side), score_threshold=0.2)
    kept = nms(boxes, scores, kinds, score_threshold=0.2, iou_threshold=0.4, max_detections=1000)
    row, theirs = np.nonzero(rows[:, 5:])
    center, size = rows[row, :2] * side, rows[row, 2:4] * side
    expected = np.column_stack([center - size / 2, center + size / 2, rows[row, 5 + theirs], theirs])
    ours = np.column_stack([boxes, scores, kinds])[kept]
    assert len(ours) == len(expected) > 10
    ours, expected = (each[np.lexsort(each[:, [4, 5]].T)] for each in (ours, expected))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


extreme = st.one_of(st.floats(width=32), st.sampled_from([np.inf, -np.inf, np.nan, 3e38, -3e38, 88.8, -88.8]))


@settings(deadline=None)
@given(hnp.arrays(np.float32, (1, 3 * 7, 2, 3), elements=extreme), st.sampled_from([0.0, 0.25, 0.99]))
def test_extreme_numbers_overflow_nothing_and_nan_scores_are_left_out(numbers, threshold):
    boxes, scores, *_ = decode_yolov3({"coarse": numbers}, (COARSE,), score_threshold=threshold)
    assert ((scores > threshold) & (scores <= 1)).all()
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert not np.isinf(boxes).any() and np.isfinite(sizes.prod(axis=1)[~np.isnan(boxes).any(axis=1)]).all()


@settings(deadline=None)
@given(hnp.arrays(np.float32, (1, 3 * 7, 2, 3), elements=extreme), st.sampled_from([0.0, 0.25, 0.99]))
def test_extreme_numbers_of_yolov2_overflow_nothing_either(numbers, threshold):
    boxes, scores, *_ = decode_yolov2({"coarse": numbers}, (COARSE,), score_threshold=threshold)
    assert ((scores > threshold) & (scores <= 1)).all() and not np.isinf(boxes).any()


@settings(deadline=None)
@given(hnp.arrays(np.float32, (1, 12, 2, 3), elements=extreme), st.sampled_from([0.0, 0.25, 0.99]))
def test_extreme_numbers_of_yolov1_are_taken_in_silence(numbers, threshold):
    boxes, scores, classes, _ = decode_yolov1({"cells": numbers}, (CELLS,), score_threshold=threshold)
    assert (scores > threshold).all()
    kept = nms(boxes, scores, classes, score_threshold=threshold, iou_threshold=0.45, max_detections=300)
    assert np.isfinite(boxes[kept]).all()


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float32, (1, 3 * 9, 2, 2), elements=st.floats(-20, 20, width=32)))
def test_scores_of_a_box_of_yolov2_add_up_to_its_objectness(numbers):
    _, scores, *_ = decode_yolov2({"coarse": numbers}, (COARSE,), score_threshold=0.0)
    objectness = 1 / (1 + np.exp(-numbers.reshape(3, 9, 2, 2)[:, 4].astype(np.float64)))
    # what is at most float32's smallest number is no candidate
    assert scores.sum() == pytest.approx(objectness.sum(), rel=1e-4)


def test_error_on_cells_that_have_no_class_left():
    with pytest.raises(RunError, match=r"output 'cells': expected \(N, classes \+ 5 \* 2, h, w\), got \(1, 10, 2, 2\)"):
        decode_yolov1({"cells": np.zeros((1, 10, 2, 2), np.float32)}, (CELLS,), score_threshold=0.25)


def test_error_on_a_missing_output_names_it_and_those_there_are():
    with pytest.raises(RunError, match=r"output 'fine': expected .*, got no such output among \['coarse'\]"):
        decode_yolov3({"coarse": np.zeros((1, 21, 2, 2), np.float32)}, (COARSE, FINE), score_threshold=0.25)


@pytest.mark.parametrize("shape", [(1, 20, 2, 2), (1, 15, 2, 2), (21, 2, 2), (1, 2, 2, 21)])
def test_error_on_channels_that_do_not_fit_the_anchors(shape):
    with pytest.raises(RunError, match=r"output 'coarse': expected \(N, 3 \* \(5 \+ classes\), h, w\), got \("):
        decode_yolov3({"coarse": np.zeros(shape, np.float32)}, (COARSE,), score_threshold=0.25)
