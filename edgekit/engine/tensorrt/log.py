"""What TensorRT says: errors are kept for our messages, and a builder's words passed on to the process's own log."""

from __future__ import annotations

import functools
import gc
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["builder_log", "last_words", "made_with_log", "process_log"]

KEPT = 20
TOLD = 4


@contextmanager
def builder_log(library: Any) -> Iterator[Any]:
    """`process_log`, which forgets what was before, and inside writes to stderr too."""
    log = process_log(library)
    log.take()
    log.shown = True
    try:
        yield log
    finally:
        log.shown = False


def process_log(library: Any) -> Any:
    """TensorRT's logger for this process, which keeps errors and warnings in ``failures`` and ``cautions``.

    There is one for builders and runtimes: the library warns of a second one, and goes on telling some things to the
    first alone for as long as anything lives that was made with it.
    """
    return _log_of(library.ILogger)


def made_with_log(kind: Callable[..., Any], *arguments: Any) -> Any:
    """A builder, runtime or refitter: ``kind(*arguments)``, the logger among them.

    Where there is another logger in the process, that of a program that uses TensorRT itself, the library warns of it
    with a lock in hand. Freeing a builder takes the same lock: were one among the garbage that Python collects while
    the logger writes the warning down, the process would wait for itself for ever. So nothing is collected meanwhile.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return kind(*arguments)
    finally:
        if collects:
            gc.enable()


@functools.cache
def _log_of(base: Any) -> Any:
    class Log(base):  # type: ignore[misc]  # known at run time alone
        def __init__(self) -> None:
            base.__init__(self)
            self.failures: deque[str] = deque(maxlen=KEPT)
            self.cautions: deque[str] = deque(maxlen=KEPT)
            self.shown = False

        def log(self, severity: trt.ILogger.Severity, text: str) -> None:
            levels = base.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                self.failures.append(text)
            elif severity == levels.WARNING:
                self.cautions.append(text)
            if self.shown and severity != levels.VERBOSE:
                print(f"{severity.name.lower()}: {text}", file=sys.stderr)

        def take(self) -> str:
            """The errors since the last call as one text; the next call begins anew."""
            words = _text(list(self.failures))  # the library may tell of more meanwhile, from a thread of its own
            self.failures.clear()
            self.cautions.clear()
            return words

    return Log()


def last_words(log: Any) -> str:
    """The last errors that the library told since `take`, or warnings if it told none."""
    return _text(list(log.failures or log.cautions)[-TOLD:]) or "it does not say why"


def _text(words: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(" ".join(text.split()) for text in words))
