"""The folder an engine lives in."""

from __future__ import annotations

import msgspec

from edgekit.recipe import Postprocess, Preprocess
from edgekit.specs import Precision, TensorSpec

FORMAT = 1


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine was built on, and so is for.

    Attributes:
        arch: ``x86_64`` or ``aarch64``.
        cpu: the processor's name.
        features: the processor's instruction sets that matter to INT8, such as ``avx512_vnni``.
        system: operating system and its version.
    """

    arch: str
    cpu: str
    features: tuple[str, ...]
    system: str


class WeightsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights came from; ``trained`` is false when they are random."""

    source: str
    sha256: str = ""
    trained: bool = True


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine was built from: ``kind`` is ``recipe``, ``onnx`` or ``module``."""

    kind: str
    name: str
    sha256: str = ""
    weights: WeightsInfo | None = None


class CalibrationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What INT8's ranges were measured on."""

    set: str
    method: str
    images: int
    skipped: int = 0


class FileInfo(msgspec.Struct, frozen=True):
    """Length and hash of a file in the bundle."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: all that is known of the engine beside it.

    Attributes:
        format: version of this file's format.
        edgekit: version of EdgeKit that built it.
        created: time of the build, ISO 8601, UTC.
        name: the model's name.
        task: ``detect`` or ``tensor``.
        backend: name in the table of backends.
        backend_version: version of the vendor's library that built it.
        precision: what was asked for.
        layers: what was built: convolutions and matrix products by element type.
        engine: name of the engine's file.
        rebuild: the command line that builds it anew.
        notes: what the user has to know when reading any of its results.
        files: every other file of the bundle.
    """

    format: int
    edgekit: str
    created: str
    name: str
    task: str
    backend: str
    backend_version: str
    precision: Precision
    layers: dict[str, int]
    engine: str
    machine: Machine
    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    labels: tuple[str, ...] = ()
    calibration: CalibrationInfo | None = None
    rebuild: str = ""
    notes: tuple[str, ...] = ()
    files: dict[str, FileInfo] = {}
