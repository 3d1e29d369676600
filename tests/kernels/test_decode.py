import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.errors import RunError
from edgekit.kernels import reference
from edgekit.kernels.decode import decode_yolov3
from edgekit.recipe import YoloHead

COARSE = YoloHead(output="coarse", stride=32, anchors=((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)))
FINE = YoloHead(output="fine", stride=16, anchors=((10.0, 14.0), (23.0, 27.0)))


def raw(rng, classes=5, coarse=(3, 4), fine=(6, 8), batch=1):
    return {
        "coarse": rng.normal(-1, 2, (batch, 3 * (5 + classes), *coarse)).astype(np.float32),
        "fine": rng.normal(-1, 2, (batch, 2 * (5 + classes), *fine)).astype(np.float32),
    }


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_reference_in_values_and_order(threshold, seed):
    outputs = raw(np.random.default_rng(seed), classes=1 + seed)
    expected = reference.decode_yolov3(outputs, (COARSE, FINE), score_threshold=threshold)
    boxes, scores, classes = decode_yolov3(outputs, (COARSE, FINE), score_threshold=threshold)
    assert boxes.dtype == scores.dtype == np.float32 and classes.dtype == np.int64
    assert classes.tolist() == [kind for _, _, kind in expected]
    np.testing.assert_allclose(scores, [score for _, score, _ in expected], rtol=2e-6)
    np.testing.assert_allclose(boxes, np.array([box for box, _, _ in expected]).reshape(-1, 4), rtol=1e-5, atol=2e-3)


def test_a_cell_written_by_hand_is_decoded_as_in_the_paper():
    outputs = {"coarse": np.full((1, 3 * 7, 2, 2), -100, np.float32)}
    cell = outputs["coarse"].reshape(3, 7, 2, 2)[1, :, 1, 0]  # second anchor, lower left
    cell[:] = [0, 0, 0, np.log(2), 100, 100, 0]
    boxes, scores, classes = decode_yolov3(outputs, (COARSE,), score_threshold=0.25)
    # center (0.5, 1.5) * 32, size 135 x 338; class 0 with probability 1, class 1 with 1/2
    np.testing.assert_allclose(boxes, [[16 - 67.5, 48 - 169, 16 + 67.5, 48 + 169]] * 2, rtol=1e-6)
    np.testing.assert_allclose(scores, [1, 0.5])
    assert classes.tolist() == [0, 1]


def test_pictures_of_a_batch_are_decoded_each_for_itself():
    outputs = raw(np.random.default_rng(0), batch=3)
    for picture in range(3):
        alone = {name: array[picture : picture + 1] for name, array in outputs.items()}
        one = decode_yolov3(outputs, (COARSE, FINE), score_threshold=0.1, picture=picture)
        for got, expected in zip(one, decode_yolov3(alone, (COARSE, FINE), score_threshold=0.1), strict=True):
            np.testing.assert_array_equal(got, expected)


extreme = st.one_of(st.floats(width=32), st.sampled_from([np.inf, -np.inf, np.nan, 3e38, -3e38, 88.8, -88.8]))


@settings(deadline=None)
@given(hnp.arrays(np.float32, (1, 3 * 7, 2, 3), elements=extreme), st.sampled_from([0.0, 0.25, 0.99]))
def test_extreme_numbers_overflow_nothing_and_nan_scores_are_left_out(numbers, threshold):
    boxes, scores, _ = decode_yolov3({"coarse": numbers}, (COARSE,), score_threshold=threshold)
    assert ((scores > threshold) & (scores <= 1)).all()
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert not np.isinf(boxes).any() and np.isfinite(sizes.prod(axis=1)[~np.isnan(boxes).any(axis=1)]).all()


def test_error_on_a_missing_output_names_it_and_those_there_are():
    with pytest.raises(RunError, match=r"output 'fine': expected .*, got no such output among \['coarse'\]"):
        decode_yolov3({"coarse": np.zeros((1, 21, 2, 2), np.float32)}, (COARSE, FINE), score_threshold=0.25)


@pytest.mark.parametrize("shape", [(1, 20, 2, 2), (1, 15, 2, 2), (21, 2, 2), (1, 2, 2, 21)])
def test_error_on_channels_that_do_not_fit_the_anchors(shape):
    with pytest.raises(RunError, match=r"output 'coarse': expected \(N, 3 \* \(5 \+ classes\), h, w\), got \("):
        decode_yolov3({"coarse": np.zeros(shape, np.float32)}, (COARSE,), score_threshold=0.25)
