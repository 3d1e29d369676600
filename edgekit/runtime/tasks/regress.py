"""Task ``regress``: predicts a number from numbers."""

from __future__ import annotations

from edgekit.runtime.tasks.task import EngineTask

__all__ = ["TASK"]


class Regress(EngineTask):
    """See `EngineTask`."""

    name = "regress"
    engine = "a regression model"


TASK = Regress()
