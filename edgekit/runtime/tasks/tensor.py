"""Task ``tensor``: arrays in, arrays out, of parts of networks and of models of which no task is known."""

from __future__ import annotations

from edgekit.runtime.tasks.task import EngineTask

__all__ = ["TASK"]


class Tensor(EngineTask):
    """See `EngineTask`."""

    name = "tensor"
    engine = "an engine for arrays"


TASK = Tensor()
