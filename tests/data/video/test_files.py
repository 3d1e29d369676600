from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.data.video.files import video_file
from edgekit.data.video.source import Source
from edgekit.errors import BackendUnavailable, DataError


def test_every_frame_comes_in_order_with_its_time(write_video: Callable[..., Path]) -> None:
    path = write_video(frames=10, rate=10)
    video = video_file(path, name="street.mp4")
    assert isinstance(video, Source) and not video.live
    assert (video.frame_rate, video.frame_count) == (10.0, 10)
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in range(10)])
    assert {frame.source for frame in frames} == {"street.mp4"}
    assert all(frame.pixels.shape == (48, 64, 3) and frame.pixels.dtype == np.uint8 for frame in frames)
    assert [frame.pixels.mean() for frame in frames] == pytest.approx([10 * i for i in range(10)], abs=3)


def test_times_are_those_of_a_video_with_a_variable_rate(write_video: Callable[..., Path]) -> None:
    path = write_video(frames=4, rate=10, ticks=[3, 4, 8, 20])
    times = [frame.time_s for frame in video_file(path, name="v").frames()]
    assert times == pytest.approx([0.0, 0.1, 0.5, 1.7])


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
def test_a_video_of_a_telephone_is_turned_upright(
    rotation: int, corner: tuple[int, int], tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "turned.mp4"
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16] = 255  # where the picture begins before it is turned
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(rotation)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, "rgb24")))
        container.mux(stream.encode(None))
    frame = next(iter(video_file(path, name="v").frames())).pixels
    assert frame.shape == ((48, 64, 3) if rotation == 180 else (64, 48, 3))
    assert frame[corner].mean() > 200 > 50 > frame[corner[0] - 31 if corner[0] else 31, corner[1]].mean()


def test_a_damaged_video_gives_the_frames_that_it_has(write_video: Callable[..., Path], tmp_path: Path) -> None:
    whole = write_video("whole.ts", frames=20).read_bytes()
    cut = tmp_path / "cut.ts"
    damaged = bytearray(whole[: len(whole) * 2 // 3])
    cut.write_bytes(damaged)
    frames = list(video_file(cut, name="cut.ts").frames())
    assert 0 < len(frames) <= 20


def test_a_colon_in_a_name_is_no_protocol(write_video: Callable[..., Path]) -> None:
    path = write_video("a:b.mp4", frames=2)
    assert len(list(video_file(path, name="v").frames())) == 2


@pytest.mark.parametrize("content", [b"", b"not a video", b"\0\0\0\x20ftypisom" + bytes(100)])
def test_error_on_a_file_that_is_no_video(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match="x.mp4: expected a video, got"):
        video_file(path, name="x.mp4")


def test_error_on_sound_alone(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        tone = container.add_stream("aac", rate=44100, layout="mono")
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        wave.sample_rate = 44100
        container.mux(tone.encode(wave))
        container.mux(tone.encode(None))
    with pytest.raises(DataError, match="a file without pictures"):
        video_file(path, name="sound.mp4")


def test_closing_ends_the_frames(write_video: Callable[..., Path]) -> None:
    video = video_file(write_video(frames=50), name="v")
    frames = video.frames()
    next(frames)
    video.close()
    assert len(list(frames)) < 49


def test_without_pyav_the_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendUnavailable) as error:
        video_file(tmp_path / "x.mp4", name="x.mp4")
    assert "pip install" in error.value.hint and "av" in error.value.hint
