"""What can be done with results of detectors: selecting, converting, drawing, showing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from edgekit.data.coco import COCO_CATEGORY_IDS, COCO_NAMES
from edgekit.errors import BackendUnavailable, DataError, UsageError
from edgekit.kernels.masks.masks import Crop
from edgekit.runtime.detections import (
    Detection,
    Detections,
    Poses,
    RotatedDetections,
    Segments,
    corners_of_rotated,
)
from edgekit.runtime.draw import class_color

# pycocotools 2.0.11 decodes with an interface that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (80, 60)
NAMES = ("cat", "dog", "<b>")


def common(count: int = 3) -> dict[str, object]:
    boxes = np.array([[10, 20, 40, 50.5], [5, 5, 25, 15], [40, 30, 80, 60]], np.float32)[:count]
    scores = np.array([0.9, 0.75, 0.5], np.float32)[:count]
    return {"boxes": boxes, "scores": scores, "classes": np.array([1, 0, 1])[:count], "names": NAMES, "size": SIZE}


def segments() -> Segments:
    random = np.random.default_rng(0)
    crops = tuple(
        Crop(left, top, random.random((height, width)) < 0.7)
        for left, top, width, height in ((10, 20, 30, 31), (5, 5, 20, 10), (40, 30, 40, 30))
    )
    return Segments(**common(), crops=crops)  # type: ignore[arg-type]


def poses(visible: float = 0.9) -> Poses:
    keypoints = np.random.default_rng(0).uniform(0, 60, (3, 17, 3)).astype(np.float32)
    keypoints[..., 2] = visible
    return Poses(**common(), keypoints=keypoints)  # type: ignore[arg-type]


def rotated() -> RotatedDetections:
    boxes = np.array([[40, 30, 20, 10, 0.5], [20, 20, 8, 12, -0.7], [60, 40, 10, 10, 2.0]], np.float32)
    corners = corners_of_rotated(boxes)
    upright = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return RotatedDetections(**{**common(), "boxes": upright}, rotated=boxes)  # type: ignore[arg-type]


RESULTS = {
    "detections": lambda: Detections(**common()),  # type: ignore[arg-type]
    "segments": segments,
    "poses": poses,
    "rotated": rotated,
}


@pytest.fixture(params=RESULTS)
def result(request: pytest.FixtureRequest) -> Detections:
    return RESULTS[request.param]()


def test_one_index_gives_an_object_and_several_a_result_of_the_same_type(result: Detections) -> None:
    assert result[1].label == "cat" and result[-1].score == 0.5 and result[np.int64(0)].label == "dog"
    for index in (slice(0, 2), [0, 1], [True, True, False], np.array([0, 1]), result.scores > 0.6):
        some = result[index]
        assert type(some) is type(result) and some.labels == ["dog", "cat"] and some.size == SIZE
        assert [each.box for each in some] == [each.box for each in result][:2]
    assert len(result[[]]) == len(result[:0]) == 0 and result[[2, 0]].labels == ["dog", "dog"]
    with pytest.raises(IndexError):
        result[3]


def test_what_belongs_to_an_object_goes_with_it() -> None:
    np.testing.assert_array_equal(segments()[[2, 0]].masks, segments().masks[[2, 0]])
    np.testing.assert_array_equal(segments()[1].mask, segments().masks[1])
    np.testing.assert_array_equal(poses()[1:].keypoints, poses().keypoints[1:])
    np.testing.assert_array_equal(poses()[1].keypoints, poses().keypoints[1])
    np.testing.assert_array_equal(rotated()[[True, False, True]].corners, rotated().corners[[0, 2]])
    assert rotated()[0].rotated == pytest.approx((40, 30, 20, 10, 0.5))


def test_objects_are_tuples_that_begin_with_label_score_and_box(result: Detections) -> None:
    for each in result:
        label, score, box = each[:3]
        assert (label, score, box) == (each.label, each.score, each.box)
    assert isinstance(RESULTS["detections"]()[0], Detection)


def test_error_when_arrays_differ_in_length() -> None:
    with pytest.raises(UsageError, match=r"Detections: expected boxes \(N, 4\) .* the lengths boxes 3, scores 2"):
        Detections(np.zeros((3, 4)), np.zeros(2), np.zeros(3, np.int64))
    with pytest.raises(UsageError, match="boxes 3, scores 3, classes 3, keypoints 2"):
        Poses(**common(), keypoints=np.zeros((2, 17, 3)))  # type: ignore[arg-type]


def test_a_result_says_what_it_is(result: Detections) -> None:
    assert repr(result) == f"<{type(result).__name__}: 3 objects in 80 x 60 px: 2 dog, 1 cat>"
    assert repr(Detections(np.zeros((1, 4)), np.zeros(1), np.zeros(1, np.int64))) == "<Detections: 1 object: 1 0>"
    assert repr(result[:0]) == f"<{type(result).__name__}: 0 objects in 80 x 60 px>"


def test_masks_have_the_size_of_the_image_and_convert_to_coco_s_forms() -> None:
    coder = pytest.importorskip("pycocotools.mask")
    found = segments()
    assert found.masks.shape == (3, 60, 80) and found.masks.dtype == bool
    np.testing.assert_array_equal(coder.decode(found.rle()).transpose(2, 0, 1), found.masks)
    assert all(polygon.shape[1:] == (2,) for polygons in found.polygons() for polygon in polygons)


def test_corners_of_rotated_boxes_are_those_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for (x, y, width, height, angle), corners in zip(rotated().rotated.tolist(), rotated().corners, strict=True):
        expected = cv2.boxPoints(((x, y), (width, height), np.degrees(angle)))
        distances = np.linalg.norm(corners[:, None] - expected[None], axis=2)
        assert (distances.min(axis=0) < 1e-3).all() and (distances.min(axis=1) < 1e-3).all()
        # In order around the box: opposite corners are farthest apart.
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
        assert sorted(sides.tolist()) == pytest.approx(sorted([width, width, height, height]), abs=1e-3)


def test_entries_are_what_coco_s_own_tools_take(result: Detections) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 42, "width": 80, "height": 60}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
    }
    coco.createIndex()
    entries = json.loads(json.dumps(result.to_coco(42)))
    assert [entry["category_id"] for entry in entries] == [2, 1, 2]
    loaded = coco.loadRes(entries)
    assert [loaded.anns[i + 1]["bbox"] for i in range(3)] == [entry["bbox"] for entry in entries]
    assert entries[0]["score"] == 0.9 and entries[0]["image_id"] == 42
    if isinstance(result, Segments):
        np.testing.assert_array_equal(loaded.annToMask(loaded.anns[1]), result.masks[0])
    if isinstance(result, Poses):
        np.testing.assert_allclose(np.reshape(entries[0]["keypoints"], (17, 3)), result.keypoints[0], atol=1e-3)
    if isinstance(result, RotatedDetections):
        assert int(loaded.annToMask(loaded.anns[1]).sum()) == pytest.approx(20 * 10, rel=0.1)


def detections(names: tuple[str, ...], *classes: int) -> Detections:
    boxes = np.array([[10, 20, 40, 60.5]] * len(classes), np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(classes), 0.75, np.float32), np.array(classes, np.int64), tuple(names))


def test_classes_without_names_are_numbers() -> None:
    assert detections((), 3).labels == ["3"]
    assert detections(("a",), 0, 1).labels == ["a", "1"]


def test_category_ids_of_coco_s_classes_are_coco_s_own() -> None:
    darknet = tuple({"couch": "sofa", "tv": "tvmonitor"}.get(name, name) for name in COCO_NAMES)
    for names in (COCO_NAMES, darknet):
        results = detections(names, 0, 11, 12, 79).to_coco(42)
        assert [entry["category_id"] for entry in results] == [1, 13, 14, 90]
    assert results[0] == {"image_id": 42, "category_id": 1, "bbox": [10.0, 20.0, 30.0, 40.5], "score": 0.75}
    assert len(COCO_CATEGORY_IDS) == 80


def test_category_ids_of_other_classes_count_from_one() -> None:
    assert [entry["category_id"] for entry in detections(("cat", "dog"), 0, 1).to_coco(1)] == [1, 2]
    assert [entry["category_id"] for entry in detections(COCO_NAMES[::-1], 79).to_coco(1)] == [80]
    assert [entry["category_id"] for entry in detections((), 7).to_coco(1)] == [8]


def test_a_result_draws_itself_into_the_picture_that_it_remembers(result: Detections, tmp_path) -> None:
    picture = np.full((60, 80, 3), 200, np.uint8)
    drawn = result.with_picture(picture).plot()
    assert drawn.size == SIZE and (np.asarray(drawn) != picture).any() and (picture == 200).all()
    np.testing.assert_array_equal(np.asarray(result.plot(picture)), np.asarray(drawn))
    np.testing.assert_array_equal(np.asarray(result[:2].with_picture(picture)[:1].plot()), result[:1].plot(picture))
    saved = result.with_picture(picture).save(tmp_path / "new" / "drawn.png")
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), np.asarray(drawn))


def test_the_picture_may_be_a_frame_in_another_format_or_a_file(tmp_path) -> None:
    red = np.zeros((60, 80, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    empty = RESULTS["detections"]()[:0]
    for source, format in (
        (red[..., ::-1].copy(), "bgr"),
        (tmp_path / "red.png", "rgb"),
        (Image.fromarray(red), "rgb"),
    ):
        with_picture = empty.with_picture(source, format)
        np.testing.assert_array_equal(np.asarray(with_picture.plot()), red)
        assert with_picture.picture.size == SIZE


def test_errors_of_plot_and_save_say_what_to_do(result: Detections, tmp_path) -> None:
    with pytest.raises(UsageError, match="plot: expected a picture") as error:
        result.plot()
    assert error.value.hint == "pass it: plot(image)"
    with pytest.raises(DataError, match="gone.jpg: expected an image, got no such file"):
        result.with_picture(tmp_path / "gone.jpg").plot()
    with pytest.raises(UsageError, match="boxes.xyz: expected the name of an image") as error:
        result.save(tmp_path / "boxes.xyz", np.zeros((60, 80, 3), np.uint8))
    assert error.value.hint == "name it .jpg or .png"


def test_masks_are_translucent() -> None:
    picture = np.full((60, 80, 3), 200, np.uint8)
    found = segments()[2:]
    pixels = np.asarray(found.plot(picture))
    inside = found.masks[0].copy()
    inside[:, :44] = inside[:36] = inside[56:] = inside[:, 76:] = False  # not those below the box's line and label
    color = 0.55 * 200 + 0.45 * np.array(class_color(1))
    np.testing.assert_allclose(pixels[inside], np.tile(color, (inside.sum(), 1)), atol=0.51)
    outside = ~found.masks[0]
    outside[:, :44] = outside[:36] = outside[56:] = outside[:, 76:] = False
    assert (pixels[outside] == 200).all()


def test_key_points_are_dots_and_bones_where_they_are_visible() -> None:
    picture = np.zeros((60, 80, 3), np.uint8)
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 5], keypoints[0, 7], keypoints[0, 9] = (30, 30, 1), (50, 30, 1), (50, 50, 0.1)
    shown = Poses(**common(1), keypoints=keypoints)  # type: ignore[arg-type]
    without = np.asarray(Detections(**common(1)).plot(picture))  # type: ignore[arg-type]
    drawn = np.asarray(shown.plot(picture))
    changed = (drawn != without).any(axis=2)
    assert changed[30, 30:51].all() and not changed[34:, 44:].any()
    assert tuple(drawn[30, 45]) == class_color(7) and tuple(drawn[30, 30]) == class_color(5)
    few = Poses(**common(1), keypoints=keypoints[:, :9])  # type: ignore[arg-type]
    assert not (np.asarray(few.plot(picture)) != without).any(axis=2)[30, 38:43].any()


def test_a_rotated_box_is_drawn_along_its_own_edges() -> None:
    box = np.array([[250, 180, 160, 80, np.pi / 4]], np.float32)
    found = RotatedDetections(**common(1), rotated=box)  # type: ignore[arg-type]
    pixels = np.asarray(found.plot(np.zeros((300, 400, 3), np.uint8)))
    colored = (pixels == class_color(1)).all(axis=2)
    middles = (found.corners[0] + np.roll(found.corners[0], 1, axis=0)) / 2
    assert all(colored[round(float(y)) - 1 : round(float(y)) + 2, round(float(x))].any() for x, y in middles)
    assert not colored[50, 10:40].any()  # the lower edge of `boxes`


def test_a_notebook_shows_the_picture_and_a_table_without_markup_from_labels(result: Detections) -> None:
    named = type(result)(**{**vars(result), "classes": np.array([2, 2, 0])})
    page = named.with_picture(np.zeros((60, 80, 3), np.uint8))._repr_html_()
    assert page.count("<tr>") == 4 and "data:image/jpeg;base64," in page and 'width="80" height="60"' in page
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "<img" not in result._repr_html_()
    many = result[np.zeros(50, np.int64)]
    assert many._repr_html_().count("<tr>") == 21 and "and 30 more" in many._repr_html_()


def test_supervision_takes_boxes_masks_corners_and_key_points(result: Detections) -> None:
    pytest.importorskip("supervision")
    found = result.to_supervision()
    assert list(found.data["class_name"]) == ["dog", "cat", "dog"]
    np.testing.assert_array_equal(found.class_id, [1, 0, 1])
    if isinstance(result, Poses):
        np.testing.assert_array_equal(found.xy, result.keypoints[..., :2])
        return
    np.testing.assert_array_equal(found.xyxy, result.boxes)
    np.testing.assert_array_equal(found.confidence, result.scores)
    assert (found.mask is not None) == isinstance(result, Segments)
    if isinstance(result, RotatedDetections):
        np.testing.assert_array_equal(found.data["xyxyxyxy"], result.corners)


def test_error_without_supervision(result: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(BackendUnavailable, match="to_supervision: expected the package supervision") as error:
        result.to_supervision()
    assert error.value.hint == "pip install supervision"
