"""nms.cu, run on the CPU with the stand-in header, against the reference; and compiled for every architecture."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.kernels.suppression import reference

SOURCE = Path(edgekit.__file__).parent / "kernels" / "suppression" / "nms.cu"

Batch = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class OnCpu:
    """The kernels of nms.cu as a function of a batch."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.capacity = int(self._library.nms_capacity())

    def __call__(
        self, batch: Batch, *, score_threshold: float, iou_threshold: float, max_detections: int, seed: int = 0
    ) -> list[list[int]]:
        images, stride = len(batch), max(1, *(len(scores) for _, scores, _ in batch))
        boxes = np.full((images, stride, 4), np.nan, np.float32)
        scores, classes = np.full((images, stride), 9, np.float32), np.zeros((images, stride), np.int32)
        for index, (own_boxes, own_scores, own_classes) in enumerate(batch):
            boxes[index, : len(own_scores)] = own_boxes
            scores[index, : len(own_scores)] = own_scores
            classes[index, : len(own_scores)] = own_classes
        counts = np.array([len(own) for _, own, _ in batch], np.int32)
        kept, number = np.full((images, max(1, max_detections)), -7, np.int32), np.full(images, -7, np.int32)
        self._library.nms_batch(
            pointer(boxes), pointer(scores), pointer(classes), pointer(counts), images, stride,
            ctypes.c_float(score_threshold), ctypes.c_double(iou_threshold), max_detections, seed, pointer(kept),
            pointer(number),
        )  # fmt: skip
        return [row[:count].tolist() for row, count in zip(kept, number, strict=True)]


@pytest.fixture(scope="session")
def nms(on_cpu: Callable[..., Path]) -> OnCpu:
    return OnCpu(on_cpu("nms"))


def expected(batch: Batch, capacity: int, **options: float) -> list[list[int]]:
    """The reference on the best ``capacity`` candidates of each image."""
    found = []
    for boxes, scores, classes in batch:
        passing = np.flatnonzero((scores > np.float32(options["score_threshold"])) & np.isfinite(boxes).all(axis=1))
        best = np.sort(passing[np.argsort(-scores[passing], kind="stable")][:capacity])
        kept = reference.nms(boxes[best], scores[best], classes[best], **options)  # type: ignore[arg-type]
        found.append(best[kept].tolist())
    return found


def candidates(count: int, seed: int = 0, *, classes: int = 3, spread: float = 100.0) -> Batch:
    """One image of random boxes; scores have few values, so that many are equal."""
    random = np.random.default_rng((seed, count))
    corner = random.uniform(0, spread, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)
    scores = (random.integers(1, 50, count) / 50).astype(np.float32)
    return [(boxes, scores, random.integers(0, classes, count).astype(np.int32))]


OPTIONS = {"score_threshold": 0.1, "iou_threshold": 0.45, "max_detections": 300}


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 500, 1000])
def test_the_kernels_keep_what_the_reference_keeps(nms: OnCpu, count: int) -> None:
    batch = candidates(count)
    assert nms(batch, **OPTIONS) == expected(batch, nms.capacity, **OPTIONS)


@pytest.mark.parametrize("count", [2047, 2048, 2049, 6000])
def test_the_best_candidates_are_chosen_over_all(nms: OnCpu, count: int) -> None:
    # Far apart, so that nearly all are kept and every choice shows.
    batch = candidates(count, spread=1e5)
    options = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": count}
    kept = nms(batch, **options)
    assert kept == expected(batch, nms.capacity, **options)
    assert 1900 < len(kept[0]) <= nms.capacity


def test_images_of_a_batch_do_not_touch_each_other(nms: OnCpu) -> None:
    batch = [*candidates(300, 1), *candidates(0, 2), *candidates(2500, 3, spread=2000), *candidates(1, 4)]
    assert nms(batch, **OPTIONS) == expected(batch, nms.capacity, **OPTIONS)


def test_the_order_of_threads_changes_nothing(nms: OnCpu) -> None:
    batch = candidates(2300, 5, spread=600)
    assert len({json.dumps(nms(batch, **OPTIONS, seed=seed)) for seed in range(6)}) == 1


def test_candidates_that_are_no_boxes_are_ignored(nms: OnCpu) -> None:
    ((boxes, scores, classes),) = candidates(200, 6)
    boxes[::7, 1], boxes[3::11, 2], boxes[5::13, 0] = np.nan, np.inf, -np.inf
    scores[::5] = np.nan
    scores[1] = np.inf
    batch = [(boxes, scores, classes)]
    assert nms(batch, **OPTIONS) == expected(batch, nms.capacity, **OPTIONS)


def test_a_box_without_area_overlaps_nothing_and_equal_boxes_leave_one(nms: OnCpu) -> None:
    flat = np.tile(np.float32([5, 5, 5, 9]), (70, 1))
    same = np.tile(np.float32([1, 1, 9, 9]), (70, 1))
    scores, classes = np.full(70, 0.5, np.float32), np.zeros(70, np.int32)
    assert nms([(flat, scores, classes), (same, scores, classes)], **OPTIONS) == [list(range(70)), [0]]


