"""What TensorRT says while it builds: passed on to the process's own log, and errors kept for our messages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["builder_log", "last_words"]

KEPT = 4


def builder_log(library: Any) -> Any:
    """A logger that writes to stderr, and keeps errors and warnings in ``failures`` and ``cautions``.

    TensorRT has one logger a process, the first that is handed to it, for as long as anything lives that was made with
    it.
    """

    class Log(library.ILogger):  # type: ignore[misc]  # known at run time alone
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.failures: list[str] = []
            self.cautions: list[str] = []

        def log(self, severity: trt.ILogger.Severity, text: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                self.failures.append(text)
            elif severity == library.ILogger.WARNING:
                self.cautions.append(text)
            if severity != library.ILogger.VERBOSE:
                print(f"{severity.name.lower()}: {text}", file=sys.stderr)

    return Log()


def last_words(log: Any) -> str:
    """The last errors that the library told, or warnings if it told none."""
    words = log.failures or log.cautions
    return "; ".join(dict.fromkeys(" ".join(text.split()) for text in words[-KEPT:])) or "it does not say why"
