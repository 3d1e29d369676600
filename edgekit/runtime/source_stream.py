"""Runs an engine on a source: decoding, preprocessing, inference and postprocessing in threads of their own."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgekit.arguments import argument
from edgekit.data.images import Placement
from edgekit.data.video.opening import source_of
from edgekit.data.video.source import Frame, Source
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import EdgeKitWarning, RunError, UsageError
from edgekit.option import given_flags
from edgekit.runtime.batches import ONE, Batch, batch_of, input_of_image, outputs_of_each, stacked
from edgekit.runtime.channel import Channel, Ended
from edgekit.runtime.detections import Detections
from edgekit.runtime.stream import Pending
from edgekit.runtime.tasks.choose import task_of
from edgekit.runtime.tasks.task import ImageTask, OpenSession
from edgekit.runtime.tracking.results import Tracking

__all__ = ["SourceStream", "Streamed", "stream_of_source"]

WAITING = 2
"""Frames that wait between two stages: one evens out the stages' times, and more only add delay and memory."""
SHARED_AFTER = 16
"""Number of frames after which the engine shares the processors with the other stages. ONNX Runtime loads it again for
that, which takes as long as some runs."""
JOIN_S = 2.0
"""How long `SourceStream.close` waits for a thread; one that reads from a network may take longer to end."""


class Streamed(NamedTuple):
    """The result of one frame of a source.

    Attributes:
        frame: the frame: pixels, index, time.
        result: what the session's method returns for it, such as `Detections`, which know the frame as their picture.
        seconds: the time of each stage: ``decode``, ``preprocess``, ``inference`` and ``postprocess``. On a GPU,
            ``inference`` is all of it but decoding.
    """

    frame: Frame
    result: Any
    seconds: Mapping[str, float]


class StreamingSession(OpenSession, Protocol):
    """The part of a `Session` that streams use."""

    @property
    def starts_runs(self) -> bool:
        """Whether runs are in flight without a thread of the host."""
        ...

    def share_processors(self) -> None:
        """Lets other work run on the processors that waiting threads would keep."""
        ...


@dataclass(eq=False)
class _Work:
    """A frame on its way; each stage adds its part."""

    frame: Frame
    seconds: dict[str, float] = field(default_factory=dict)
    array: np.ndarray | None = None
    placement: Placement | None = None
    outputs: Mapping[str, np.ndarray] | None = None
    pending: Pending[Any] | None = None
    result: Any = None


