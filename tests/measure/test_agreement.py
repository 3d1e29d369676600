"""How far two engines agree, on made-up outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.data.images import preprocess
from edgekit.engine.bundle.manifest import Manifest, read_manifest
from edgekit.measure.agreement import agreement_of_outputs, compared_pictures, overlaps_of_boxes
from edgekit.recipe.heads import YoloHead, YoloV3
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.specs import TensorSpec


@pytest.fixture
def manifest(make_bundle: Callable[..., Path]) -> Manifest:
    """A YOLOv3 detector of cats and dogs with one anchor of 32 x 16 px in cells of 32 px."""
    return read_manifest(
        make_bundle(
            outputs=(TensorSpec("head", "float32", (1, 7, 2, 2)),),
            postprocess=Postprocess(head=YoloV3(heads=(YoloHead(output="head", stride=32, anchors=((32.0, 16.0),)),))),
        )
    )


def head(*objects: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """The raw output that detects objects of a class in the middle of cells (row, column)."""
    raw = np.full((1, 7, 2, 2), -30.0, np.float32)
    raw[:, :4] = 0.0
    for row, column, kind in objects:
        raw[0, 4, row, column], raw[0, 5 + kind, row, column] = 3.0, 30.0
    return {"head": raw}


def test_objects_agree_by_class_and_overlap(manifest: Manifest) -> None:
    reference = [head((0, 0, 1), (1, 1, 0)), head((0, 1, 1))]
    got = [head((0, 0, 1), (1, 1, 1)), head((1, 0, 1), (0, 1, 1))]
    found = agreement_of_outputs(reference, got, manifest)
    assert found is not None and found.kind == "detections"
    assert (found.inputs, found.reference, found.same, found.extra) == (2, 3, 2, 2)
    assert found.mean_iou == pytest.approx(1.0)


def test_an_object_that_moved_by_half_its_width_is_another(manifest: Manifest) -> None:
    moved = head((0, 0, 1))
    moved["head"][0, 0, 0, 0] = 30.0  # the sigmoid is 1: half a cell to the right
    found = agreement_of_outputs([head((0, 0, 1))], [moved], manifest)
    assert found is not None and (found.same, found.extra, found.mean_iou) == (0, 1, None)


def test_classifiers_agree_by_their_best_class(make_bundle: Callable[..., Path]) -> None:
    manifest = read_manifest(make_bundle(postprocess=None, task="classify"))
    reference = [{"logits": np.array([[1.0, 2.0], [3.0, 0.0]])}, {"logits": np.array([[0.0, 1.0]])}]
    got = [{"logits": np.array([[1.0, 1.5], [0.0, 0.1]])}, {"logits": np.array([[0.0, 9.0]])}]
    found = agreement_of_outputs(reference, got, manifest)
    assert found is not None and (found.kind, found.reference, found.same) == ("top1", 3, 2)


def test_boxes_overlap_as_areas() -> None:
    found = overlaps_of_boxes(np.array([[0, 0, 4, 4]]), np.array([[2, 0, 6, 4], [0, 0, 4, 4], [9, 9, 9, 9]]))
    np.testing.assert_allclose(found, [[1 / 3, 1.0, 0.0]])
    assert overlaps_of_boxes(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pictures_are_those_that_the_engine_got(manifest: Manifest, color: str, layout: str) -> None:
    how = Preprocess(color=color, layout=layout, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))  # type: ignore[arg-type]
    shape = (1, 3, 64, 64) if layout == "nchw" else (1, 64, 64, 3)
    manifest = msgspec.structs.replace(manifest, preprocess=how, inputs=(TensorSpec("images", "float32", shape),))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    plain = np.zeros_like(pixels)
    feeds = [{"images": preprocess(image, how, shape)[0]} for image in (plain, pixels)]
    outputs = [head(), head((0, 0, 1))]
    (found,) = compared_pictures(feeds, outputs, outputs, manifest, limit=1)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.reference.labels == ["dog"]
