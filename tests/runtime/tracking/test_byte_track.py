from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.kernels.masks.masks import Crop
from edgekit.kernels.suppression.reference import iou
from edgekit.runtime.detections import Detections, Segments
from edgekit.runtime.tracking.byte_track import ByteTrack, TrackOptions, iou_matrix
from edgekit.runtime.tracking.results import Tracking

SCORE = 0.9


def box(x: float, y: float, width: float = 40, height: float = 80) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def tracked(
    scene: list[dict[str, tuple[list[float], float]]],
    *,
    seed: int = 0,
    noise: float = 0.0,
    tracker: ByteTrack | None = None,
) -> list[dict[str, int]]:
    """Runs a tracker on a scene: for each frame, the boxes and scores of named objects, in random order."""
    random = np.random.default_rng(seed)
    tracker = tracker or ByteTrack()
    found = []
    for frame in scene:
        names = random.permutation(sorted(frame)).tolist()
        boxes = np.array([frame[name][0] for name in names], np.float32).reshape(-1, 4)
        boxes += random.normal(scale=noise, size=boxes.shape) if noise else 0
        scores = np.array([frame[name][1] for name in names], np.float32)
        ids = tracker.update(boxes, scores, np.zeros(len(names), np.int64))
        found.append(dict(zip(names, ids.tolist(), strict=True)))
    return found


def ids_of(name: str, found: list[dict[str, int]]) -> set[int]:
    return {frame[name] for frame in found if frame.get(name)}


def test_overlap_is_that_of_the_reference() -> None:
    random = np.random.default_rng(0)
    a, b = (np.sort(random.uniform(0, 50, (n, 2, 2)), axis=1).reshape(n, 4) for n in (7, 5))
    expected = [[iou(one, other) for other in b.tolist()] for one in a.tolist()]
    np.testing.assert_allclose(iou_matrix(a, b), expected, atol=1e-12)
    assert iou_matrix(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]


@pytest.mark.parametrize("seed", range(5))
def test_objects_that_cross_keep_their_identities(seed: int) -> None:
    """Two people walk towards each other and pass, one in front of the other."""
    scene = [{"left": (box(100 + 6 * t, 200), SCORE), "right": (box(400 - 6 * t, 212), SCORE)} for t in range(50)]
    found = tracked(scene, seed=seed, noise=1.0)
    assert len(ids_of("left", found)) == len(ids_of("right", found)) == 1
    assert ids_of("left", found) != ids_of("right", found)


def test_an_object_that_is_hidden_for_a_while_comes_back_as_itself() -> None:
    """A car disappears behind a truck for 15 frames."""
    scene = []
    for t in range(60):
        frame = {"truck": (box(300, 150, 120, 120), SCORE)}
        if not 20 <= t < 35:
            frame["car"] = (box(60 + 8 * t, 240, 60, 40), SCORE)
        scene.append(frame)
    found = tracked(scene, noise=0.5)
    assert len(ids_of("car", found)) == len(ids_of("truck", found)) == 1


def test_a_track_goes_on_through_frames_of_a_low_score() -> None:
    """The second association: the box that other trackers drop, since its score is below the threshold."""
    low = range(10, 30)
    scene = [{"one": (box(100 + 4 * t, 100), 0.3 if t in low else SCORE)} for t in range(40)]
    found = tracked(scene)
    assert [frame["one"] for frame in found] == [1] * 40


def test_a_low_score_begins_no_track() -> None:
    found = tracked([{"ghost": (box(100, 100), 0.3)}] * 10)
    assert ids_of("ghost", found) == set()
    # Nor does a score between that of the first association and that of a new track.
    assert ids_of("ghost", tracked([{"ghost": (box(100, 100), 0.65)}] * 3)) == set()


def test_a_low_score_does_not_continue_a_track_that_was_lost_before() -> None:
    scene = [{"one": (box(100, 100), SCORE)}] * 5 + [{}] * 3 + [{"one": (box(100, 100), 0.3)}] * 2
    assert [frame.get("one") for frame in tracked(scene)] == [1] * 5 + [None] * 3 + [0] * 2


@pytest.mark.parametrize(("missing", "same"), [(29, True), (30, False)])
def test_a_track_is_kept_for_thirty_frames(missing: int, same: bool) -> None:
    scene = [{"one": (box(100, 100), SCORE)}] * 5 + [{}] * missing + [{"one": (box(100, 100), SCORE)}]
    found = tracked(scene)
    assert (found[-1]["one"] == 1) == same


def test_dropped_frames_count_for_the_motion() -> None:
    tracker = ByteTrack()
    ids = []
    for t in [*range(12), 16, 20, 21]:
        boxes = np.array([box(50 + 12 * t, 100)], np.float32)
        ids += tracker.update(boxes, np.array([SCORE]), np.array([0]), index=t).tolist()
    assert ids == [1] * 15


def test_classes_are_never_the_same_object() -> None:
    tracker = ByteTrack()
    for kind, expected in ((0, 1), (0, 1), (2, 2), (0, 1)):
        ids = tracker.update(np.array([box(100, 100)], np.float32), np.array([SCORE]), np.array([kind]))
        assert ids.tolist() == [expected]


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_keeps_its_identities(seed: int) -> None:
    """Twelve people, who start apart and whose ways cross, each hidden or faint now and then."""
    random = np.random.default_rng(seed)
    starts = np.stack(np.meshgrid(np.arange(4), np.arange(3)), axis=2).reshape(12, 2) * 150 + random.uniform(0, 50, 2)
    speeds = random.uniform(-5, 5, (12, 2))
    scene = []
    for t in range(80):
        frame = {}
        for person in range(12):
            score = random.choice([SCORE, 0.35], p=[0.9, 0.1])
            if random.random() > 0.04:
                frame[f"{person}"] = (box(*(starts[person] + t * speeds[person])), score)
        scene.append(frame)
    found = tracked(scene, seed=seed, noise=1.0)
    changes = sum(len(ids_of(f"{person}", found)) - 1 for person in range(12))
    assert changes <= 1


def test_error_on_scores_out_of_order() -> None:
    with pytest.raises(UsageError, match="0 <= low_score <= high_score"):
        TrackOptions(high_score=0.05)


def test_results_have_the_objects_that_are_tracked() -> None:
    tracking = Tracking(0.5)
    assert tracking.low_score == 0.1
    boxes = np.array([box(100, 100), box(300, 100)], np.float32)
    for index, scores in enumerate([[0.9, 0.3], [0.3, 0.3], [0.9, 0.6]]):
        result = Detections(boxes, np.array(scores, np.float32), np.array([0, 1]), ("cat", "dog"))
        followed = tracking.followed(result, index)
        seen = [True, index == 2]
        assert followed.tracks.tolist() == [1, 2][: sum(seen)]
        assert followed.labels == ["cat", "dog"][: sum(seen)]
        np.testing.assert_array_equal(followed.boxes, boxes[seen])


def test_masks_go_with_the_objects_that_are_tracked() -> None:
    boxes = np.array([box(100, 100), box(300, 100)], np.float32)
    crops = tuple(Crop(0, 0, np.full((2, 2), bool(i))) for i in range(2))
    scores, classes = np.array([0.3, 0.9], np.float32), np.array([0, 1])
    result = Segments(boxes, scores, classes, ("cat", "dog"), crops=crops, size=(400, 200))
    followed = Tracking(0.5).followed(result, 0)
    assert isinstance(followed, Segments) and followed.crops == crops[1:] and followed.tracks.tolist() == [1]
