from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import edgekit
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import DataError, RunError, UsageError
from edgekit.recipe.schema import Preprocess
from edgekit.runtime.tasks.classify import classes_from_outputs, logits_from_outputs, softmax
from edgekit.specs import TensorSpec

LOGITS = np.array([[0.0, 3.0, -1.0, 3.0, 1.0]], np.float32)


@pytest.fixture
def classifier(tensors: Manifest) -> Manifest:
    return msgspec.structs.replace(tensors, name="shapes", task="classify", labels=("dot", "line", "square", "ring"))


@given(arrays(np.float32, array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_is_pytorchs(logits: np.ndarray) -> None:
    expected = torch.softmax(torch.from_numpy(logits).double(), -1).float().numpy()
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_greatest_logits_do_not_overflow(dtype: type) -> None:
    greatest = np.finfo(dtype).max
    np.testing.assert_array_equal(softmax(np.array([greatest, greatest, -greatest], dtype)), [0.5, 0.5, 0.0])


def test_classes_come_best_first_and_equal_ones_by_their_number(classifier: Manifest) -> None:
    found = classes_from_outputs({"y": LOGITS}, classifier, top=4)
    assert found.indices.tolist() == [1, 3, 4, 0]
    assert found.labels == ["line", "ring", "4", "dot"]
    assert found.probabilities.sum() == pytest.approx(1 - softmax(LOGITS)[0, 2])
    assert list(found)[0] == found[0] == ("line", pytest.approx(float(softmax(LOGITS)[0, 1])))


def test_no_more_classes_than_there_are(classifier: Manifest) -> None:
    assert len(classes_from_outputs({"y": LOGITS}, classifier, top=99)) == 5


def test_sides_of_one_behind_the_classes_are_taken_away(classifier: Manifest) -> None:
    assert logits_from_outputs({"y": LOGITS[:, :, None, None]}, classifier).shape == (1, 5)


@pytest.mark.parametrize("shape", [(5,), (1, 5, 2, 2)])
def test_error_on_an_output_that_is_no_classifiers(classifier: Manifest, shape: tuple[int, ...]) -> None:
    with pytest.raises(RunError, match=r"expected one output \(N, classes\)"):
        logits_from_outputs({"y": np.zeros(shape, np.float32)}, classifier)


def test_error_on_two_outputs(classifier: Manifest) -> None:
    with pytest.raises(RunError, match=r"got y \(1, 5\); z \(1, 5\)"):
        classes_from_outputs({"y": LOGITS, "z": LOGITS}, classifier)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_error_on_logits_that_are_no_numbers(classifier: Manifest, value: float) -> None:
    with pytest.raises(RunError, match="finite"):
        classes_from_outputs({"y": np.array([[0, value]], np.float32)}, classifier)


def test_a_class_that_is_ruled_out_has_no_probability(classifier: Manifest) -> None:
    found = classes_from_outputs({"y": np.array([[-np.inf, 0.0]], np.float32)}, classifier)
    assert found.probabilities.tolist() == [1.0, 0.0]


def test_error_on_an_engine_for_another_task(tensors: Manifest) -> None:
    with pytest.raises(RunError, match="expected a classifier, got an engine for task 'tensor'"):
        classes_from_outputs({"y": LOGITS}, tensors)


def test_error_on_no_class_at_all(classifier: Manifest) -> None:
    with pytest.raises(UsageError, match="top: expected a whole number from 1 to 2147483647, got 0"):
        classes_from_outputs({"y": LOGITS}, classifier, top=0)


CLASSIFIER = {
    "task": "classify",
    "inputs": (TensorSpec("images", "float32", (1, 3, 32, 32)),),
    "outputs": (TensorSpec("logits", "float32", (1, 4)),),
    "preprocess": Preprocess(resize="crop"),
    "labels": ("dot", "line", "square", "ring"),
}


def test_a_session_classifies_an_image(make_bundle, picture: Path) -> None:
    with edgekit.load(make_bundle(kind=CLASSIFIER)) as session:
        found = session.classify(picture, top=2)
    assert list(found) == [("dot", 0.25), ("line", 0.25)]  # the null backend returns zeros


def test_a_session_of_a_detector_does_not_classify(detector_bundle, picture: Path) -> None:
    with edgekit.load(detector_bundle) as session, pytest.raises(RunError, match="expected a classifier"):
        session.classify(picture)


def test_a_session_of_a_classifier_does_not_detect(make_bundle, picture: Path) -> None:
    with edgekit.load(make_bundle(kind=CLASSIFIER)) as session, pytest.raises(RunError, match="expected a detector"):
        session.detect(picture)


def test_error_on_an_image_that_cannot_be_read(make_bundle, tmp_path: Path) -> None:
    with edgekit.load(make_bundle(kind=CLASSIFIER)) as session, pytest.raises(DataError, match="no such file"):
        session.classify(tmp_path / "missing.png")


@pytest.fixture
def detector_bundle(make_bundle) -> Path:
    return make_bundle("detector")
