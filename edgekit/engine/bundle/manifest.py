"""The manifest of a bundle, which is the folder of an engine: what is in it, and reading it."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edgekit.arguments import either
from edgekit.data.input_statistics import InputStatistics
from edgekit.device.cpu import cpu
from edgekit.engine.bundle.reading import OpenFolder, read_whole
from edgekit.engine.bundle.staging import interrupted_replacement
from edgekit.errors import EngineMismatch, UsageError, nearest
from edgekit.recipe.heads import DETECTOR_TASKS, task_of_head
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.specs import Precision, ShapeRange, TensorSpec
from edgekit.storage import sha256_of
from edgekit.text import json_value, shell_quoted

__all__ = [
    "FORMAT",
    "GRAPH",
    "MANIFEST",
    "CalibrationInfo",
    "FileInfo",
    "Machine",
    "Manifest",
    "Source",
    "WeightsInfo",
    "file_info",
    "json_or_none",
    "manifest_fields",
    "manifest_in",
    "read_engine",
    "read_manifest",
    "rebuild_hint",
    "this_machine",
    "timestamp",
]

T = TypeVar("T")

FORMAT = 2
MANIFEST = "manifest.json"
GRAPH = "graph.onnx"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that the engine was built on, and is built for.

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
    """The source of the weights; ``trained`` is false if they are random."""

    source: str
    sha256: str = ""
    trained: bool = True


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the engine was built from: ``kind`` is ``recipe``, ``cfg``, ``onnx`` or ``module``."""

    kind: str
    name: str
    sha256: str = ""
    weights: WeightsInfo | None = None


class CalibrationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The calibration set and method."""

    set: str
    method: str
    images: int
    skipped: int = 0


class ActivationsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How INT8 quantizes activations, where two ways were tried.

    Attributes:
        how: the way that was chosen: ``static`` is by calibrated ranges, ``dynamic`` by the range of each run.
        static_db: signal-to-noise ratio of the worst output with ``static``, on calibration inputs, in dB.
        dynamic_db: the same with ``dynamic``.
        time_ratio: time with ``dynamic``, divided by that with ``static``; None if it was not measured, because
            ``dynamic`` has more noise, or because the build measures no time.
    """

    how: Literal["static", "dynamic"]
    static_db: float
    dynamic_db: float
    time_ratio: float | None = None

    def __str__(self) -> str:
        chosen = "calibrated ranges" if self.how == "static" else "--dynamic"
        text = f"INT8 by {chosen}: calibrated ranges keep {self.static_db:.1f} dB of the worst output"
        text += f", --dynamic {self.dynamic_db:.1f} dB"
        return text if self.time_ratio is None else f"{text} at {self.time_ratio:.2f} × the time"


