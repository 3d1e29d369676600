"""What a backend is, and the one table of backends."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from edgekit.engine.table import entry_of
from edgekit.errors import BackendUnavailable
from edgekit.specs import Precision, QuantScheme, ShapeRange, TensorSpec

__all__ = [
    "Backend",
    "BuildOptions",
    "BuildResult",
    "Engine",
    "backend",
    "backend_at",
    "default_target",
]


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a builder is given besides the graph.

    Attributes:
        precision: what the graph is typed in; the builder asserts that it was really built so.
        threads: threads that the engine is meant to run on; 0 leaves it to the backend.
        shapes: of the inputs that have a dynamic dimension.
        engine: the backend's own options by name, as plain values.
    """

    precision: Precision
    threads: int = 0
    shapes: dict[str, ShapeRange] = {}
    engine: dict[str, Any] = {}


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
        compute_capabilities: the GPUs that the engine runs on, such as ``8.6``; empty where it runs on the processor.
        notes: what the user has to know about what was built.
    """

    engine: str
    files: tuple[str, ...]
    layers: dict[str, int]
    backend_version: str
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    compute_capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """An engine that is loaded and ready; used by one thread at a time.

    Attributes:
        inputs: what goes in.
        outputs: what comes out.
        notes: what the user has to know of how it runs here, such as why there is no CUDA graph.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def notes(self) -> Sequence[str]: ...

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; the caller has checked names, types and shapes."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds; a second call does nothing."""
        ...


class Backend(Protocol):
    """One way to build and run engines.

    Attributes:
        name: in the table of backends.
        precisions: what it builds.
        on_gpu: engines run on a GPU; else on the processor.
    """

    name: str
    precisions: frozenset[Precision]
    on_gpu: bool

    def require(self) -> None:
        """Raises `BackendUnavailable`: what building needs and is missing, and the command that installs it."""
        ...

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """Makes sure that an engine for these GPUs can run here.

        Raises:
            BackendUnavailable: there is no device, driver or library to run it on; says how to get it.
            EngineMismatch: the device is another one.
        """
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


def backend_at(entry: str) -> Backend:
    """The backend at ``module:attribute``, which is imported now."""
    module, _, attribute = entry.partition(":")
    return cast(Backend, getattr(importlib.import_module(module), attribute)())


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: there is none of that name.
    """
    return backend_at(entry_of(name).backend)


def default_target() -> str:
    """``tensorrt`` where TensorRT and a GPU are found, else ``cpu``."""
    if importlib.util.find_spec("tensorrt") is None:
        return "cpu"
    tensorrt = backend("tensorrt")
    try:
        tensorrt.require()
        tensorrt.require_device(())
    except BackendUnavailable:
        return "cpu"
    return "tensorrt"
