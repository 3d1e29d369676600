"""The base class of loaded engines."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from edgekit.errors import RunError

__all__ = ["BaseEngine"]


class BaseEngine(ABC):
    """An `Engine` that raises an error if it is used after it was closed.

    A backend implements `_run` and `_release`, which do not need to check whether the engine is open.
    """

    _closed = False

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Engine.run`.

        Raises:
            RunError: the run failed, or the engine is closed.
        """
        self._require_open()
        return self._run(feeds)

    def close(self) -> None:
        """See `Engine.close`."""
        if not self._closed:
            self._closed = True
            self._release()

    def _require_open(self) -> None:
        if self._closed:
            raise RunError("the engine is closed")

    @abstractmethod
    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _release(self) -> None: ...
