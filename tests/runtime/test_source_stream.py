from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.data.video.source import Frame
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import DataError, RunError, UsageError
from edgekit.recipe.schema import Preprocess
from edgekit.runtime.session import Session
from edgekit.runtime.source_stream import SHARED_AFTER, SourceStream
from edgekit.specs import ShapeRange, TensorSpec

LEVELS = 26


class Brightness:
    """An engine that says which of 26 levels of brightness its images have; records the size of its batches."""

    notes = ()

    def __init__(self, batch: int | str = 1, *, seconds: float = 0.0) -> None:
        self.inputs = (TensorSpec("images", "float32", (batch, 3, 8, 8)),)
        self.outputs = (TensorSpec("logits", "float32", (batch, LEVELS)),)
        self.seconds = seconds
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.fails_at: int | None = None
        self.shared_at: list[int] = []

    def share_processors(self) -> None:
        self.shared_at.append(sum(self.batches))

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = feeds["images"]
        self.threads.add(threading.current_thread().name)
        if self.fails_at == len(self.batches):
            raise RunError("the engine is out of order")
        self.batches.append(len(images))
        time.sleep(self.seconds)
        levels = np.rint(images.mean(axis=(1, 2, 3)) * 25.5).astype(int)
        return {"logits": np.eye(LEVELS, dtype=np.float32)[levels] * 9}

    def close(self) -> None:
        pass


class Counting:
    """A source whose frame ``i`` has the brightness ``10 * i``."""

    frame_rate = 10.0
    name = "counting"

    def __init__(self, count: int, *, live: bool = False, seconds: float = 0.0, fails: bool = False) -> None:
        self.live = live
        self.count, self.seconds, self.fails = count, seconds, fails
        self.given, self.closed, self.threads = 0, 0, set[str]()

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            if self.closed:
                return
            self.threads.add(threading.current_thread().name)
            time.sleep(self.seconds)
            self.given += 1
            yield Frame(np.full((12, 10, 3), 10 * index % 260, np.uint8), index, index / 10, self.name)
        if self.fails:
            raise DataError("counting: broken")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def manifest(detector: Manifest) -> Manifest:
    return msgspec.structs.replace(
        detector,
        name="levels",
        task="classify",
        inputs=Brightness().inputs,
        outputs=Brightness().outputs,
        preprocess=Preprocess(resize="stretch"),
        postprocess=None,
        labels=tuple(f"level {i}" for i in range(LEVELS)),
    )


def levels(stream: Iterator[object]) -> list[tuple[int, str]]:
    return [(frame.index, classes[0].label) for frame, classes, _ in stream]  # type: ignore[attr-defined,misc]


def expected(count: int) -> list[tuple[int, str]]:
    return [(i, f"level {i % LEVELS}") for i in range(count)]


def test_every_frame_of_a_source_has_its_result_in_order(manifest: Manifest) -> None:
    engine, source = Brightness(), Counting(60)
    with Session(engine, manifest) as session:
        stream = session.stream(source, top=1)
        assert isinstance(stream, SourceStream)
        assert levels(stream) == expected(60)
        assert stream.dropped == 0 and source.closed


@pytest.mark.parametrize(
    ("batch", "frames", "at"), [(1, SHARED_AFTER + 9, SHARED_AFTER - 1), (3, 40, 15), (1, 5, None)]
)
def test_the_engine_shares_the_processors_with_the_other_stages_of_a_long_source(
    manifest: Manifest, batch: int, frames: int, at: int | None
) -> None:
    engine = Brightness(batch)
    changed = msgspec.structs.replace(manifest, inputs=engine.inputs, outputs=engine.outputs)
    with Session(engine, changed) as session:
        assert levels(session.stream(Counting(frames), top=1)) == expected(frames)
    assert engine.shared_at == ([] if at is None else [at])


def test_each_stage_has_a_thread_of_its_own_and_its_time(manifest: Manifest) -> None:
    engine, source = Brightness(seconds=0.002), Counting(5, seconds=0.002)
    with Session(engine, manifest) as session:
        streamed = list(session.stream(source))
    assert source.threads == {"edgekit-decode"} and engine.threads == {"edgekit-inference"}
    for each in streamed:
        assert list(each.seconds) == ["decode", "preprocess", "inference", "postprocess"]
        assert each.seconds["decode"] > 0.001 and each.seconds["inference"] > 0.001


def test_stages_overlap(manifest: Manifest) -> None:
    source = Counting(30, seconds=0.01)
    with Session(Brightness(seconds=0.01), manifest) as session:
        start = time.perf_counter()
        assert len(list(session.stream(source))) == 30
        seconds = time.perf_counter() - start
    assert seconds < 0.75 * 30 * 0.02


def test_a_file_waits_for_a_slow_engine(manifest: Manifest) -> None:
    source = Counting(40)
    with Session(Brightness(seconds=0.01), manifest) as session, session.stream(source) as stream:
        next(stream)
        time.sleep(0.2)
        # Two wait before each of three stages and after the last; each stage holds one, the reader too.
        assert source.given <= 1 + 4 * 2 + 4
        assert [frame.index for frame, _, _ in stream] == list(range(1, 40))


def test_a_live_source_drops_and_counts_old_frames(manifest: Manifest) -> None:
    source = Counting(100, live=True, seconds=0.002)
    with Session(Brightness(seconds=0.03), manifest) as session:
        stream = session.stream(source)
        found = [frame.index for frame, _, _ in stream]
    assert found == sorted(set(found)) and found[-1] == 99
    assert stream.dropped == 100 - len(found) > 50


