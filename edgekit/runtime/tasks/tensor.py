"""Task ``tensor``: takes and returns arrays, for models whose task is unknown."""

from __future__ import annotations

from edgekit.runtime.tasks.task import EngineTask

__all__ = ["TASK"]


class Tensor(EngineTask):
    """See `EngineTask`."""

    name = "tensor"
    engine = "an engine for arrays"


TASK = Tensor()
