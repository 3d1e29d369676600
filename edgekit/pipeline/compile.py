"""From a bundle's graph to its engine, on the machine that it is for: neither torch nor onnx is needed."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from edgekit.config import EngineOptions, command_from_compile
from edgekit.device.nvidia import gpus
from edgekit.engine.backend import BACKENDS, Backend, BuildOptions, BuildResult, backend
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.manifest import Manifest, check_files, read_manifest, seal, this_machine, write_bundle
from edgekit.errors import EngineMismatch, UsageError, nearest
from edgekit.progress import Progress, Silent
from edgekit.specs import Precision, ShapeRange
from edgekit.storage import cache_folder

__all__ = ["build_options", "compile_bundle"]

GRAPH = "graph.onnx"
AND_THEN = " && "
KEPT = (GRAPH, f"{GRAPH}.data", "calibration.json")


def build_options(
    target: str, precision: Precision, engine: EngineOptions, shapes: Mapping[str, ShapeRange], *, threads: int = 0
) -> BuildOptions:
    """What the builder of an engine is told."""
    fields = dataclasses.asdict(engine)
    cache = fields.pop("timing_cache")
    return BuildOptions(
        precision=precision,
        threads=threads,
        shapes=dict(shapes),
        compute_capabilities=fields.pop("sm"),
        workspace_bytes=fields.pop("workspace_mib") * 2**20,
        timing_cache=_timing_cache(target) if cache is None else str(Path(cache).absolute()),
        **fields,
    )


def compile_bundle(
    bundle: str | Path,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    engine: EngineOptions | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Builds the engine of a bundle anew from the graph in it, for this machine.

    Args:
        bundle: the folder that ``edgekit build`` has written, with ``--plan-only`` or without.
        target: ``tensorrt`` or ``tensorrt-rtx``; the bundle's own where none is named.
        output: where the new bundle goes; in place of the old one where none is named.
        engine: what the builder is told; see `EngineOptions`.
        progress: is told of every stage.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: no bundle, or one whose graph is not for that target.
        EngineMismatch: a file of the bundle is missing or was changed.
        BackendUnavailable: the target's library is not installed here.
        BuildError: the builder failed; see `engine_from_graph`.
    """
    place = Path(bundle)
    manifest = read_manifest(place)
    target = target or manifest.backend
    library = _library(place, manifest, target)
    library.require()
    options = EngineOptions.of(engine)
    names = [name for name in KEPT if name in manifest.files]
    if GRAPH not in names:
        raise EngineMismatch(f"{place}: expected '{GRAPH}' to compile, the manifest lists none")
    check_files(place, manifest, names)
    progress = progress or Silent()
    goal = Path(output) if output is not None else place
    with write_bundle(goal) as folder:
        for name in names:
            # Both stand on one file system as a rule, and the graph is the larger part of a bundle.
            _link(place / name, folder / name)
        with progress.stage(f"building the {str(manifest.precision).upper()} engine for {target}"):
            told = build_options(target, manifest.precision, options, manifest.shapes)
            result = engine_from_graph(folder / GRAPH, folder, target, told)
        for note in result.notes:
            progress.note(note)
        made = _compiled(manifest, target, result)
        command = command_from_compile(goal, target, options)
        seal(folder, msgspec.structs.replace(made, rebuild=_after(manifest.rebuild, command)))
    return goal


def _after(build: str, command: str) -> str:
    """The command that builds the graph, then that which compiles it; the one before it is forgotten."""
    first = build.split(AND_THEN, 1)[0]
    return f"{first}{AND_THEN}{command}" if first and not first.startswith("edgekit compile") else command


def _library(place: Path, manifest: Manifest, target: str) -> Backend:
    on_gpu = [name for name in BACKENDS if backend(name).on_gpu]
    if target not in BACKENDS:
        raise UsageError(f"unknown target '{target}'", hint=nearest(target, BACKENDS))
    if target not in on_gpu or manifest.backend not in on_gpu:
        wrong = target if manifest.backend in on_gpu else manifest.backend
        raise UsageError(
            f"{place}: expected a graph for {' or '.join(on_gpu)} and one of them as target, got '{wrong}': "
            "graphs for processors have their Q/DQ pairs elsewhere",
            hint=f"build it anew: {manifest.rebuild}" if manifest.rebuild else "",
        )
    return backend(target)


def _timing_cache(target: str) -> str:
    """The file that kernels measured on this GPU are kept in; none where there is no GPU to measure on."""
    here = gpus() if target == "tensorrt" else ()
    if not here:
        return ""
    gpu = "-".join(here[0].name.split())
    return str(cache_folder() / "timing" / f"{target}-{backend(target).version()}-{gpu}.cache")


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _compiled(manifest: Manifest, target: str, result: BuildResult) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        edgekit=edgekit.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        backend=target,
        backend_version=result.backend_version,
        layers=result.layers,
        engine=result.engine,
        machine=this_machine(),
        compute_capabilities=result.compute_capabilities,
        notes=tuple(dict.fromkeys((*manifest.notes, *result.notes))),
    )
