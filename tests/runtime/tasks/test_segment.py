"""Engines whose results have masks."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from edgekit.errors import RunError
from edgekit.recipe.heads import YoloV8
from edgekit.runtime.detections import Detections, Segments
from edgekit.runtime.session import Session
from edgekit.runtime.tasks.choose import task_of
from edgekit.runtime.tasks.detector import boxes_from_outputs
from edgekit.specs import TensorSpec
from tests.runtime.conftest import ScriptedEngine

HEAD = YoloV8(output="output0", extras=8, masks="output1")
IMAGE = np.random.default_rng(5).integers(0, 256, (90, 131, 3), dtype=np.uint8)
SIZE = (131, 90)  # 64 x 44 in the input, below 2 px of padding


@pytest.fixture
def manifest(letterboxed):
    return letterboxed("segment", HEAD, TensorSpec("output1", "float32", (1, 8, 12, 16)))


@pytest.fixture
def outputs(raw_cells):
    """Three objects; the mask of the third is empty."""
    cells = raw_cells(8)
    cells[0, 4:6, [3, 17, 29]] = [[0.9, 0.1], [0.1, 0.8], [0.7, 0.2]]
    cells[0, :4, [3, 17, 29]] = [[16, 20, 20, 24], [44, 24, 30, 30], [32, 40, 10, 10]]
    prototypes = np.random.default_rng(1).normal(size=(1, 8, 12, 16)).astype(np.float32)
    prototypes[0, 0] = np.abs(prototypes[0, 0]) + 0.1
    cells[0, 6:, 29] = [-1, *[0] * 7]
    return {"output0": cells, "output1": prototypes}


@pytest.fixture
def session(manifest, outputs):
    engine = ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs)
    with Session(engine, manifest) as session:
        yield session


def expected_masks(outputs: dict[str, np.ndarray], cells: list[int], boxes: np.ndarray) -> np.ndarray:
    """By the steps of Ultralytics with ``retina_masks``, in PyTorch: sum, upsampling, cut, resize, box."""
    coefficients = torch.tensor(outputs["output0"][0, 6:, cells]).double()
    sums = torch.einsum("nc,chw->nhw", coefficients, torch.tensor(outputs["output1"][0]).double())
    large = interpolate(sums[None], scale_factor=2, mode="bilinear")[..., 1:23, :]  # 2 of 48 px are half a px of 12
    resized = interpolate(large, SIZE[::-1], mode="bilinear")[0].numpy()
    x, y = np.arange(SIZE[0])[None, None], np.arange(SIZE[1])[None, :, None]
    x1, y1, x2, y2 = (boxes[:, i, None, None] for i in range(4))
    return (resized > 0) & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


def test_masks_have_the_size_of_the_image_and_empty_ones_are_left_out(session, outputs) -> None:
    found = session.predict(IMAGE)
    assert isinstance(found, Segments) and found.labels == ["cat", "dog"] and found.size == SIZE
    scale = np.array([64 / 131, 44 / 90] * 2)
    expected = (np.array([[6, 8, 26, 32], [29, 9, 59, 39]]) - [0, 2, 0, 2]) / scale
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)
    masks = expected_masks(outputs, [3, 17], found.boxes)
    assert found.masks.shape == masks.shape == (2, 90, 131) and masks.any(axis=(1, 2)).all()
    assert (found.masks != masks).sum() <= 2  # where a sum is near 0


def test_detect_gives_the_result_of_the_engine_s_own_task(session) -> None:
    found = session.detect(IMAGE, score_threshold=0.85)
    assert isinstance(found, Segments) and found.labels == ["cat"]
    (streamed, _) = session.stream([IMAGE, IMAGE])
    assert isinstance(streamed, Segments) and len(streamed) == 2 and streamed.picture is None
    assert session.detect(IMAGE).picture.source is IMAGE


def test_boxes_alone_are_found_without_masks(manifest, outputs, session) -> None:
    _, placement = session.preprocess(IMAGE)
    found = boxes_from_outputs(outputs, manifest, placement)
    assert type(found) is Detections and len(found) == 3
    assert isinstance(session.postprocess(outputs, placement), Segments)


def test_an_engine_that_finds_nothing_has_no_masks(manifest, outputs) -> None:
    outputs["output0"][0, 4:6] = 0
    with Session(ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs), manifest) as session:
        found = session.predict(IMAGE)
    assert len(found) == 0 and found.masks.shape == (0, 90, 131) and found.rle() == found.polygons() == []


def test_what_the_command_line_shows_and_writes(session, tmp_path) -> None:
    task, found = task_of(session.manifest), session.predict(IMAGE)
    shown = task.shown(found)
    assert shown.headline == "2 objects" and shown.columns[-1] == "mask px"
    assert shown.rows[0][0] == "cat" and shown.rows[0][-1] == str(found.masks[0].sum())
    entries = json.loads(json.dumps(task.entries(found, tmp_path / "a.jpg", 7)))
    assert entries[0]["segmentation"] == found.rle()[0] and entries[0]["file_name"] == "a.jpg"
    assert task.drawn(found, IMAGE).size == SIZE and task.example(session.manifest) == "PHOTO.jpg --save masks.jpg"


def test_error_when_the_head_is_for_another_task(letterboxed, outputs) -> None:
    manifest = letterboxed("segment", msgspec.structs.replace(HEAD, masks=""))
    with Session(ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs), manifest) as session:
        with pytest.raises(RunError, match="'made-segment': expected a head for task 'segment', got one for 'detect'"):
            session.predict(IMAGE)


def test_error_when_the_prototypes_do_not_fit(manifest, outputs) -> None:
    outputs["output1"] = np.zeros((1, 9, 12, 16), np.float32)
    with Session(ScriptedEngine(manifest.inputs, manifest.outputs, lambda feeds: outputs), manifest) as session:
        with pytest.raises(RunError, match=r"prototypes of masks: .* got \(9, 12, 16\) and \(3, 8\)"):
            session.predict(IMAGE)