class FileInfo(msgspec.Struct, frozen=True):
    """Size and SHA-256 of a file in the bundle."""

    size_bytes: int
    sha256: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """How far each stage of the build keeps the outputs of the model as it came.

    Attributes:
        reference: what computed the outputs that they were compared with, such as ``ONNX Runtime on model.onnx``.
        inputs: number of inputs.
        sqnr_db: signal-to-noise ratio in dB of each stage's worst output, or part of one, in the order of the build;
            200 if nothing differs. Stages without an output of floats are not in it.
        agreement: of integer outputs and of rows that are selected by value, the share that is as in the reference, of
            each stage's worst output.
    """

    reference: str
    inputs: int
    sqnr_db: dict[str, float]
    agreement: dict[str, float] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of ``manifest.json``: the description of an engine.

    Attributes:
        format: version of this file's format.
        edgekit: version of EdgeKit that built it.
        created: time of the build, ISO 8601, UTC.
        name: the model's name.
        task: ``detect`` or ``tensor``.
        backend: name in the table of backends.
        backend_version: version of the vendor's library that built it.
        precision: the requested precision.
        layers: number of convolutions and matrix products by element type, as built.
        labels: names of the model's classes, in its order; empty if they are unknown.
        input_statistics: statistics of the inputs that the model was trained or calibrated on; None if they are
            unknown.
        expects: what the model's images look like, in words; empty if it takes any.
        engine: name of the engine file; empty in a bundle that `edgekit compile` builds an engine for.
        compute_capabilities: compute capabilities of the GPUs that the engine runs on; empty for the CPU.
        shapes: min, opt and max shapes of the inputs with dynamic dimensions.
        options: the options of ``edgekit build`` that were given, by name.
        engine_options: the options that the engine's backend was given, by name.
        build_command: the ``edgekit build`` command that repeats the build; empty for a module passed as an object.
        compile_command: the ``edgekit compile`` command that made the engine, if it was compiled separately.
        recognized: what the outputs of an ONNX file look like, with the evidence, and a line on the preprocessing;
            empty if nothing was recognized.
        activations: how activations are quantized, where two ways were tried.
        verification: how far it agrees with the model as it came; None if nothing was compared.
        notes: notes for the user about the results.
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
    input_statistics: InputStatistics | None = None
    expects: str = ""
    calibration: CalibrationInfo | None = None
    compute_capabilities: tuple[str, ...] = ()
    shapes: dict[str, ShapeRange] = {}
    options: dict[str, Any] = {}
    engine_options: dict[str, Any] = {}
    build_command: str = ""
    compile_command: str = ""
    activations: ActivationsInfo | None = None
    verification: Verification | None = None
    recognized: str = ""
    notes: tuple[str, ...] = ()
    files: dict[str, FileInfo] = {}

    @property
    def rebuild(self) -> str:
        """The command line that rebuilds the engine; empty if there is none."""
        return " && ".join(command for command in (self.build_command, self.compile_command) if command)


def this_machine() -> Machine:
    """Returns the description of this machine, for the manifest."""
    here = cpu()
    system = f"{platform.system()} {platform.release()}"
    return Machine(arch=here.arch, cpu=here.name, features=here.features, system=system)


def timestamp() -> str:
    """Returns the time now, for a manifest or a report: ISO 8601, UTC, in seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of the bundle at ``path``; does not check the bundle's files or this machine.

    Raises:
        UsageError: ``path`` is not a bundle.
        EngineMismatch: the manifest is damaged or has another format.
    """
    return read_engine(path, lambda folder: manifest_in(folder.at))


def read_engine(path: str | Path, read: Callable[[OpenFolder], T], *, keep_open: bool = False) -> T:
    """Returns what ``read`` makes of the bundle at ``path``, all of one version; see `read_whole`.

    Raises:
        UsageError: ``path`` is not a folder.
        EngineMismatch: the folder cannot be read.
        EdgeKitError: any error of ``read``.
    """
    path = Path(path)
    try:
        return read_whole(path, read, keep_open=keep_open)
    except (FileNotFoundError, NotADirectoryError) as e:
        found = "got a file" if path.exists() else "got no such folder"
        if aside := interrupted_replacement(path):
            hint = f"its replacement was interrupted: mv {shell_quoted(str(aside))} {shell_quoted(str(path))}"
            raise UsageError(f"no engine at {path}: expected a folder with {MANIFEST}, {found}", hint=hint) from e
        if _is_part_of_engine(path):
            hint = f"give its folder: {shell_quoted(str(path.parent))}"
        elif path.suffix.lower() == ".onnx" and path.is_file():
            hint = _make_one(str(path))
        else:
            hint = nearest(str(path), engines_beside(path), listed=False) or _make_one()
        raise UsageError(f"no engine at {path}: expected a folder with {MANIFEST}, {found}", hint=hint) from e
    except OSError as e:  # no permission to search a folder or to read the manifest
        raise EngineMismatch(f"cannot read {path / MANIFEST}: {e.strerror}", hint=_make_one()) from e


def engines_beside(path: Path) -> list[str]:
    """Returns the folders of engines beside ``path``, with the folder that ``path`` names; none if it is unreadable."""
    try:
        return [str(path.parent / file.parent.name) for file in path.parent.glob(f"[!.]*/{MANIFEST}")]
    except (OSError, ValueError):
        return []


