"""A module as its user brought it, which its graph and engines are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import nn

from edgekit.errors import GraphError
from edgekit.graph.export.call import ModuleCall
from edgekit.graph.export.check import outputs_inside, run_module

__all__ = ["ModuleOriginal"]

Feed = Mapping[str, np.ndarray]


class ModuleOriginal:
    """A PyTorch module, in evaluation mode.

    Args:
        module: the module.
        inputs: names of the inputs, in the order of ``call``.
        outputs: names of the tensors that it returns, in order.
        call: how it takes its inputs; default: as positional arguments.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str], call: ModuleCall | None = None
    ) -> None:
        self.name = "PyTorch"
        self._module: nn.Module | None = module
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._call = call

    def run(self, feeds: Iterable[Feed]) -> list[dict[str, np.ndarray]]:
        module = self._open()
        return [
            dict(zip(self._outputs, run_module(module, self._arrays(feed), self._call), strict=True)) for feed in feeds
        ]

    def inside(self, feed: Feed) -> dict[str, np.ndarray]:
        return outputs_inside(self._open(), self._arrays(feed), self._call)

    def _arrays(self, feed: Feed) -> list[np.ndarray]:
        return [feed[name] for name in self._inputs]

    def _open(self) -> nn.Module:
        if self._module is None:
            raise GraphError("the module was closed, and cannot run any more")
        return self._module

    def close(self) -> None:
        self._module = None
