"""The interface of a backend, and access to backends by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import msgspec
import numpy as np

from edgekit.config import TargetConfig
from edgekit.engine.table import entry_of
from edgekit.errors import BackendUnavailable
from edgekit.option import given_values
from edgekit.specs import EVERY_ATTENTION, Precision, QuantScheme, ShapeRange, TensorSpec

__all__ = [
    "Backend",
    "BuildOptions",
    "BuildResult",
    "ChecksOptions",
    "Engine",
    "backend",
    "backend_at",
    "default_target",
    "build_options_of",
    "scheme_of",
]


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a builder.

    Attributes:
        precision: precision of the graph; the builder checks that the engine has it.
        threads: number of threads that the engine will run on; 0: the backend's default.
        shapes: min, opt and max shapes of the inputs with dynamic dimensions.
        attention: ``auto``: compute it in the way that measured fastest; ``off``: as any other operators. What else
            ``edgekit build`` takes is done to the graph before.
        came_quantized: the graph's Q/DQ pairs are those of the user's file; see `assert_precision`.
        engine: the backend's own options by name, as plain values.
    """

    precision: Precision
    threads: int = 0
    shapes: dict[str, ShapeRange] = {}
    attention: str = "auto"
    came_quantized: bool = False
    engine: dict[str, Any] = {}


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a build.

    Attributes:
        engine: name of the engine's main file, in the output folder.
        files: names of all files written, including ``engine``.
        layers: number of convolutions and matrix products by element type, such as ``{"int8": 72, "float32": 3}``,
            read back from the engine itself.
        backend_version: version of the vendor's library.
        seconds: duration of the build.
        peak_memory_bytes: peak memory of the build process; 0 if unknown.
        compute_capabilities: compute capabilities of the GPUs that the engine runs on, such as ``8.6``; empty for the
            CPU.
        notes: notes for the user about the engine.
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
    """A loaded engine; used by one thread at a time.

    Attributes:
        inputs: specifications of the inputs.
        outputs: specifications of the outputs.
        notes: notes for the user about how it runs here, such as why there is no CUDA graph.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def notes(self) -> Sequence[str]: ...

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes outputs by name from inputs by name; the caller has checked names, types and shapes."""
        ...

    def close(self) -> None:
        """Frees the engine's resources; a second call does nothing."""
        ...


class Backend(Protocol):
    """A backend: builds and loads engines.

    Attributes:
        name: name in the table of backends.
        precisions: the precisions it supports.
        on_gpu: engines run on a GPU; else on the CPU.
        computes: engines compute the outputs of the graph; those of ``null`` are zeros, and compared with nothing.
        rounds_to_fp8: floats become FP8 as in ONNX.
    """

    name: str
    precisions: frozenset[Precision]
    on_gpu: bool
    computes: bool
    rounds_to_fp8: bool

    def require(self) -> None:
        """Raises `BackendUnavailable` if something needed for building is missing, with the command to install it."""
        ...

    def require_device(self, compute_capabilities: Sequence[str]) -> None:
        """Checks that an engine for these compute capabilities can run here.

        Raises:
            BackendUnavailable: the device, driver or library is missing; the hint says how to get it.
            EngineMismatch: the device is not one of them.
        """
        ...

    def version(self) -> str:
        """Returns the version of the vendor's library."""
        ...

    def scheme(self) -> QuantScheme:
        """Returns the quantization scheme of this backend."""
        ...

    def build(self, graph: Path, folder: Path, options: BuildOptions) -> BuildResult:
        """Builds an engine from the ONNX file ``graph`` into ``folder``; called in a child process."""
        ...

    def load(self, engine: Path, *, threads: int = 0) -> Engine:
        """Loads an engine file written by `build`."""
        ...


@runtime_checkable
class ChecksOptions(Protocol):
    """A backend that can say before a build that an option cannot work here."""

    def check_options(self, precision: Precision, options: Mapping[str, Any]) -> None:
        """Raises `UsageError` if an option does not go with the precision, the library's version or the board.

        Args:
            precision: precision of the engine.
            options: the options that were given, by name.
        """
        ...

    def check_options_elsewhere(self, precision: Precision, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Raises `UsageError` if an option goes with no version and board; returns what depends on these.

        Args:
            precision: precision of an engine that is built on another machine.
            options: the options that were given, by name.
        """
        ...


def backend_at(entry: str) -> Backend:
    """Imports and returns the backend at ``module:attribute``."""
    module, _, attribute = entry.partition(":")
    return cast(Backend, getattr(importlib.import_module(module), attribute)())


def backend(name: str) -> Backend:
    """Returns the backend with this name.

    Raises:
        UsageError: there is no such backend.
    """
    return backend_at(entry_of(name).backend)


def scheme_of(target: TargetConfig) -> QuantScheme:
    """Returns the target's quantization scheme.

    ``--attention off`` quantizes attention's products like any others; single operators for all of it take them in
    float.
    """
    scheme = backend(target.target).scheme()
    if target.attention == "auto":
        return scheme
    return msgspec.structs.replace(scheme, float_attention=() if target.attention == "off" else EVERY_ATTENTION)


def build_options_of(
    target: TargetConfig, shapes: Mapping[str, ShapeRange], *, came_quantized: bool = False
) -> BuildOptions:
    """Returns the options that a target's engine is built with; ``shapes`` are those of dynamic inputs."""
    return BuildOptions(
        precision=target.precision,
        threads=target.threads,
        shapes=dict(shapes),
        attention=target.attention,
        came_quantized=came_quantized,
        engine=given_values(target.engine),
    )


def default_target() -> str:
    """Returns ``tensorrt`` if TensorRT and a GPU are available, else ``cpu``."""
    if importlib.util.find_spec("tensorrt") is None:
        return "cpu"
    tensorrt = backend("tensorrt")
    try:
        tensorrt.require()
        tensorrt.require_device(())
    except BackendUnavailable:
        return "cpu"
    return "tensorrt"
