"""Writes and reads bundles, the folders that contain an engine, and checks their files and the machine."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import msgspec

from edgekit.arguments import argument, either
from edgekit.data.input_statistics import InputStatistics
from edgekit.device.cpu import cpu
from edgekit.engine.backend import Backend, backend
from edgekit.engine.bundle.reading import OpenFolder, read_whole
from edgekit.engine.bundle.staging import interrupted_replacement, staged_folder
from edgekit.engine.table import BACKENDS
from edgekit.errors import EngineMismatch, UsageError, nearest
from edgekit.progress import Progress
from edgekit.recipe.schema import Postprocess, Preprocess
from edgekit.specs import Precision, ShapeRange, TensorSpec
from edgekit.storage import sha256_of, storage_error
from edgekit.text import json_bytes, json_value, shell_quoted

__all__ = [
    "FORMAT",
    "GRAPH",
    "MANIFEST",
    "Bundle",
    "CalibrationInfo",
    "FileInfo",
    "Machine",
    "Manifest",
    "Source",
    "WeightsInfo",
    "bundle_in",
    "check_files",
    "manifest_fields",
    "manifest_in",
    "read_bundle",
    "read_engine",
    "read_manifest",
    "seal",
    "this_machine",
    "timestamp",
    "write_bundle",
]

T = TypeVar("T")

FORMAT = 2
MANIFEST = "manifest.json"
GRAPH = "graph.onnx"

X86_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


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
            ``dynamic`` has more noise.
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
            200 if nothing differs.
    """

    reference: str
    inputs: int
    sqnr_db: dict[str, float]


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


class Bundle(msgspec.Struct, frozen=True):
    """A bundle whose files are intact and whose engine runs on this machine."""

    path: Path
    manifest: Manifest


def this_machine() -> Machine:
    """Returns the description of this machine, for the manifest."""
    here = cpu()
    system = f"{platform.system()} {platform.release()}"
    return Machine(arch=here.arch, cpu=here.name, features=here.features, system=system)


