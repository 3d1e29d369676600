from __future__ import annotations

import sys

import numpy as np
import pytest

from edgekit.data.video.gstreamer import completed, csi_camera, decoder_pipeline
from edgekit.data.video.opening import source_of
from edgekit.errors import BackendUnavailable, DataError, UsageError

# PyGObject's importer is of an older form.
pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")


def gstreamer() -> None:
    gi = pytest.importorskip("gi", reason="needs GStreamer's Python bindings")
    try:
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
    except ValueError as e:
        pytest.skip(f"needs GStreamer's Python bindings: {e}")


def test_a_pipeline_without_an_appsink_gets_one() -> None:
    assert completed("videotestsrc") == (
        "videotestsrc ! videoconvert ! video/x-raw,format=RGB ! appsink name=edgekit sync=false max-buffers=2"
    )
    assert completed("videotestsrc ! appsink") == "videotestsrc ! appsink"


def test_the_pipeline_of_a_camera_on_a_jetson() -> None:
    assert csi_camera("1").startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,")
    with pytest.raises(UsageError, match="camera:csix: expected the number of a camera"):
        csi_camera("x")


@pytest.mark.parametrize(
    ("place", "start"),
    [
        ("a b.mp4", 'filesrc location="a b.mp4" ! qtdemux ! parsebin ! nvv4l2decoder'),
        ("a.MKV", 'filesrc location="a.MKV" ! matroskademux ! parsebin ! nvv4l2decoder'),
        ("a.h265", 'filesrc location="a.h265" ! parsebin ! nvv4l2decoder'),
        ("rtsp://h/c", 'rtspsrc location="rtsp://h/c" protocols=tcp latency=100 ! parsebin ! nvv4l2decoder'),
    ],
)
def test_the_pipelines_of_a_jetson_s_decoder(place: str, start: str) -> None:
    assert decoder_pipeline(place).startswith(start)


def test_error_on_a_file_that_the_decoder_has_no_pipeline_for() -> None:
    with pytest.raises(UsageError, match=r"nvdec:a.avi: expected a file that ends in .mp4"):
        source_of("nvdec:a.avi")


def test_a_quote_in_a_path_ends_no_property() -> None:
    assert decoder_pipeline('a" ! fakesink.mp4').startswith('filesrc location="a\\" ! fakesink.mp4" !')


def test_without_the_bindings_the_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(BackendUnavailable) as error:
        source_of("gst:videotestsrc")
    assert "apt install python3-gi" in error.value.hint


def test_frames_of_a_pipeline_come_in_order_and_none_is_dropped() -> None:
    gstreamer()
    source = source_of("gst:videotestsrc num-buffers=20 pattern=white ! video/x-raw,width=63,height=48,framerate=10/1")
    assert not source.live
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in range(20)])
    assert {frame.pixels.shape for frame in frames} == {(48, 63, 3)}
    assert all((frame.pixels > 250).all() for frame in frames)


def test_a_live_pipeline_is_known_as_one() -> None:
    gstreamer()
    source = source_of("gst:videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1")
    assert source.live
    frames = source.frames()
    assert np.diff([next(frames).index for _ in range(3)]).tolist() == [1, 1]
    source.close()
    frames.close()


@pytest.mark.parametrize("pipeline", ["nosuchelement", "videotestsrc ! fakesink appsink", "filesrc location=/none"])
def test_error_on_a_pipeline_that_does_not_play(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gstreamer()
    monkeypatch.setattr("edgekit.data.video.gstreamer._START_NS", 500_000_000)
    with pytest.raises(DataError, match="expected a "):
        list(source_of(f"gst:{pipeline}").frames())
