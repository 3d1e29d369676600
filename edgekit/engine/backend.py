"""What a backend is, and the one table of backends."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

import msgspec
import numpy as np

from edgekit.errors import UsageError, nearest
from edgekit.specs import Precision, QuantScheme, TensorSpec

__all__ = ["BACKENDS", "Backend", "BuildOptions", "BuildResult", "Engine", "backend", "backend_at", "entry_point"]

BACKENDS = {
    "cpu": "edgekit.engine.onnxruntime:OnnxRuntime",
    "openvino": "edgekit.engine.openvino:OpenVino",
    "null": "edgekit.engine.null:Null",
}


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a builder is told besides the graph.

    Attributes:
        precision: what the graph is typed in; the builder asserts that it was really built so.
        threads: threads that the engine is meant to run on; 0 leaves it to the backend.
    """

    precision: Precision
    threads: int = 0


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a builder made.

    Attributes:
        engine: name of the engine's main file, in the folder that the builder was given.
        files: names of all files it wrote, ``engine`` among them.
        layers: how many convolutions and matrix products run in which element type, such as
            ``{"int8": 72, "float32": 3}``, read back from the engine itself.
        backend_version: version of the vendor's library.
        seconds: how long the build took.
        peak_memory_bytes: the most memory that the process of the build held at once; 0 if unknown.
    """

    engine: str
    files: tuple[str, ...]
    layers: dict[str, int]
    backend_version: str
    seconds: float = 0.0
    peak_memory_bytes: int = 0


class Engine(Protocol):
    """An engine that is loaded and ready; used by one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; the caller has checked names, types and shapes."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds; a second call does nothing."""
        ...


class Backend(Protocol):
    """One way to build and run engines."""

    name: str

    def require(self) -> None:
        """Raises `BackendUnavailable`, which names what is missing and the command that installs it."""
        ...

    def version(self) -> str:
        """Version of the vendor's library."""
        ...

    def scheme(self) -> QuantScheme:
        """What a quantized graph has to look like here."""
        ...

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Builds the engine of the ONNX file ``graph`` into ``folder``; called in a child process."""
        ...

    def load(self, engine: Path, *, threads: int = 0) -> Engine:
        """Loads the engine file that `build` has made."""
        ...


def entry_point(name: str) -> str:
    """Where the backend of that name is: ``module:attribute``.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return BACKENDS[name]
    except KeyError:
        raise UsageError(f"unknown target '{name}'", hint=nearest(name, BACKENDS)) from None


def backend_at(entry: str) -> Backend:
    """The backend at ``module:attribute``, which is imported now."""
    module, _, attribute = entry.partition(":")
    return cast(Backend, getattr(importlib.import_module(module), attribute)())


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: there is none of that name.
    """
    return backend_at(entry_point(name))
