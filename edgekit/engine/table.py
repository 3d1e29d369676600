"""The table of backends: where each one is, and which options it has. Light: no backend is imported here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import NamedTuple, cast

from edgekit.config import BackendOptions
from edgekit.errors import UsageError, nearest

__all__ = ["BACKENDS", "Entry", "all_options", "entry_of", "options_of"]


class Entry(NamedTuple):
    """One row of the table; both values are ``module:attribute`` and imported on use.

    Attributes:
        backend: the class that implements `edgekit.engine.backend.Backend`.
        options: the backend's subclass of `BackendOptions`; its module imports nothing heavy.
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
    """The row of a backend.

    Raises:
        UsageError: there is no backend of that name.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        raise UsageError(f"unknown target '{name}'", hint=nearest(name, BACKENDS)) from None


def options_of(name: str) -> type[BackendOptions]:
    """The options that a backend has.

    Raises:
        UsageError: there is no backend of that name.
    """
    return _options_at(entry_of(name).options)


def all_options() -> Iterator[type[BackendOptions]]:
    """The options of all backends, each struct once."""
    return (_options_at(place) for place in dict.fromkeys(entry.options for entry in BACKENDS.values()))


def _options_at(place: str) -> type[BackendOptions]:
    module, _, attribute = place.partition(":")
    return cast("type[BackendOptions]", getattr(importlib.import_module(module), attribute))
