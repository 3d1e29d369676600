"""Compilation: from a typed graph to an engine. `edgekit compile` needs neither PyTorch nor onnx."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import edgekit
from edgekit.config import BackendOptions, BuildConfig, build_command, compile_command
from edgekit.engine.backend import Backend, BuildOptions, BuildResult, backend
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.manifest import (
    FORMAT,
    CalibrationInfo,
    FileInfo,
    Manifest,
    check_files,
    read_manifest,
    seal,
    this_machine,
    write_bundle,
)
from edgekit.engine.table import BACKENDS
from edgekit.errors import EngineMismatch, UsageError, nearest
from edgekit.measure.compare import BuiltEngine
from edgekit.option import given_options
from edgekit.pipeline.validate import engine_options
from edgekit.progress import Progress, Silent
from edgekit.specs import Precision, ShapeRange

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.pipeline.calibrate import Calibration
    from edgekit.pipeline.load_model import LoadedModel
    from edgekit.pipeline.precision import TypedGraph

__all__ = ["compile_bundle", "compile_engines"]

GRAPH = "graph.onnx"
KEPT = (GRAPH, f"{GRAPH}.data", "calibration.json")


def compile_engines(
    folder: Path,
    scratch: Path,
    model: LoadedModel,
    typed: TypedGraph,
    calibration: Calibration,
    config: BuildConfig,
    progress: Progress,
    *,
    reference: bool,
) -> list[BuiltEngine]:
    """Builds the engine in ``folder``, and before it the FP32 engine to compare with.

    Args:
        folder: gets the engine and its graph.
        scratch: gets the FP32 engine.
        model: the model of both.
        typed: the graph of the engine.
        calibration: for the manifest.
        config: of the build; manifests record it.
        progress: gets a stage for each engine.
        reference: whether to build an FP32 engine too, if the engine is not FP32 itself.

    Returns:
        The engines, FP32 first.

    Raises:
        BuildError: a builder failed; see `edgekit.engine.builder.engine_from_graph`.
        GraphError: the backend cannot take the graph.
    """
    engines = []
    if reference and typed.kept_in_float is not None:
        float_config = dataclasses.replace(
            config, target=dataclasses.replace(config.target, precision=Precision.FP32, half_io=False)
        )
        engines.append(_compiled_graph(scratch, model.graph, model, None, float_config, progress))
    table = calibration.table if config.target.precision is Precision.INT8 else None
    info = None
    if table is not None:
        info = CalibrationInfo(set=table.set, method=table.method, images=table.images, skipped=len(table.skipped))
    return [*engines, _compiled_graph(folder, typed.graph, model, info, config, progress)]


def _compiled_graph(
    folder: Path,
    graph: ir.Model,
    model: LoadedModel,
    calibration: CalibrationInfo | None,
    config: BuildConfig,
    progress: Progress,
) -> BuiltEngine:
    from edgekit.graph.file import input_specs, output_specs, save_graph  # boards have no onnx_ir, and do not come here

    target = config.target
    save_graph(graph, folder / GRAPH)
    if target.graph_only:
        result = BuildResult(engine="", files=(), layers={}, backend_version="")
    else:
        options = BuildOptions(
            precision=target.precision,
            threads=target.threads,
            shapes=dict(model.shapes),
            engine=_plain_options(target.engine),
        )
        with progress.stage(f"building the {str(target.precision).upper()} engine for {target.target}"):
            result = engine_from_graph(folder / GRAPH, folder, target.target, options)
    for note in result.notes:
        progress.note(note)
    manifest = Manifest(
        format=FORMAT,
        edgekit=edgekit.__version__,
        created=_now(),
        name=model.name,
        task=model.task,
        backend=target.target,
        backend_version=result.backend_version,
        precision=target.precision,
        layers=result.layers,
        engine=result.engine,
        machine=this_machine(),
        compute_capabilities=result.compute_capabilities,
        shapes=dict(model.shapes),
        source=model.origin,
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        preprocess=model.preprocess,
        postprocess=model.postprocess,
        labels=model.labels,
        calibration=calibration,
        options=_plain_config(config),
        engine_options=_plain_options(target.engine),
        build_command=build_command(config),
        # What is measured is weighed too; hashes come when the bundle is sealed.
        files={name: FileInfo((folder / name).stat().st_size, "") for name in result.files},
    )
    return BuiltEngine(folder, manifest)


def _plain_config(config: BuildConfig) -> dict[str, Any]:
    """The options of a build that were given, as plain values by name, for the manifest."""
    given = {found.name: getattr(group, found.name) for group in config.groups for found in given_options(group)}
    plain: dict[str, Any] = msgspec.to_builtins(given, enc_hook=str)
    return plain


def _plain_options(engine: BackendOptions) -> dict[str, Any]:
    """The options of a backend that were given, as plain values by name."""
    plain: dict[str, Any] = msgspec.to_builtins(
        {found.name: getattr(engine, found.name) for found in given_options(engine)}
    )
    return plain


def compile_bundle(
    bundle: str | Path,
    *,
    target: str | None = None,
    output: str | Path | None = None,
    engine: BackendOptions | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Builds the engine of a bundle from the graph in it, for this machine.

    Args:
        bundle: the folder that ``edgekit build`` wrote, with ``--graph-only`` or without.
        target: ``tensorrt`` or ``tensorrt-rtx``; default: the bundle's own.
        output: the folder of the new bundle; default: it replaces the old one.
        engine: options of the target's backend: its struct, or some of its fields by name.
        progress: gets a stage for each step.

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
    options = engine_options(target, engine)
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
            request = _request(manifest.precision, options, manifest.shapes)
            result = engine_from_graph(folder / GRAPH, folder, target, request)
        for note in result.notes:
            progress.note(note)
        seal(folder, _recompiled(manifest, target, options, result, compile_command(goal, target, options)))
    return goal


def _request(precision: Precision, options: BackendOptions, shapes: Mapping[str, ShapeRange]) -> BuildOptions:
    return BuildOptions(precision=precision, shapes=dict(shapes), engine=_plain_options(options))


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


def _link(source: Path, place: Path) -> None:
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
        created=_now(),
        backend=target,
        backend_version=result.backend_version,
        layers=result.layers,
        engine=result.engine,
        engine_options=_plain_options(options),
        compile_command=command,
        machine=this_machine(),
        compute_capabilities=result.compute_capabilities,
        notes=tuple(dict.fromkeys((*manifest.notes, *result.notes))),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