def test_an_error_comes_after_the_results_before_it(manifest: Manifest) -> None:
    with Session(Brightness(), manifest) as session:
        stream = session.stream(Counting(3, fails=True))
        assert levels(next(stream) for _ in range(3)) == expected(3)
        with pytest.raises(DataError, match="counting: broken"):
            next(stream)
        assert list(stream) == []
    engine = Brightness()
    engine.fails_at = 4
    with Session(engine, manifest) as session:
        stream = session.stream(Counting(100))
        assert levels(next(stream) for _ in range(4)) == expected(4)
        with pytest.raises(RunError, match="out of order"):
            next(stream)


def test_a_stream_that_is_left_stops_its_threads(manifest: Manifest) -> None:
    source = Counting(10**6)
    before = threading.active_count()
    with Session(Brightness(), manifest) as session, session.stream(source) as stream:
        next(stream)
    assert source.closed
    assert threading.active_count() == before
    assert source.given < 20


@pytest.mark.parametrize(("built", "shapes"), [(4, {}), ("N", {}), ("N", {"images": (2, 4, 8)})])
def test_a_batch_runs_together(built: int | str, shapes: dict[str, tuple[int, int, int]], manifest: Manifest) -> None:
    engine = Brightness(built)
    ranges = {name: ShapeRange(*((size, 3, 8, 8) for size in sizes)) for name, sizes in shapes.items()}
    own = msgspec.structs.replace(manifest, inputs=engine.inputs, outputs=engine.outputs, shapes=ranges)
    with Session(engine, own) as session:
        assert levels(session.stream(Counting(9), batch=4, top=1)) == expected(9)
    last = {4: 4, "N": 2 if shapes else 1}[built]
    assert engine.batches == [4, 4, last]


@pytest.mark.parametrize(
    ("built", "shapes", "batches"),
    [(4, {}, [4, 4, 4]), ("N", {"images": (1, 2, 4)}, [4, 4, 1]), (1, {}, [1] * 9)],
)
def test_a_list_of_images_runs_together(
    built: int | str, shapes: dict[str, tuple[int, int, int]], batches: list[int], manifest: Manifest
) -> None:
    engine = Brightness(built)
    ranges = {name: ShapeRange(*((size, 3, 8, 8) for size in sizes)) for name, sizes in shapes.items()}
    own = msgspec.structs.replace(manifest, inputs=engine.inputs, outputs=engine.outputs, shapes=ranges)
    images = [frame.pixels for frame in Counting(9).frames()]
    with Session(engine, own) as session:
        found = session.predict(images, top=1)
    assert [each.labels for each in found] == [[f"level {i}"] for i in range(9)]
    assert engine.batches == batches


def test_the_batch_of_an_engine_is_taken_by_itself(manifest: Manifest) -> None:
    engine = Brightness(4)
    own = msgspec.structs.replace(manifest, inputs=engine.inputs, outputs=engine.outputs)
    with Session(engine, own) as session:
        assert levels(session.stream(Counting(5), top=1)) == expected(5)
        with pytest.raises(UsageError, match=r"batch=3: expected a batch that the engine takes, which was built for 4"):
            session.stream(Counting(5), batch=3)


def test_a_live_source_does_not_wait_for_a_batch(manifest: Manifest) -> None:
    engine = Brightness("N")
    own = msgspec.structs.replace(manifest, inputs=engine.inputs, outputs=engine.outputs)
    with Session(engine, own) as session:
        found = levels(session.stream(Counting(5, live=True, seconds=0.05), batch=4, top=1))
    assert found == expected(5) and set(engine.batches) == {1}


def test_a_path_names_a_source(manifest: Manifest, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (9, 9), (30 * index,) * 3).save(folder / f"{index}.png")
    write_video("photos/a.mp4", frames=4)
    with Session(Brightness(), manifest) as session:
        video = list(session.stream(folder / "a.mp4"))
        both = list(session.stream(str(folder)))
    assert [(frame.index, frame.time_s) for frame, _, _ in video] == [(i, pytest.approx(i / 10)) for i in range(4)]
    assert [Path(frame.source).name for frame, _, _ in both] == ["0.png", "1.png", "2.png", *["a.mp4"] * 4]
    assert [classes[0].label for _, classes, _ in both[:3]] == ["level 0", "level 3", "level 6"]


def test_error_on_an_engine_that_takes_no_images(adder: Session) -> None:
    with pytest.raises(RunError, match="expected an engine that takes images, got one for task 'tensor'"):
        adder.stream(Counting(1))


def test_error_on_options_of_sources_with_other_frames(manifest: Manifest) -> None:
    with Session(Brightness(), manifest) as session:
        with pytest.raises(UsageError, match="batch expects a source"):
            session.stream([], batch=2)
        with pytest.raises(UsageError, match="track"):
            session.stream([], track=True)
        with pytest.raises(UsageError, match="results have boxes, got one for task 'classify'"):
            session.stream(Counting(1), track=True)


def test_objects_are_tracked_on_request(session: Session) -> None:
    results = [result for _, result, _ in session.stream(Counting(3), track=True)]
    assert [result.tracks.tolist() for result in results] == [[1, 2]] * 3
    assert [result.labels for result in results] == [["dog", "car"]] * 3