def test_thresholds_are_exclusive(nms: OnCpu) -> None:
    # The intersection of the two boxes is half of their union.
    boxes = np.float32([[0, 0, 4, 4], [0, 0, 4, 2]])
    scores, classes = np.float32([0.5, 0.25]), np.zeros(2, np.int32)
    for threshold, kept in ((0.5, [0, 1]), (np.nextafter(0.5, 0), [0])):
        options = {"score_threshold": 0.0, "iou_threshold": float(threshold), "max_detections": 9}
        assert nms([(boxes, scores, classes)], **options) == [kept]
    assert nms([(boxes, scores, classes)], **OPTIONS | {"score_threshold": 0.25}) == [[0]]


@pytest.mark.parametrize("limit", [0, 1, 64, 65])
def test_no_more_than_the_limit_are_kept(nms: OnCpu, limit: int) -> None:
    batch = candidates(400, 8, spread=1e5)
    options = OPTIONS | {"max_detections": limit}
    assert nms(batch, **options) == expected(batch, nms.capacity, **options)


corner = st.integers(0, 12).map(float) | st.floats(0, 12, width=32)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(corner, corner, corner, corner, st.integers(0, 4), st.integers(0, 1)), max_size=40),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 1 / 3, 0.5, 1.0]),
    st.integers(0, 2**31),
)
def test_what_is_kept_and_what_is_dropped_has_its_reason(
    nms: OnCpu, rows: list[tuple[float, ...]], score_threshold: float, iou_threshold: float, seed: int
) -> None:
    table = np.array(rows, np.float32).reshape(-1, 6)
    boxes, scores, classes = table[:, :4].copy(), table[:, 4] / 4, table[:, 5].astype(np.int32)
    (kept,) = nms(
        [(boxes, scores, classes)],
        score_threshold=score_threshold, iou_threshold=iou_threshold, max_detections=50, seed=seed,
    )  # fmt: skip
    corners = [[float(value) for value in box] for box in boxes]

    def suppresses(a: int, b: int) -> bool:
        return bool(classes[a] == classes[b]) and reference.iou(corners[a], corners[b]) > iou_threshold

    assert not any(suppresses(a, b) for i, a in enumerate(kept) for b in kept[:i])
    for index in set(range(len(rows))) - set(kept):
        better = [k for k in kept if (-scores[k], k) < (-scores[index], index)]
        assert scores[index] <= score_threshold or any(suppresses(k, index) for k in better)


def test_neither_addresses_nor_arithmetic_go_wrong(sanitized: Callable[[str, str], str]) -> None:
    printed = sanitized(
        "nms",
        "from test_nms_cuda import OPTIONS, OnCpu, candidates\n"
        "nms = OnCpu(library)\n"
        "for count in (0, 1, 64, 700, 2100):\n"
        "    print(len(nms(candidates(count, spread=900), **OPTIONS)[0]))\n",
    )
    assert printed.split()[:2] == ["0", "1"]


def test_a_barrier_that_some_threads_miss_is_found(tmp_path: Path, on_cpu: Callable[..., Path]) -> None:
    header = Path(__file__).parent / "standin" / "cuda_standin.h"
    source = tmp_path / "missed.cpp"
    source.write_text(
        f'#include "{header}"\n'
        "int main() { standin::launch({1, 1, 1}, {8, 1, 1}, 0, [] { if (threadIdx.x < 4) __syncthreads(); }); }\n"
    )
    on_cpu("nms")  # skips without g++
    subprocess.run(["g++", "-std=c++17", "-o", tmp_path / "missed", source], check=True)
    done = subprocess.run([tmp_path / "missed"], capture_output=True, text=True)
    assert done.returncode < 0 and "4 of 8 threads wait at a barrier" in done.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 4) __ballot_sync(0xFF, true);", "4 of 8 threads wait at a vote"),
        ("if (threadIdx.x < 4) __ballot_sync(0xFF, true); else __syncthreads();", "4 of 8 threads wait at a vote"),
        ("__ballot_sync(0xF0, true);", "whose mask does not have its lane"),
        ("if (threadIdx.x) __shfl_sync(0xFE, 1, 1); else __syncthreads();", "1 of 8 threads wait at a barrier"),
    ],
)
def test_a_vote_that_some_lanes_miss_is_found(
    tmp_path: Path, on_cpu: Callable[..., Path], body: str, message: str
) -> None:
    header = Path(__file__).parent / "standin" / "cuda_standin.h"
    source = tmp_path / "missed.cpp"
    source.write_text(
        f'#include "{header}"\nint main() {{ standin::launch({{1, 1, 1}}, {{8, 1, 1}}, 0, [] {{ {body} }}); }}\n'
    )
    on_cpu("nms")  # skips without g++
    subprocess.run(["g++", "-std=c++17", "-o", tmp_path / "missed", source], check=True)
    done = subprocess.run([tmp_path / "missed"], capture_output=True, text=True)
    assert done.returncode < 0 and message in done.stderr


def test_no_kernel_spills_and_each_takes_what_is_recorded(
    architecture: int, check_resources: Callable[[Path, int], None]
) -> None:
    check_resources(SOURCE, architecture)
