"""GStreamer pipelines as a source, by GStreamer's own Python bindings; ready pipelines for NVIDIA Jetson.

The bindings belong to the system's Python: ``apt install python3-gi gir1.2-gst-plugins-base-1.0``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.video.source import Frame
from edgekit.errors import BackendUnavailable, DataError, UsageError

__all__ = ["PipelineSource", "csi_camera", "decoder_pipeline", "pipeline_source"]

_WAIT_NS = 200_000_000
"""How long to wait for a frame before looking whether to stop."""
_START_NS = 10_000_000_000
"""How long a pipeline may take to start."""

_SINK = "appsink name=edgekit sync=false max-buffers=2"
_TO_RGB = "videoconvert ! video/x-raw,format=RGB"
# nvvidconv copies from the memory of the video hardware; it writes no RGB of 3 bytes.
_FROM_NVIDIA = "nvvidconv ! video/x-raw,format=BGRx"


def csi_camera(sensor: str, *, width: int = 1920, height: int = 1080, rate: int = 30) -> str:
    """Returns the pipeline of a camera on a Jetson's CSI port.

    Args:
        sensor: the camera's number, as text.
        width: width of its frames in px; a mode of the sensor.
        height: height in px.
        rate: frames per second.

    Raises:
        UsageError: ``sensor`` is not a number.
    """
    if not sensor.isdecimal():
        raise UsageError(f"camera:csi{sensor}: expected the number of a camera, as in camera:csi0, got '{sensor}'")
    caps = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={rate}/1"
    return f"nvarguscamerasrc sensor-id={sensor} ! {caps} ! {_FROM_NVIDIA}"


def decoder_pipeline(place: str) -> str:
    """Returns the pipeline that decodes a file or an ``rtsp://`` stream with a Jetson's video decoder.

    Args:
        place: H.264 or H.265 in ``.mp4``, ``.mov``, ``.mkv`` or a bare stream; or an address.

    Raises:
        UsageError: the decoder's pipeline for such a file is not known.
    """
    quoted = '"' + place.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if place.lower().startswith(("rtsp:", "rtsps:")):
        # parsebin chooses the parser for what the server sends.
        source = f"rtspsrc location={quoted} protocols=tcp latency=100 ! parsebin"
    else:
        demuxers = {".mp4": "qtdemux", ".mov": "qtdemux", ".m4v": "qtdemux", ".mkv": "matroskademux"}
        suffix = Path(place).suffix.lower()
        bare = suffix in (".h264", ".264", ".h265", ".265", ".hevc")
        if not bare and suffix not in demuxers:
            known = ", ".join([*demuxers, ".h264", ".h265"])
            raise UsageError(f"nvdec:{place}: expected a file that ends in {known}, or an rtsp:// address")
        demuxer = "" if bare else f" ! {demuxers[suffix]}"
        source = f"filesrc location={quoted}{demuxer} ! parsebin"
    return f"{source} ! nvv4l2decoder ! {_FROM_NVIDIA}"


def pipeline_source(pipeline: str, *, name: str) -> PipelineSource:
    """Starts a pipeline; see `PipelineSource`."""
    return PipelineSource(_gstreamer(), pipeline, name=name)


class PipelineSource:
    """The frames of a GStreamer pipeline.

    Args:
        gst: GStreamer's namespace ``Gst``, initialized.
        pipeline: a pipeline as `gst-launch-1.0` takes it. Frames come from its ``appsink``, which has to take RGB;
            without one, it is completed with a conversion to RGB and an ``appsink``.
        name: the source, as the user named it.

    Attributes:
        live: whether GStreamer says that the pipeline is live: it gives no frame while it is paused.

    Raises:
        DataError: the pipeline cannot be parsed or started.
    """

    frame_rate: float | None = None

    def __init__(self, gst: Any, pipeline: str, *, name: str) -> None:
        self.name = name
        self._gst = gst
        self._closed = False
        try:
            self._pipeline = gst.parse_launch(completed(pipeline))
        except Exception as e:  # GLib.Error, which only PyGObject has
            raise DataError(f"{name}: expected a GStreamer pipeline, got: {getattr(e, 'message', None) or e}") from e
        self._sink = self._appsink()
        self.live = self._started()

    def _appsink(self) -> Any:
        named = self._pipeline.get_by_name("edgekit")
        if named is not None:
            return named
        elements = self._pipeline.iterate_sinks()
        while True:
            status, element = elements.next()
            if status != self._gst.IteratorResult.OK:
                raise DataError(f"{self.name}: expected a pipeline that ends in an appsink, got one without")
            if element.get_factory().get_name() == "appsink":
                return element

    def _started(self) -> bool:
        """Plays the pipeline, and returns whether it is live."""
        gst = self._gst
        change = self._pipeline.set_state(gst.State.PAUSED)
        if change == gst.StateChangeReturn.ASYNC:
            change = self._pipeline.get_state(_START_NS)[0]
        live: bool = change == gst.StateChangeReturn.NO_PREROLL
        self._sink.set_property("drop", live)
        if change in (gst.StateChangeReturn.SUCCESS, gst.StateChangeReturn.NO_PREROLL):
            change = self._pipeline.set_state(gst.State.PLAYING)  # which may take until the first frame
            failed = change == gst.StateChangeReturn.FAILURE
        else:
            failed = True
        if failed:
            why = self._failure() or "it does not start"
            self._pipeline.set_state(gst.State.NULL)
            raise DataError(f"{self.name}: expected a pipeline that plays, got: {why}")
        return live

    def frames(self) -> Iterator[Frame]:
        """See `Source.frames`."""
        index, start_s = 0, time.monotonic()
        try:
            while not self._closed:
                sample = self._sink.emit("try-pull-sample", _WAIT_NS)
                if sample is None:
                    if why := self._failure():
                        raise DataError(f"{self.name}: the pipeline failed: {why}")
                    if self._sink.get_property("eos"):
                        return
                    continue
                pixels, time_s = self._pixels(sample)
                if self.live or time_s is None:
                    time_s = time.monotonic() - start_s
                yield Frame(pixels, index, time_s, self.name)
                index += 1
        finally:
            self._pipeline.set_state(self._gst.State.NULL)

    def _pixels(self, sample: Any) -> tuple[np.ndarray, float | None]:
        """Returns the pixels of a sample, and its time in s."""
        structure = sample.get_caps().get_structure(0)
        format = structure.get_value("format")
        if format != "RGB":
            raise DataError(
                f"{self.name}: expected an appsink that takes RGB, got {format}",
                hint=f"end the pipeline in: {_TO_RGB} ! appsink",
            )
        width, height = structure.get_value("width"), structure.get_value("height")
        buffer = sample.get_buffer()
        mapped, memory = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise DataError(f"{self.name}: expected a frame that can be read, got memory of a device")
        try:
            rows = np.frombuffer(memory.data, np.uint8).reshape(height, -1)  # rows are padded to 4 bytes
            pixels = rows[:, : 3 * width].reshape(height, width, 3).copy()
        finally:
            buffer.unmap(memory)
        return pixels, None if buffer.pts == self._gst.CLOCK_TIME_NONE else buffer.pts / 1e9

    def _failure(self) -> str:
        """Returns the pipeline's error; empty if there is none."""
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        return "" if message is None else str(message.parse_error()[0].message)

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True


def completed(pipeline: str) -> str:
    """Returns a pipeline that ends in an ``appsink`` for RGB."""
    return pipeline if re.search(r"\bappsink\b", pipeline) else f"{pipeline} ! {_TO_RGB} ! {_SINK}"


def _gstreamer() -> Any:
    try:
        import gi  # the system's package, which most machines lack

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst, GstApp  # noqa: F401 - GstApp gives appsink its methods
    except (ImportError, ValueError) as e:
        raise BackendUnavailable(
            f"a GStreamer pipeline needs GStreamer's Python bindings, which are not installed: {e}",
            hint="apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base; in a virtual "
            "environment: python3 -m venv --system-site-packages",
        ) from e
    Gst.init(None)
    return Gst