def timestamp() -> str:
    """Returns the time now for a manifest: ISO 8601, UTC, in seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@contextmanager
def write_bundle(output: Path, progress: Progress | None = None) -> Iterator[Path]:
    """Yields a staging folder, which becomes the bundle ``output`` if the context exits normally; see `staged_folder`.

    An existing bundle is replaced. A folder that is not a bundle, or a bundle with other files in it, is not.

    Args:
        output: path of the bundle; parent folders are created.
        progress: see `staged_folder`.

    Raises:
        UsageError: something else exists at ``output``.
        BuildError: the disk is full, read-only, or write access is denied.
    """
    output = Path(output).resolve()
    _refuse_strangers(output)
    with staged_folder(output, progress) as folder:
        yield folder
        _refuse_strangers(output)  # what was put there during the build


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Writes ``manifest.json`` with the size and hash of each file in ``folder``.

    Returns:
        The manifest as written.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: _file_info(folder / name) for name in names if name != MANIFEST}
    sealed = msgspec.structs.replace(manifest, format=FORMAT, files=files)
    text = json_bytes(sealed, indent=2)
    (folder / MANIFEST).write_bytes(text + b"\n")
    return sealed


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
        found = "it is a file" if path.exists() else "there is nothing"
        if aside := interrupted_replacement(path):
            hint = f"its replacement was interrupted: mv {shell_quoted(str(aside))} {shell_quoted(str(path))}"
            raise UsageError(f"no engine at {path}: expected a folder with {MANIFEST}, {found}", hint=hint) from e
        raise UsageError(f"no engine at {path}: expected a folder with {MANIFEST}, {found}", hint=_make_one()) from e
    except OSError as e:  # no permission to search a folder or to read the manifest
        raise EngineMismatch(f"cannot read {path / MANIFEST}: {e.strerror}", hint=_make_one()) from e


def manifest_in(path: Path) -> Manifest:
    """Reads the manifest in the open folder ``path``; see `read_manifest`."""
    file = path / MANIFEST
    if not file.is_file():
        raise UsageError(f"{path} is no engine: expected {MANIFEST} in it, there is none", hint=_make_one())
    raw = _json(file.read_bytes())
    hint = _rebuild(_command_in(raw))
    if not isinstance(raw, dict):
        raise EngineMismatch(f"{file} is damaged: expected a JSON object", hint=hint)
    _check_format(file, raw.get("format"), hint)
    try:
        return msgspec.convert(raw, Manifest)
    except (msgspec.ValidationError, RecursionError) as e:
        raise EngineMismatch(f"{file} is damaged: {e}", hint=hint) from e


def manifest_fields(path: Path) -> dict[str, Any]:
    """Returns the fields of the manifest in a folder, of any format; empty if there is none that can be read."""
    try:
        raw = _json((path / MANIFEST).read_bytes())
    except OSError:
        return {}
    return raw if isinstance(raw, dict) else {}


def read_bundle(path: Path) -> Bundle:
    """Reads the bundle at ``path``, and checks its files and that its engine runs on this machine.

    Raises:
        UsageError: ``path`` is not a bundle.
        EngineMismatch: a file is missing or was changed, or the engine is for another backend, version or CPU.
        BackendUnavailable: the backend is not installed.
    """
    return Bundle(Path(path), read_engine(path, lambda folder: bundle_in(folder.at)))


def bundle_in(path: Path) -> Manifest:
    """Reads the manifest in the open folder ``path``, and checks what `read_bundle` checks."""
    manifest = manifest_in(path)
    hint = _rebuild(manifest.rebuild)
    compile_it = either(
        f"edgekit compile {shell_quoted(str(path))} --target {manifest.backend}",
        f"edgekit.compile({str(path)!r}, target={manifest.backend!r})",
    )
    if not manifest.engine:
        raise EngineMismatch(f"{path} holds a graph for {manifest.backend}, and no engine yet", hint=compile_it)
    if manifest.engine not in manifest.files:
        raise EngineMismatch(f"{path / MANIFEST} is damaged: it does not list engine '{manifest.engine}'", hint=hint)
    check_files(path, manifest)
    # The graph in the bundle is valid for every GPU; only the engine has to be rebuilt.
    hint = f"build its engine for this machine: {compile_it}" if manifest.compute_capabilities else hint
    _check_machine(path, manifest, hint)
    _check_backend(path, manifest, hint)
    return manifest


def check_files(path: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Checks that files of the bundle exist and are unchanged.

    Args:
        path: the bundle's folder.
        manifest: its manifest.
        names: the files to check; None: all.

    Raises:
        EngineMismatch: a file is missing or was changed.
    """
    for name in manifest.files if names is None else names:
        _check_file(path, name, manifest.files[name], _rebuild(manifest.rebuild))


def _make_one() -> str:
    return either("edgekit build MODEL --output FOLDER makes one", "edgekit.build(MODEL, output=FOLDER) makes one")


def _rebuild(command: str) -> str:
    return f"rebuild it: {command}" if command else "rebuild it with edgekit build"


def _command_in(raw: object) -> str:
    """Returns the command that rebuilds the engine, from a manifest of this format or of format 1."""
    found = [raw.get(name) for name in ("build_command", "compile_command", "rebuild")] if isinstance(raw, dict) else []
    return " && ".join(command for command in found if command and isinstance(command, str))


def _json(data: bytes) -> Any:
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


def _file_info(file: Path) -> FileInfo:
    return FileInfo(file.stat().st_size, sha256_of(file))


