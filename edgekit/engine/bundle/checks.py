"""Checks that a bundle is intact, and that its engine runs on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from edgekit.device.cpu import cpu
from edgekit.engine.backend import Backend, backend
from edgekit.engine.bundle.manifest import (
    MANIFEST,
    FileInfo,
    Manifest,
    compile_hint,
    file_info,
    manifest_in,
    read_engine,
    rebuild_hint,
)
from edgekit.engine.table import BACKENDS
from edgekit.errors import EngineMismatch, nearest
from edgekit.specs import Precision

__all__ = ["Bundle", "bundle_in", "check_files", "read_bundle"]

X86_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


class Bundle(msgspec.Struct, frozen=True):
    """A bundle whose files are intact and whose engine runs on this machine."""

    path: Path
    manifest: Manifest


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
    hint = rebuild_hint(manifest.rebuild)
    compile_it = compile_hint(path, manifest.backend)
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
        _check_file(path, name, manifest.files[name], rebuild_hint(manifest.rebuild))


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
        got = file_info(file)
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
