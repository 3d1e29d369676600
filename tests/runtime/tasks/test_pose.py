"""Engines whose results have key points."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit.recipe.heads import End2End, YoloV8
from edgekit.runtime.detections import Poses
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.choose import task_of
from tests.runtime.conftest import ScriptedEngine

IMAGE = np.zeros((90, 131, 3), np.uint8)
SCALE = np.array([64 / 131, 44 / 90])


@pytest.fixture(params=[2, 3])
def case(request, letterboxed, raw_cells):
    """A manifest and outputs with two objects, and the key points that are expected."""
    values = request.param
    head = YoloV8(output="output0", extras=5 * values, keypoints=(5, values))
    cells = raw_cells(5 * values)
    cells[0, 4:6, [3, 17]] = [[0.9, 0.1], [0.1, 0.8]]
    points = np.random.default_rng(2).uniform(-5, 70, (2, 5, values)).astype(np.float32)
    points[..., 2:] = [[[0.1], [0.9], [0.3], [0.2], [0.8]]]
    cells[0, 6:, [3, 17]] = points.reshape(2, -1)
    expected = np.ones((2, 5, 3))
    expected[..., :values] = points
    expected[..., :2] = ((points[..., :2] - [0, 2]) / SCALE).clip(0, (131, 90))
    return letterboxed("pose", head), {"output0": cells}, expected


@pytest.fixture
def session(case):
    manifest, outputs, _ = case
    with Session(ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs), manifest) as session:
        yield session


def test_key_points_lie_in_the_image_and_all_are_visible_if_the_model_does_not_say(session, case) -> None:
    found = session.predict(IMAGE)
    assert isinstance(found, Poses) and found.labels == ["cat", "dog"]
    assert found.keypoints.dtype == np.float32
    np.testing.assert_allclose(found.keypoints, case[2], atol=1e-3)


def test_what_the_command_line_shows_and_writes(session, case, tmp_path) -> None:
    task, found = task_of(session.manifest), session.predict(IMAGE)
    visible = int((case[2][0, :, 2] >= 0.25).sum())
    assert task.shown(found).rows[0][-1] == f"{visible} of 5"
    entry = json.loads(json.dumps(task.entries(found, tmp_path / "a.jpg", 7)))[0]
    np.testing.assert_allclose(np.reshape(entry["keypoints"], (5, 3)), found.keypoints[0], atol=1e-3)
    assert task.example(session.manifest) == "PHOTO.jpg --save poses.jpg"


def test_rows_of_a_model_without_suppression_have_their_key_points_after_the_class(letterboxed) -> None:
    manifest = letterboxed("pose", End2End(output="output0", extras=6, keypoints=(2, 3)))
    rows = np.zeros((1, 3, 12), np.float32)
    rows[0, 1] = [10, 12, 30, 40, 0.9, 1, 16, 24, 0.5, 32, 46, 0.25]
    outputs = {"output0": rows}
    with Session(ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs), manifest) as session:
        found = session.predict(np.zeros((44, 64, 3), np.uint8))
    assert found.labels == ["dog"]
    np.testing.assert_allclose(found.keypoints, [[[16, 22, 0.5], [32, 44, 0.25]]])