def _is_part_of_engine(path: Path) -> bool:
    return path.is_file() and (path.parent / MANIFEST).is_file()


def manifest_in(path: Path) -> Manifest:
    """Reads the manifest in the open folder ``path``; see `read_manifest`."""
    file = path / MANIFEST
    if not file.is_file():
        raise UsageError(f"{path} is no engine: expected {MANIFEST} in it, there is none", hint=_make_one())
    raw = json_or_none(file.read_bytes())
    hint = rebuild_hint(_command_in(raw))
    if not isinstance(raw, dict):
        raise EngineMismatch(f"{file} is damaged: expected a JSON object", hint=hint)
    _check_format(file, raw.get("format"), hint)
    try:
        manifest = msgspec.convert(raw, Manifest)
    except (msgspec.ValidationError, RecursionError) as e:
        raise EngineMismatch(f"{file} is damaged: {e}", hint=hint) from e
    _check_task(file, manifest, hint)
    return manifest


def _check_task(file: Path, manifest: Manifest, hint: str) -> None:
    """Checks that the task is one of the head: a detector may leave out what its head has beside boxes."""
    head = None if manifest.postprocess is None else manifest.postprocess.head
    if manifest.task in DETECTOR_TASKS and head is None:
        raise EngineMismatch(
            f"{file} is damaged: expected 'postprocess' with a head, since the task is '{manifest.task}', got none",
            hint=hint,
        )
    if head is not None and manifest.task not in ("detect", task_of_head(head)):
        raise EngineMismatch(
            f"{file} is damaged: expected the task '{task_of_head(head)}', since the head is for it, got "
            f"'{manifest.task}'",
            hint=hint,
        )


def manifest_fields(path: Path) -> dict[str, Any]:
    """Returns the fields of the manifest in a folder, of any format; empty if there is none that can be read."""
    try:
        raw = json_or_none((path / MANIFEST).read_bytes())
    except OSError:
        return {}
    return raw if isinstance(raw, dict) else {}


def _make_one(model: str = "") -> str:
    shell, python = (shell_quoted(model), repr(model)) if model else ("MODEL", "MODEL")
    return either(
        f"edgekit build {shell} --output FOLDER makes one", f"edgekit.build({python}, output=FOLDER) makes one"
    )


def rebuild_hint(command: str) -> str:
    """Returns the hint to rebuild an engine by this command of a shell; the command may be empty."""
    if command:
        return either(f"rebuild it: {command}", f"rebuild it, in a shell: {command}")
    return f"rebuild it with {either('edgekit build', 'edgekit.build')}"


def compile_hint(bundle: str | Path, target: str) -> str:
    """Returns how to build the engine of a bundle on this machine."""
    return either(
        f"edgekit compile {shell_quoted(str(bundle))} --target {target}",
        f"edgekit.compile({str(bundle)!r}, target={target!r})",
    )


def _command_in(raw: object) -> str:
    """Returns the command that rebuilds the engine, from a manifest of this format or of format 1."""
    found = [raw.get(name) for name in ("build_command", "compile_command", "rebuild")] if isinstance(raw, dict) else []
    return " && ".join(command for command in found if command and isinstance(command, str))


def json_or_none(data: bytes) -> Any:
    """Parses JSON; None if it is damaged."""
    try:
        return json_value(data)
    except msgspec.MsgspecError:
        return None


def _check_format(file: Path, got: object, hint: str) -> None:
    if type(got) is not int:
        raise EngineMismatch(f"{file} is damaged: expected 'format' {FORMAT}, got {str(got)[:40]}", hint=hint)
    if got > FORMAT:
        upgrade = "install a newer EdgeKit, or build the engine again with this one"
        raise EngineMismatch(f"{file}: format {got} is newer than this EdgeKit's, {FORMAT}", hint=upgrade)
    if got < FORMAT:
        raise EngineMismatch(f"{file}: expected format {FORMAT}, got {got}", hint=hint)


def file_info(file: Path) -> FileInfo:
    """Returns the size and hash of a file."""
    return FileInfo(file.stat().st_size, sha256_of(file))
