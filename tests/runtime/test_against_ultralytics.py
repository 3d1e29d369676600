"""Boxes, masks, key points and rotated boxes against recorded results of Ultralytics' own postprocessing.

`tools/record_ultralytics.py` has made them, with ultralytics 8.4.190.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.engine.bundle.manifest import Manifest
from edgekit.kernels.preprocess.geometry import placement
from edgekit.recipe.heads import End2End, Head, YoloV8
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.runtime.detections import Detections, Poses, RotatedDetections, Segments
from edgekit.runtime.tasks.detector import detections_from_outputs
from edgekit.specs import TensorSpec
from tools.record_ultralytics import CASES, COEFFICIENTS, INPUT, KEYPOINTS, RECORDED, THRESHOLDS, raw_outputs

LETTERBOX = Preprocess(resize="letterbox", rounding="nearest", pad=114, antialias=False)
RESULTS = np.load(RECORDED)


def head_of(name: str) -> Head:
    case = CASES[name]
    fields = {
        "detect": {},
        "segment": {"extras": COEFFICIENTS, "masks": "output1"},
        "pose": {"extras": KEYPOINTS[0] * KEYPOINTS[1], "keypoints": KEYPOINTS},
        "obb": {"extras": 1, "angle": True},
    }[case.task]
    if case.end2end:
        return End2End(output="output0", **fields)  # type: ignore[arg-type]
    overlap = {"overlap": "probiou", "suppression": "fast"} if case.task == "obb" else {}
    return YoloV8(output="output0", multi_label=case.multi_label, **fields, **overlap)  # type: ignore[arg-type]


@pytest.fixture
def found(request: pytest.FixtureRequest, detector: Manifest) -> tuple[str, Detections, dict[str, np.ndarray]]:
    name = request.param
    outputs, case = raw_outputs(name), CASES[name]
    manifest = msgspec.structs.replace(
        detector,
        task=case.task,
        inputs=(TensorSpec("images", "float32", (1, 3, *INPUT[::-1])),),
        outputs=tuple(TensorSpec(key, "float32", array.shape) for key, array in outputs.items()),
        preprocess=LETTERBOX,
        postprocess=Postprocess(head=head_of(name), **THRESHOLDS),  # type: ignore[arg-type]
        labels=(),
    )
    place = placement(LETTERBOX, case.size, INPUT).placement
    keys = ("boxes", "scores", "classes", "masks", "keypoints", "angles")
    expected = {key: RESULTS[f"{name}/{key}"] for key in keys if f"{name}/{key}" in RESULTS}
    if case.task != "obb":  # Ultralytics keeps boxes in the padding, which have no area after they are clipped
        corners = expected["boxes"]
        solid = (corners[:, :2] < corners[:, 2:]).all(axis=1)
        assert solid.mean() > 0.95
        expected = {key: array[solid] for key, array in expected.items()}
    return name, detections_from_outputs(outputs, manifest, place), expected


def names(*tasks: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("found", [name for name, case in CASES.items() if case.task in tasks], indirect=True)


@names("detect", "segment", "pose")
def test_boxes_scores_and_classes_are_those_of_ultralytics(found) -> None:
    _, got, expected = found
    assert len(expected["scores"]) > 50
    np.testing.assert_array_equal(got.classes, expected["classes"])
    np.testing.assert_allclose(got.scores, expected["scores"], rtol=1e-6)
    np.testing.assert_allclose(got.boxes, expected["boxes"], atol=1e-3)


@names("segment")
def test_masks_are_those_of_ultralytics(found) -> None:
    name, got, expected = found
    assert isinstance(got, Segments)
    width, height = CASES[name].size
    masks = np.unpackbits(expected["masks"], axis=-1, count=width).astype(bool)
    assert got.masks.shape == masks.shape == (len(got), height, width)
    # A sum that is nearly 0 may have another sign after other roundings.
    assert (got.masks != masks).sum() <= 1e-5 * masks.sum() and masks.mean() > 0.001


@names("pose")
def test_key_points_are_those_of_ultralytics(found) -> None:
    _, got, expected = found
    assert isinstance(got, Poses)
    np.testing.assert_allclose(got.keypoints, expected["keypoints"], atol=1e-3)


@names("obb")
def test_rotated_boxes_are_those_of_ultralytics(found) -> None:
    _, got, expected = found
    assert isinstance(got, RotatedDetections) and len(expected["scores"]) > 50
    theirs = np.column_stack([expected["boxes"], expected["angles"]])
    np.testing.assert_array_equal(got.classes, expected["classes"])
    np.testing.assert_allclose(got.scores, expected["scores"], rtol=1e-6)
    np.testing.assert_allclose(got.rotated, theirs, atol=1e-3)
