"""Engines whose results have rotated boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit.kernels.decode.families import DETECTION
from edgekit.measure.agreement import agreement_of_outputs
from edgekit.recipe.heads import YoloV8
from edgekit.runtime.detections import RotatedDetections
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.choose import task_of
from tests.runtime.conftest import ScriptedEngine

IMAGE = np.zeros((88, 128, 3), np.uint8)  # half of it is 64 x 44, below 2 px of padding


@pytest.fixture
def outputs(raw_cells):
    cells = raw_cells(1)
    cells[0, :7, 3] = [20, 20, 20, 10, 0.9, 0.1, np.pi / 6]
    cells[0, :7, 17] = [40, 30, 8, 16, 0.1, 0.8, -0.5]
    return {"output0": cells}


@pytest.fixture
def manifest(letterboxed):
    return letterboxed("obb", YoloV8(output="output0", extras=1, angle=True, overlap="probiou"))


@pytest.fixture
def session(manifest, outputs):
    with Session(ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs), manifest) as session:
        yield session


def test_rotated_boxes_are_mapped_to_the_image(session) -> None:
    found = session.predict(IMAGE)
    assert isinstance(found, RotatedDetections) and found.labels == ["cat", "dog"] and found.size == (128, 88)
    np.testing.assert_allclose(found.rotated, [[40, 36, 40, 20, np.pi / 6], [80, 56, 16, 32, -0.5]], atol=1e-4)


def test_boxes_are_the_rectangles_around_the_corners(session) -> None:
    found = session.detect(IMAGE)
    np.testing.assert_allclose(found.boxes[:, :2], found.corners.min(axis=1))
    np.testing.assert_allclose(found.boxes[:, 2:], found.corners.max(axis=1))
    # The rectangle around one of 40 x 20 at 30 degrees.
    np.testing.assert_allclose(
        found.boxes[0, 2:] - found.boxes[0, :2], [40 * 3**0.5 / 2 + 10, 20 + 20 * 3**0.5 / 2], atol=1e-4
    )


def test_what_the_command_line_shows_and_writes(session, tmp_path) -> None:
    task, found = task_of(session.manifest), session.predict(IMAGE)
    assert task.shown(found).rows[0] == ("cat", "0.900", "40", "36", "40", "20", "30°")
    entry = json.loads(json.dumps(task.entries(found, tmp_path / "a.jpg", 7)))[0]
    np.testing.assert_allclose(entry["rotated"], found.rotated[0], rtol=1e-6)
    np.testing.assert_allclose(np.reshape(entry["segmentation"], (4, 2)), found.corners[0], atol=1e-3)


class OnDevice:
    """A session that decodes and suppresses on a GPU: it gives records of detections, and has no outputs."""

    def __init__(self, manifest, rows) -> None:
        self.manifest, self.rows, self.asked = manifest, rows, []

    def detect_on_device(self, image, format, **thresholds):
        self.asked.append(thresholds)
        return self

    def done(self) -> bool:
        return True

    def result(self) -> np.ndarray:
        return self.rows


def test_records_of_a_gpu_are_all_that_rotated_boxes_need(manifest) -> None:
    rows = np.zeros(1, DETECTION)
    rows["box"], rows["angle"], rows["score"], rows["class"] = [[40, 36, 40, 20]], 0.5, 0.9, 1
    session = OnDevice(manifest, rows)
    found = task_of(manifest).predict(session, IMAGE, score_threshold=0.4)
    np.testing.assert_allclose(found.rotated, [[40, 36, 40, 20, 0.5]])
    assert found.labels == ["dog"] and found.size == (128, 88) and found.picture.source is IMAGE
    streamed = task_of(manifest).start(session, IMAGE).result()
    assert streamed.size == (128, 88) and streamed.picture is None
    assert [each["score_threshold"] for each in session.asked] == [0.4, 0.25]


def test_the_build_compares_rotated_boxes_by_the_rectangles_around_them(manifest, outputs) -> None:
    agreement = agreement_of_outputs([outputs], [outputs], manifest)
    assert (agreement.reference, agreement.same, agreement.extra, agreement.mean_iou) == (2, 2, 0, pytest.approx(1))
