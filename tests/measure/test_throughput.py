from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.device.cpu import cpu
from edgekit.errors import UsageError
from edgekit.measure import throughput
from edgekit.measure.profile import profile_bundle
from edgekit.measure.throughput import measure_throughput, streams_from_text

FEEDS = {"x": np.zeros((2, 8), np.float32)}


class Machine:
    """Stands in for the sessions: two runs at a time take 10 ms each, further ones wait."""

    def __init__(self) -> None:
        self.processors = threading.Semaphore(2)
        self.loaded: list[int] = []

    def load(self, path: Path, *, threads: int) -> Machine:
        self.loaded.append(threads)
        return self

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *args: object) -> None:
        return None

    def run(self, feeds: dict[str, np.ndarray]) -> None:
        with self.processors:
            time.sleep(0.01)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(throughput, "session_from_bundle", made.load)
    return made


def test_streams_add_throughput_until_the_processors_are_busy(machine: Machine, arrays_engine: Path) -> None:
    found = measure_throughput(arrays_engine, FEEDS, streams=2, seconds=0.5)
    one, two = found.points
    assert (one.streams, two.streams) == (1, 2)
    assert two.per_s == pytest.approx(2 * one.per_s, rel=0.3)
    # A batch of two counts as two inputs; a run takes 10 ms and a little more.
    assert 100 < one.per_s < 200
    assert 10 <= one.p50_ms < 20


def test_past_the_knee_streams_only_wait(
    machine: Machine, arrays_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_up_to", lambda limit: [1, 2, 8])
    found = measure_throughput(arrays_engine, FEEDS, seconds=0.4)
    assert found.knee == 2
    assert found.points[2].mean_ms > 2.5 * found.points[1].mean_ms


def test_streams_share_the_cores(machine: Machine, arrays_engine: Path) -> None:
    measure_throughput(arrays_engine, FEEDS, streams=3, seconds=0.05)
    cores = cpu().compute_threads
    assert machine.loaded == [cores] + [max(1, cores // 3)] * 3


def test_a_given_number_of_threads_is_kept(machine: Machine, arrays_engine: Path) -> None:
    assert {
        point.threads for point in measure_throughput(arrays_engine, FEEDS, streams=2, threads=5, seconds=0.05).points
    } == {5}


def test_an_error_of_a_stream_ends_the_measurement(machine: Machine, arrays_engine: Path) -> None:
    calls = iter(range(1000))

    def fail(feeds: dict[str, np.ndarray]) -> None:
        if next(calls) > 10:
            raise RuntimeError("out of memory")
        time.sleep(0.001)

    machine.run = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        measure_throughput(arrays_engine, FEEDS, streams=2, seconds=30)


def test_the_curve_is_part_of_the_report(arrays_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure_throughput.__kwdefaults__, "seconds", 0.05)
    report = profile_bundle(arrays_engine, runs=5, streams=2)
    assert report.throughput is not None
    assert [point.streams for point in report.throughput.points] == [1, 2]
    assert profile_bundle(arrays_engine, runs=5).throughput is None


@pytest.mark.parametrize(("text", "streams"), [("1", 1), ("16", 16), ("auto", 0)])
def test_streams_are_a_number_or_auto(text: str, streams: int) -> None:
    assert streams_from_text(text) == streams


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", ""])
def test_error_on_other_streams(text: str) -> None:
    with pytest.raises(ValueError, match="number of streams"):
        streams_from_text(text)


def test_error_on_a_negative_number_of_streams(arrays_engine: Path) -> None:
    with pytest.raises(UsageError, match="streams"):
        measure_throughput(arrays_engine, FEEDS, streams=-1)