class SourceStream(Iterator[Streamed]):
    """The results of a source's frames, in order; a context manager that stops the threads.

    Of a live source, a frame that waits is replaced when the next one arrives, and counted in `dropped`: the result is
    that of the newest frame. Of other sources, every frame has a result.

    Args:
        session: the session; it must stay open.
        task: the session's task.
        source: the source; the stream closes it.
        options: options of the task.
        batch: how many frames run at once.
        tracking: follows the objects in the results; None not to.

    Raises:
        DataError: the source cannot be read (when its frame is asked for).
        RunError: a run failed (likewise).
    """

    def __init__(
        self,
        session: StreamingSession,
        task: ImageTask[Any],
        source: Source,
        options: Mapping[str, Any],
        *,
        batch: Batch = ONE,
        tracking: Tracking | None = None,
    ) -> None:
        self.source = source
        self._session = session
        self._task = task
        self._options = options
        self._batch = batch
        self._tracking = tracking
        self._threads: list[threading.Thread] = []
        self._decoded: Channel[_Work] = Channel(1 if source.live else WAITING, newest=source.live)
        self._channels: list[Channel[Any]] = [self._decoded]
        self._ended = False

    @property
    def dropped(self) -> int:
        """Number of frames that were dropped because newer ones had arrived; 0 if the source is not live."""
        return self._decoded.dropped

    def __iter__(self) -> SourceStream:
        return self

    def __enter__(self) -> SourceStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __next__(self) -> Streamed:
        if self._ended:
            raise StopIteration
        if not self._threads:
            self._start()
        try:
            work = self._channels[-1].get()
        except Ended:
            self.close()
            raise StopIteration from None
        except Exception:
            self.close()
            raise
        result = work.result
        if self._tracking is not None:
            result = self._tracking.followed(result, work.frame.index)
        if isinstance(result, Detections):
            result = result.with_picture(work.frame.pixels)
        return Streamed(work.frame, result, work.seconds)

    def stop(self) -> None:
        """Ends the results after the frame that is computed; any thread may call it."""
        self.source.close()
        for channel in tuple(self._channels):
            channel.cancel()

    def close(self) -> None:
        """Stops the threads and closes the source; a second call does nothing."""
        self._ended = True
        self.stop()
        for thread in self._threads:
            thread.join(JOIN_S)

    def _start(self) -> None:
        """Starts a thread for each stage."""
        self._launch("decode", self._decode, self._decoded)
        if self._session.starts_runs and self._batch.size == 1:
            self._then("preprocess", self._begin)
            self._then("inference", self._finish)
        else:
            self._then("preprocess", self._preprocess)
            self._add("inference", self._run_batches)
            self._then("postprocess", self._postprocess)

    def _launch(self, name: str, work: Callable[[], None], output: Channel[_Work]) -> None:
        def run() -> None:
            error: BaseException | None = None
            try:
                work()
            except Ended:
                pass  # the stage before has ended
            except BaseException as e:  # raised again where the results are asked for
                error = e
            output.end(error)

        # Without daemons, Ctrl-C would wait for a server that has stopped to send.
        thread = threading.Thread(target=run, name=f"edgekit-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _add(self, name: str, stage: Callable[[Channel[_Work], Channel[_Work]], None]) -> None:
        """Starts a stage that reads the last channel and writes a new one."""
        source, output = self._channels[-1], Channel[_Work](WAITING)
        self._channels.append(output)
        self._launch(name, lambda: stage(source, output), output)

    def _then(self, name: str, step: Callable[[_Work], None]) -> None:
        """Starts a stage that does one step for each frame."""

        def stage(source: Channel[_Work], output: Channel[_Work]) -> None:
            while True:
                work = source.get()
                start = time.perf_counter()
                step(work)
                work.seconds[name] = time.perf_counter() - start
                if not output.put(work):
                    return

        self._add(name, stage)

    def _decode(self) -> None:
        frames = self.source.frames()
        try:
            start = time.perf_counter()
            for frame in frames:
                if not self._decoded.put(_Work(frame, {"decode": time.perf_counter() - start})):
                    return
                start = time.perf_counter()
        finally:
            close = getattr(frames, "close", None)
            if close is not None:  # a generator holds what it has open until then
                close()

    def _preprocess(self, work: _Work) -> None:
        session = self._session
        work.array, work.placement = input_of_image(work.frame.pixels, "rgb", session.manifest, session.inputs)

    def _run_batches(self, source: Channel[_Work], output: Channel[_Work]) -> None:
        count = 0
        while True:
            works = self._collected(source)
            if count < SHARED_AFTER <= count + len(works):
                self._session.share_processors()
            count += len(works)
            start = time.perf_counter()
            arrays = [work.array for work in works if work.array is not None]
            name = self._session.inputs[0].name
            outputs = self._session.run({name: stacked(arrays, self._batch)})
            each = outputs_of_each(outputs, len(works), self._session.manifest)
            seconds = time.perf_counter() - start
            for work, own in zip(works, each, strict=True):
                work.array, work.outputs = None, own
                work.seconds["inference"] = seconds
                if not output.put(work):
                    return

    def _collected(self, source: Channel[_Work]) -> list[_Work]:
        """Waits for the frames of a batch, of which there are fewer at the end.

        A live source runs with the frames that are there: waiting for more would delay them.
        """
        works = [source.get()]
        try:
            while len(works) < self._batch.size:
                more = source.get_nowait() if self.source.live else source.get()
                if more is None:
                    break
                works.append(more)
        except Exception:  # the end, or an error: the channel raises it again after these frames
            return works
        return works

    def _postprocess(self, work: _Work) -> None:
        assert work.outputs is not None and work.placement is not None  # of the stages before
        work.result = self._task.result(work.outputs, self._session.manifest, work.placement, **self._options)
        work.outputs = None

    def _begin(self, work: _Work) -> None:
        work.pending = self._task.start(self._session, work.frame.pixels, **self._options)

    def _finish(self, work: _Work) -> None:
        assert work.pending is not None  # `_begin` came before
        work.result, work.pending = work.pending.result(), None


def stream_of_source(
    session: StreamingSession,
    source: str | Path | Source,
    *,
    batch: int | None = None,
    track: bool = False,
    **options: Any,
) -> SourceStream:
    """Returns the results of a source's frames; see `Session.stream`.

    Raises:
        DataError: the source cannot be opened.
        RunError: the engine does not take images.
        UsageError: the engine does not take such a batch, or its results cannot be tracked.
    """
    manifest = session.manifest
    task = task_of(manifest)
    if not isinstance(task, ImageTask) or task.takes(manifest) != "images":
        raise RunError(f"'{manifest.name}': expected an engine that takes images, got one for task '{manifest.task}'")
    size = batch_of(manifest, session.inputs, batch)
    tracking = None
    given_flags(track=track)
    if track:
        tracking = tracking_of(manifest, options.get("score_threshold"))
        options = {**options, "score_threshold": tracking.low_score}
    opened = source if isinstance(source, Source) else source_of(source, note=_warn)
    return SourceStream(session, task, opened, options, batch=size, tracking=tracking)


def tracking_of(manifest: Manifest, score_threshold: float | None) -> Tracking:
    """Returns what follows the objects of an engine's results.

    Args:
        manifest: the manifest of the engine's bundle.
        score_threshold: score of the objects that are followed; None for the engine's own.

    Raises:
        UsageError: the results of the engine have no boxes.
    """
    how = manifest.postprocess
    if how is None:
        raise UsageError(
            f"{argument('track', True)}: expected an engine whose results have boxes, got one for task "
            f"'{manifest.task}'"
        )
    return Tracking(how.score_threshold if score_threshold is None else score_threshold)


def _warn(text: str) -> None:
    warnings.warn(text, EdgeKitWarning, stacklevel=4)
