"""`edgekit compile`: builds an engine from a bundle's graph on the target machine, without PyTorch and onnx."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from edgekit.config import BackendOptions, compile_command
from edgekit.engine.backend import Backend, BuildOptions, BuildResult, ChecksOptions, backend
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.checks import check_files
from edgekit.engine.bundle.manifest import (
    GRAPH,
    Manifest,
    manifest_in,
    read_engine,
    read_manifest,
    rebuild_hint,
    this_machine,
    timestamp,
)
from edgekit.engine.bundle.reading import OpenFolder
from edgekit.engine.bundle.replacing import replaced_engine
from edgekit.engine.bundle.writing import seal, write_bundle
from edgekit.engine.table import BACKENDS
from edgekit.errors import EngineMismatch, UsageError, nearest
from edgekit.option import given_path, given_values
from edgekit.pipeline.validate import engine_options
from edgekit.progress import Progress, given_progress

__all__ = ["compile_bundle"]

KEPT = (GRAPH, f"{GRAPH}.data", "calibration.json")


def compile_bundle(
    bundle: str | Path,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    engine: BackendOptions | Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Builds an engine for this machine from the graph of a bundle.

    Args:
        bundle: the folder that ``edgekit build`` wrote, with or without ``--graph-only``.
        target: ``tensorrt`` or ``tensorrt-rtx``; default: the target of the bundle.
        output: the folder of the new bundle; default: replaces the old bundle.
        engine: options of the target's backend: its struct, or some of its fields by name.
        force: replace an engine of another model at ``output``.
        progress: receives a stage for each step and notes; without one, notes are warnings.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: the folder is not a bundle, or its graph is not for the target.
        EngineMismatch: a file of the bundle is missing or was modified.
        BackendUnavailable: the target's library is not installed.
        BuildError: the builder failed; see `engine_from_graph`.
    """
    place = given_path("bundle", bundle)
    manifest = read_manifest(place)
    target = manifest.backend if target is None else target
    library = _library(place, manifest, target)
    library.require()
    options = engine_options(target, engine)
    if isinstance(library, ChecksOptions):
        library.check_options(manifest.precision, given_values(options))
    _kept_names(place, manifest)
    progress = given_progress(progress)
    goal = given_path("output", output) if output is not None else place
    replaced = ""
    if goal.resolve() != place.resolve():  # compiling a bundle in its place is what the command is for
        replaced = replaced_engine(
            goal, name=manifest.name, precision=str(manifest.precision), target=target, force=force
        )
    with write_bundle(goal, progress) as folder:
        manifest = read_engine(place, functools.partial(_kept, place=folder))
        with progress.stage(f"building the {str(manifest.precision).upper()} engine for {target}"):
            request = BuildOptions(
                precision=manifest.precision,
                shapes=manifest.shapes,
                attention=manifest.options.get("attention", "auto"),
                engine=given_values(options),
            )
            result = engine_from_graph(folder / GRAPH, folder, target, request)
        for note in result.notes:
            progress.note(note)
        seal(folder, _recompiled(manifest, target, options, result, compile_command(goal, target, options)))
    if replaced:
        progress.note(replaced)
    return goal


def _kept_names(place: Path, manifest: Manifest) -> list[str]:
    names = [name for name in KEPT if name in manifest.files]
    if GRAPH not in names:
        raise EngineMismatch(f"{place}: expected '{GRAPH}' to compile, got a manifest that does not list it")
    return names


def _kept(source: OpenFolder, place: Path) -> Manifest:
    """Puts the files of a bundle that do not depend on its engine into a folder; returns the bundle's manifest."""
    manifest = manifest_in(source.at)
    names = _kept_names(source.at, manifest)
    check_files(source.at, manifest, names)
    for name in names:
        # The graph is the largest part of a bundle, and both folders are usually on one file system.
        _link(source.at / name, place / name)
    return manifest


def _library(place: Path, manifest: Manifest, target: str) -> Backend:
    on_gpu = [name for name in BACKENDS if backend(name).on_gpu]
    if not isinstance(target, str) or target not in BACKENDS:
        raise UsageError(f"unknown target '{target}'", hint=nearest(str(target), BACKENDS))
    if target not in on_gpu or manifest.backend not in on_gpu:
        wrong = target if manifest.backend in on_gpu else manifest.backend
        raise UsageError(
            f"{place}: expected a graph for {' or '.join(on_gpu)} and one of them as target, got '{wrong}': "
            "graphs for CPUs have their Q/DQ pairs in other places",
            hint=rebuild_hint(manifest.rebuild),
        )
    return backend(target)


def _link(source: Path, place: Path) -> None:
    place.unlink(missing_ok=True)  # of an attempt on a version that was replaced meanwhile
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _recompiled(
    manifest: Manifest, target: str, options: BackendOptions, result: BuildResult, command: str
) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        edgekit=edgekit.__version__,
        created=timestamp(),
        backend=target,
        backend_version=result.backend_version,
        layers=result.layers,
        engine=result.engine,
        engine_options=given_values(options),
        compile_command=command,
        machine=this_machine(),
        compute_capabilities=result.compute_capabilities,
        notes=tuple(dict.fromkeys((*manifest.notes, *result.notes))),
    )
