"""TensorRT's logger: keeps errors for EdgeKit's messages, and copies a builder's messages to stderr."""

from __future__ import annotations

import functools
import gc
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.text import visible

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["builder_log", "last_words", "made_with_log", "process_log"]

KEPT = 20
REPORTED = 4


@contextmanager
def builder_log(library: Any) -> Iterator[Any]:
    """Yields `process_log`, cleared, which also writes to stderr within the context."""
    log = process_log(library)
    log.take()
    log.shown = True
    try:
        yield log
    finally:
        log.shown = False


def process_log(library: Any) -> Any:
    """Returns TensorRT's logger of this process, which keeps errors in ``failures`` and warnings in ``cautions``.

    Builders and runtimes share one logger: the library warns about a second one, and sends some messages only to the
    first while any object made with it exists.
    """
    return _log_of(library.ILogger)


def made_with_log(kind: Callable[..., Any], *arguments: Any) -> Any:
    """Creates a builder, runtime or refitter: ``kind(*arguments)``, where one argument is the logger.

    If the process has another logger, from a program that uses TensorRT itself, the library warns about it while it
    holds a lock. Freeing a builder takes the same lock: if Python's garbage collector freed one while the logger
    handles the warning, the process would deadlock. So garbage collection is disabled here.
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
                print(visible(f"{severity.name.lower()}: {text}"), file=sys.stderr)

        def take(self) -> str:
            """Returns the errors since the last call as one text, and clears the log."""
            words = _text(list(self.failures))  # a copy: the library may log more from another thread
            self.failures.clear()
            self.cautions.clear()
            return words

    return Log()


def last_words(log: Any) -> str:
    """Returns the last errors since `take`, or the last warnings if there are no errors."""
    return _text(list(log.failures or log.cautions)[-REPORTED:]) or "it gives no reason"


def _text(words: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(" ".join(text.split()) for text in words))
