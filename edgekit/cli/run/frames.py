"""``edgekit run`` for engines that take images: runs them on pictures, videos and cameras."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.arguments import argument
from edgekit.cli.output import JsonOutput
from edgekit.cli.progress import progress_on_stderr
from edgekit.cli.run.items import Item, NotedOnce, Output
from edgekit.cli.run.json_output import CocoList, FrameList, JsonLines, PictureIds
from edgekit.cli.run.places import Places
from edgekit.cli.run.saving import Saver
from edgekit.cli.run.tables import Tables
from edgekit.cli.run.window import Window, WindowClosed
from edgekit.cli.run.yolo_text import YoloText
from edgekit.cli.terminal import note
from edgekit.data.coco_ids import CocoIds, ids_in_file, ids_of_images
from edgekit.data.images import preprocess
from edgekit.data.input_statistics import without_padding
from edgekit.data.video.files import VideoFile
from edgekit.data.video.given import Given, is_one_picture
from edgekit.data.video.opening import open_sources
from edgekit.data.video.source import Frame, Source
from edgekit.errors import BackendUnavailable, DataError, UsageError
from edgekit.runtime.batches import Batch, batch_of
from edgekit.runtime.session import Session
from edgekit.runtime.source_stream import SourceStream, tracking_of
from edgekit.runtime.tasks.task import ImageTask
from edgekit.specs import specs_at

__all__ = ["Wanted", "run_frames"]

FIRST_RESULT_S = 30.0
"""So long may the first result of a live source take, since libraries are loaded for it."""


@dataclass(frozen=True)
class Wanted:
    """What ``edgekit run`` does with results.

    Attributes:
        json: where to write one JSON list.
        json_lines: where to write JSON Lines, an object for each picture or frame.
        save: where to write pictures and videos with results drawn; None not to.
        text: where to write YOLO's text files, and their paths below it; None not to.
        ids: annotation file whose image ids COCO results have.
        show: show the frames in a window.
        duration_s: end a video or a live source after so many s.
        track: follow objects from frame to frame.
        batch: how many frames run at once; None for the engine's own.
    """

    json: JsonOutput
    json_lines: JsonOutput
    save: Places | None = None
    text: tuple[Path, Mapping[str, Path]] | None = None
    ids: Path | None = None
    show: bool = False
    duration_s: float | None = None
    track: bool = False
    batch: int | None = None


def run_frames(
    session: Session, task: ImageTask[Any], given: Sequence[Given], options: Mapping[str, Any], wanted: Wanted
) -> None:
    """Runs the session on the frames of all sources, and shows the results.

    Args:
        session: the engine.
        task: its task.
        given: the sources.
        options: see `ImageTask.predict`.
        wanted: what to do with the results.

    Raises:
        DataError: the only source cannot be read, or none of several.
        UsageError: an option does not fit the engine or the sources.
    """
    batch = batch_of(session.manifest, session.inputs, wanted.batch)
    noted = NotedOnce(note)
    failures: list[DataError] = []
    read = 0
    with ExitStack() as stack, suppress(WindowClosed):
        outputs = _outputs(task, given, wanted, noted)
        for output in outputs:
            stack.callback(output.close)
        for source in open_sources(given, note=note):
            stream = _stream(session, task, source, options, wanted, batch)
            try:
                with stream:
                    for item in _items(stream, session, task, wanted, noted):
                        read += 1
                        _add(outputs, item)
            except DataError as e:
                failures.append(e)
                if len(given) == 1:
                    raise
            if read:
                _end(outputs, stream)
    if not read and len(given) > 1:
        raise failures[-1] if failures else DataError(f"expected pictures or videos, got {len(given)} unreadable ones")
    for failure in failures:
        note(f"skipped: {failure.message}")


def _stream(
    session: Session,
    task: ImageTask[Any],
    source: Source,
    options: Mapping[str, Any],
    wanted: Wanted,
    batch: Batch,
) -> SourceStream:
    if not wanted.track:
        return SourceStream(session, task, source, options, batch=batch)
    tracking = tracking_of(session.manifest, options.get("score_threshold"))
    own = {**options, "score_threshold": tracking.low_score}
    return SourceStream(session, task, source, own, batch=batch, tracking=tracking)


def _add(outputs: Sequence[Output], item: Item) -> None:
    for output in outputs:
        output.add(item)


def _end(outputs: Sequence[Output], stream: SourceStream) -> None:
    for output in outputs:
        output.end(stream.source)
    if stream.dropped:
        note(f"{stream.source.name}: {stream.dropped} frames were dropped, since newer ones had arrived")


def _items(
    stream: SourceStream, session: Session, task: ImageTask[Any], wanted: Wanted, noted: NotedOnce
) -> Iterator[Item]:
    """Yields the frames of a source with their results, for as long as is wanted."""
    source, last_s = stream.source, wanted.duration_s
    is_checked = False
    with ExitStack() as stack:
        deadline = stack.enter_context(_Deadline(stream, last_s if source.live else None))
        advance = None
        for frame, result, seconds in stream:
            deadline.begin()
            if frame.time_s is not None and last_s is not None and frame.time_s >= last_s:
                return
            if frame.time_s is not None:
                advance = advance or stack.enter_context(_counted(source))
                advance(1)
            if not is_checked:
                for text in _unlike_training(session, frame):
                    noted(text)
                is_checked = frame.time_s is not None  # one frame of a video is enough
            yield Item(task, source, frame, result, sum(seconds.values()), noted)


class _Deadline:
    """Stops a live stream some time after its first result, also if no frame comes any more.

    Args:
        stream: the stream.
        duration_s: for how long it goes on; None: without end.
    """

    def __init__(self, stream: SourceStream, duration_s: float | None) -> None:
        self._stream = stream
        self._duration_s = duration_s
        self._timer: threading.Timer | None = None
        self._has_begun = False

    def __enter__(self) -> _Deadline:
        if self._duration_s is not None:
            self._set(self._duration_s + FIRST_RESULT_S)
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self) -> None:
        """Starts the clock at the first result; later calls do nothing."""
        if self._duration_s is not None and not self._has_begun:
            self._has_begun = True
            self._set(self._duration_s)

    def _set(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._stream.stop)
        self._timer.daemon = True
        self._timer.start()


@contextmanager
def _counted(source: Source) -> Iterator[Callable[[float], None]]:
    """Counts the frames of a video on standard error."""
    total = source.frame_count if isinstance(source, VideoFile) else None
    with progress_on_stderr() as progress, progress.stage(source.name, total=total, unit="frames") as advance:
        yield advance


def _unlike_training(session: Session, frame: Frame) -> Iterator[str]:
    """Yields a note if an image is far from those that the model was trained or calibrated on."""
    manifest = session.manifest
    statistics, expects, how = manifest.input_statistics, manifest.expects, manifest.preprocess
    if statistics is None or how is None:
        return
    shape = specs_at([session.inputs[0]], manifest.shapes)[0].shape
    why = statistics.why_far(preprocess(frame.pixels, without_padding(how), shape)[0])
    if why:
        name = frame.path.name if frame.path else frame.source
        expected = f"; the model expects {expects}" if expects else ""
        yield f"{name} is far from what the model was trained on, so the result may be wrong: {why}{expected}"


def _outputs(task: ImageTask[Any], given: Sequence[Given], wanted: Wanted, noted: NotedOnce) -> list[Output]:
    outputs: list[Output] = []
    if wanted.json.wanted or wanted.json_lines.wanted:
        pictures = [each.path for each in given if each.kind == "picture"]
        ids = PictureIds(pictures, _annotated(task, given, pictures, wanted.ids))
        if wanted.json.wanted:
            outputs.append((CocoList if all(map(is_one_picture, given)) else FrameList)(wanted.json, ids))
        if wanted.json_lines.wanted:
            outputs.append(JsonLines(wanted.json_lines, ids))
    if not (wanted.json.printed or wanted.json_lines.printed):
        outputs.append(Tables())
    if wanted.text is not None:
        outputs.append(YoloText(*wanted.text))
    if wanted.save is not None:
        outputs.append(Saver(wanted.save, noted))
    if wanted.show:
        try:
            outputs.append(Window())
        except BackendUnavailable as e:
            note(f"nothing is shown: {e.message}{f'; {e.hint}' if e.hint else ''}")
    return outputs


def _annotated(
    task: ImageTask[Any], given: Sequence[Given], pictures: Sequence[Path], file: Path | None
) -> CocoIds | None:
    """Returns the ids of the annotation file that is given, or that is beside the pictures."""
    if file is not None:
        if len(pictures) < len(given):
            other = next(each for each in given if each.kind != "picture")
            raise UsageError(
                f"{argument('ids', file)}: expected image files, which have ids, got {other.key}",
                hint=f"without {argument('ids')}, frames of videos are numbered",
            )
        return ids_in_file(file, pictures)
    folders = {picture.parent for picture in pictures}
    # Only results with boxes have these ids.
    if not task.draws or len(folders) != 1:
        return None
    annotated = ids_of_images(pictures, folders.pop())
    if annotated is not None:
        note(f"image ids, and category ids of the same names, are those of {annotated.file}")
    return annotated
