"""The table of backends: their modules and their options. Imports no backend."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import NamedTuple, cast

from edgekit.config import BackendOptions
from edgekit.errors import UsageError, nearest

__all__ = ["BACKENDS", "Entry", "all_options", "entry_of", "options_of"]


class Entry(NamedTuple):
    """A row of the table; both values are ``module:attribute`` and imported on use.

    Attributes:
        backend: the class that implements `edgekit.engine.backend.Backend`.
        options: the backend's subclass of `BackendOptions`; its module has no slow imports.
    """

    backend: str
    options: str = "edgekit.config:BackendOptions"


BACKENDS = {
    "cpu": Entry("edgekit.engine.onnxruntime.backend:OnnxRuntime"),
    "openvino": Entry("edgekit.engine.openvino.backend:OpenVino"),
    "null": Entry("edgekit.engine.null:Null"),
    "tensorrt": Entry("edgekit.engine.tensorrt.backend:TensorRt", "edgekit.engine.tensorrt.options:TensorRtOptions"),
    "tensorrt-rtx": Entry(
        "edgekit.engine.tensorrt.backend:TensorRtRtx", "edgekit.engine.tensorrt.options:TensorRtOptions"
    ),
}


def entry_of(name: str) -> Entry:
    """Returns the table row of a backend.

    Raises:
        UsageError: there is no backend with this name.
    """
    if not isinstance(name, str) or name not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise UsageError(f"unknown target {name!r}: expected {known}", hint=nearest(str(name), BACKENDS, listed=False))
    return BACKENDS[name]


def options_of(name: str) -> type[BackendOptions]:
    """Returns the options class of a backend.

    Raises:
        UsageError: there is no backend with this name.
    """
    return _options_at(entry_of(name).options)


def all_options() -> Iterator[type[BackendOptions]]:
    """Yields the options classes of all backends, each class once."""
    return (_options_at(place) for place in dict.fromkeys(entry.options for entry in BACKENDS.values()))


def _options_at(place: str) -> type[BackendOptions]:
    module, _, attribute = place.partition(":")
    return cast("type[BackendOptions]", getattr(importlib.import_module(module), attribute))
