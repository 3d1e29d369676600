from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.video.files import video_file
from edgekit.data.video.writer import WRITTEN_SUFFIXES, VideoWriter
from edgekit.errors import UsageError

av = pytest.importorskip("av")


def gray(value: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"out{suffix}"
    with VideoWriter(path, frame_rate=25) as video:
        for index in range(5):
            video.write(gray(40 * index), index / 25)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    frames = list(video_file(path, name="v").frames())
    assert [frame.pixels.mean() for frame in frames] == pytest.approx([40 * i for i in range(5)], abs=8)
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(5)], abs=2e-3)


def test_frames_keep_their_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 2.0, 2.01]
    with VideoWriter(tmp_path / "out.mp4", frame_rate=25) as video:
        for time_s in times:
            video.write(gray(100), time_s)
    assert [f.time_s for f in video_file(tmp_path / "out.mp4", name="v").frames()] == pytest.approx(times, abs=1e-4)


def test_a_size_that_is_odd_grows_by_a_pixel(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4") as video:
        video.write(gray(100, (47, 63)), 0.0)
    (frame,) = video_file(tmp_path / "out.mp4", name="v").frames()
    assert frame.pixels.shape == (48, 64, 3)


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.dts is not None]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]


def test_sound_is_copied_as_it_is(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    source = write_video(frames=20, rate=10, sound=True)
    with VideoWriter(tmp_path / "out.mp4", frame_rate=10, sound_of=source) as video:
        for frame in video_file(source, name="v").frames():
            assert frame.time_s is not None
            video.write(frame.pixels, frame.time_s)
    expected = [(time_s, data) for time_s, data in sound_of(source) if 0 <= time_s <= 2.0]
    found = sound_of(tmp_path / "out.mp4")
    assert [data for _, data in found] == [data for _, data in expected][: len(found)]
    assert len(found) >= len(expected) - 1 > 50
    assert [time_s for time_s, _ in found] == pytest.approx([time_s for time_s, _ in expected][: len(found)], abs=1e-3)


def test_sound_ends_with_the_pictures(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    source = write_video(frames=20, rate=10, sound=True)
    with VideoWriter(tmp_path / "out.mp4", frame_rate=10, sound_of=source) as video:
        for index in range(5):
            video.write(gray(0), index / 10)
    assert sound_of(tmp_path / "out.mp4")[-1][0] <= 0.5


def test_sound_that_the_format_cannot_have_is_noted(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    notes: list[str] = []
    with VideoWriter(tmp_path / "out.webm", sound_of=write_video(sound=True), note=notes.append) as video:
        video.write(gray(0), 0.0)
    assert sound_of(tmp_path / "out.webm") == []
    assert len(notes) == 1 and "sound is left out" in notes[0] and "aac" in notes[0]


def test_a_source_may_be_replaced_by_itself(write_video: Callable[..., Path]) -> None:
    path = write_video(frames=6)
    with VideoWriter(path, frame_rate=10, sound_of=path) as video:
        for frame in video_file(path, name="v").frames():
            assert frame.time_s is not None
            video.write(255 - frame.pixels, frame.time_s)
    means = [frame.pixels.mean() for frame in video_file(path, name="v").frames()]
    assert means == pytest.approx([255 - 10 * i for i in range(6)], abs=4)


def test_without_a_frame_there_is_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_error_on_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "out.mp4")
    with pytest.raises(UsageError, match=r"ends in .mp4"):
        VideoWriter(tmp_path / "out.gif")
