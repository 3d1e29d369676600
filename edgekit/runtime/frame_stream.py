"""Results of frames that a program reads itself: while one is computed, the next is prepared."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.data.frames import Format
from edgekit.runtime.stream import Pending
from edgekit.runtime.tasks.choose import task_of
from edgekit.runtime.tasks.task import ImageTask

if TYPE_CHECKING:
    from edgekit.runtime.session import Session

__all__ = ["stream_of_frames"]

IN_FLIGHT = 2
"""While one frame is computed, the next is prepared; more frames in flight only add latency."""


def stream_of_frames(session: Session, frames: Iterable[Any], format: Format, options: dict[str, Any]) -> Iterator[Any]:
    """Yields the result of each frame; see `Session.stream`."""
    pending: deque[Pending[Any]] = deque()
    for frame in frames:
        pending.append(_started(session, frame, format, options))
        if len(pending) == IN_FLIGHT:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _started(session: Session, frame: Any, format: Format, options: dict[str, Any]) -> Pending[Any]:
    task = task_of(session.manifest)
    if isinstance(frame, Mapping) or not isinstance(task, ImageTask):
        return session.run_async(frame)
    return task.start(session, frame, format=format, **options)