def _check_file(folder: Path, name: str, expected: FileInfo, hint: str) -> None:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name:
        raise EngineMismatch(f"{folder / MANIFEST} is damaged: {name!r} is not inside the bundle", hint=hint)
    file = folder / inside
    try:
        if not file.is_file():
            raise EngineMismatch(f"{folder}: '{name}' is missing; {MANIFEST} lists it", hint=hint)
        size = file.stat().st_size
        if size != expected.size_bytes:
            raise EngineMismatch(
                f"{folder}: '{name}' was changed: expected {expected.size_bytes} bytes, got {size}", hint=hint
            )
        got = _file_info(file)
    except (OSError, ValueError) as e:
        raise EngineMismatch(f"{folder}: cannot read '{name}': {e}", hint=hint) from e
    if got.sha256 != expected.sha256:
        raise EngineMismatch(
            f"{folder}: '{name}' was changed: expected sha256 {expected.sha256[:16]}…, got {got.sha256[:16]}…",
            hint=hint,
        )


def _check_machine(folder: Path, manifest: Manifest, hint: str) -> None:
    built, here = manifest.machine, cpu()
    if built.arch != here.arch:
        raise EngineMismatch(f"{folder} was built for {built.arch} ({built.cpu}), this is {here.arch}", hint=hint)
    # On x86 with VNNI, weights have 8 bits; without VNNI, their products overflow 16 bits and the results are wrong.
    # In all other cases an engine is slower on a CPU with fewer instruction sets, but correct.
    int8_on_cpu = not manifest.compute_capabilities and manifest.precision is Precision.INT8
    needs = X86_DOT_PRODUCTS & set(built.features) if int8_on_cpu else frozenset()
    if needs and X86_DOT_PRODUCTS.isdisjoint(here.features):
        raise EngineMismatch(
            f"{folder} was built for {built.cpu} with {', '.join(sorted(needs))}; {here.name} has "
            f"{', '.join(here.features) or 'none of these'}, and its 8-bit products would overflow",
            hint=hint,
        )


def _check_backend(folder: Path, manifest: Manifest, hint: str) -> None:
    if manifest.backend not in BACKENDS:
        raise EngineMismatch(
            f"{folder} was built for backend '{manifest.backend}', which this EdgeKit does not know",
            hint=nearest(manifest.backend, BACKENDS),
        )
    library: Backend = backend(manifest.backend)
    library.require()
    built, here = manifest.backend_version, library.version()
    if _release(built) != _release(here):
        raise EngineMismatch(f"{folder} was built with {manifest.backend} {built}, here is {here}", hint=hint)
    library.require_device(manifest.compute_capabilities)


def _release(version: str) -> tuple[str, ...]:
    """Returns the major and minor version: libraries keep engines compatible across patch releases only."""
    return tuple(re.findall(r"\d+", version)[:2])


def _refuse_strangers(output: Path) -> None:
    other = f"choose another {argument('output')}"
    try:
        if not output.exists():
            return
        read_whole(output, lambda folder: _refuse_strangers_in(folder.at, other))
    except FileNotFoundError:
        return  # another process is replacing it
    except NotADirectoryError as e:
        raise UsageError(f"cannot write an engine to {output}: it is a file", hint=other) from e
    except OSError as e:
        raise storage_error(e, output) from e


def _refuse_strangers_in(output: Path, other: str) -> None:
    present = {p.relative_to(output).as_posix() for p in output.rglob("*") if not p.is_dir()}
    visible = {name for name in present if not PurePosixPath(name).name.startswith(".")}
    if not visible:
        return
    if MANIFEST not in visible:
        raise UsageError(f"{output} is not empty and no engine: nothing in it was touched", hint=other)
    raw = _json((output / MANIFEST).read_bytes())
    files = raw.get("files") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or "edgekit" not in raw or not isinstance(files, dict):
        raise UsageError(f"{output / MANIFEST} is not EdgeKit's: nothing was touched", hint=other)
    strangers = sorted(visible - set(files) - {MANIFEST})
    if strangers:
        raise UsageError(
            f"{output} has files that EdgeKit did not put there: {', '.join(strangers[:3])}; nothing was touched",
            hint=f"move them away or {other}",
        )
