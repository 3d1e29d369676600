import numpy as np
import pytest

from edgekit.data.examples import data_set
from edgekit.data.images import preprocess
from edgekit.data.input_statistics import statistics_of_inputs
from edgekit.recipe.schema import load_recipe

random = np.random.default_rng(0)


def test_statistics_are_those_of_numpy():
    inputs = random.normal(2, 3, (40, 3, 8, 8)).astype(np.float32)
    found = statistics_of_inputs(inputs, "training")
    means = inputs.reshape(40, -1).astype(np.float64).mean(1)
    assert (found.source, found.count) == ("training", 40)
    assert found.mean == pytest.approx(means.mean()) and found.std == pytest.approx(means.std())
    assert found.contrast == pytest.approx(inputs.reshape(40, -1).astype(np.float64).std(1).mean())
    assert statistics_of_inputs([], "training") is None
    assert statistics_of_inputs([np.array([np.nan])], "training") is None


def test_digits_of_the_other_polarity_are_far_and_no_digit_of_the_test_split_is():
    pytest.importorskip("sklearn")
    recipe = load_recipe("lenet")
    assert recipe.expects == "white digits on black"
    shape = recipe.inputs[0].shape

    def inputs(split, step, invert=False):
        examples = data_set("digits", split=split)
        for i in range(0, len(examples), step):
            gray = examples[i].input
            rgb = np.repeat((255 - gray if invert else gray)[..., None], 3, axis=2)
            yield preprocess(rgb, recipe.preprocess, shape)[0]

    found = statistics_of_inputs(inputs("train", 20), "training")
    assert not any(map(found.why_far, inputs("test", 3)))
    assert all(map(found.why_far, inputs("test", 12, invert=True)))
    assert "training inputs is 0." in found.why_far(next(inputs("test", 300, invert=True)))


def test_few_inputs_say_nothing_and_nan_is_not_far():
    few, many = (statistics_of_inputs(random.normal(0, 1, (n, 9)), "calibration") for n in (15, 16))
    far = np.full(9, 99.0)
    assert not few.why_far(far) and many.why_far(far)
    assert not many.why_far(np.full(9, np.nan))
