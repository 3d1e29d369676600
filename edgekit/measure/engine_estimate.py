"""Estimates an engine that cannot be measured here: its layers and their least times on a board, by the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

import edgekit
from edgekit.arguments import argument
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest, read_manifest, timestamp
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.extras import install_command
from edgekit.measure.boards import board_from_name, boards, names_of_boards, runs_on
from edgekit.measure.estimate import Estimate, estimate_from_layers
from edgekit.measure.fused_layers import FusedLayer, fused_layers
from edgekit.measure.inspection import Inspection, inspection_from_bundle, module_of
from edgekit.measure.measured_run import sized_inputs
from edgekit.measure.profile import engine_bytes
from edgekit.specs import ShapeRange, TensorSpec

__all__ = ["EngineEstimate", "EstimatedLayer", "estimate_of_bundle", "why_not_measurable"]

FORMAT = 1


class EstimatedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an engine that was not measured.

    Attributes:
        name: name of the layer with the most multiply-accumulates in it.
        operator: operator type of that layer.
        precision: numpy's name of the element type that it computes in.
        nodes: names of the graph nodes that it computes.
        module: path of its module; empty if unknown.
        output: shape of its output.
        macs: multiply-accumulates.
        weight_bytes: bytes of the constants that it reads.
        activation_bytes: bytes of the activations that it reads and writes.
        bound: what bounds it on the board, ``compute`` or ``memory``.
        bound_ms: the least time that the board's peaks allow; nothing was measured.
        estimate_ms: the estimated time; None without an estimate for such boards.
        share: its part of the sum over all layers, of ``estimate_ms``, or else of ``bound_ms``.
    """

    name: str
    operator: str
    precision: str
    nodes: tuple[str, ...]
    module: str
    output: tuple[int, ...]
    macs: int
    weight_bytes: int
    activation_bytes: int
    bound: Literal["compute", "memory"]
    bound_ms: float
    estimate_ms: float | None
    share: float


class EngineEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What ``edgekit profile --json`` prints for an engine that cannot run here; it has no measured latency.

    Attributes:
        measured: always false: all times are estimates or lower bounds.
        format: version of this format.
        reason: why the engine was not measured.
        name: the model's name.
        task: ``detect`` or ``tensor``.
        precision: precision of the engine.
        layer_counts: number of convolutions and matrix products by the element type that they run in.
        backend: the engine's backend.
        backend_version: version of the vendor's library.
        compute_capabilities: compute capabilities of the GPUs that the engine runs on.
        edgekit: version of EdgeKit.
        created: time of the estimate, ISO 8601, UTC.
        inputs: the engine's inputs with the shapes of the estimate.
        shapes: the shape ranges of inputs with dynamic shapes.
        engine_bytes: size of the engine's files.
        layers_from: ``engine`` if the engine's library reported which layers are fused, else ``graph``: the fusions
            that any engine does.
        layers: in the order of execution.
        estimate: the board, its roofline, and the estimate of the whole, if there is one.
        notes: what the reader must know.
    """

    measured: bool = False
    format: int = FORMAT
    reason: str
    name: str
    task: str
    precision: str
    layer_counts: dict[str, int]
    backend: str
    backend_version: str
    compute_capabilities: tuple[str, ...]
    edgekit: str
    created: str
    inputs: tuple[TensorSpec, ...]
    shapes: dict[str, ShapeRange]
    engine_bytes: int
    layers_from: Literal["engine", "graph"]
    layers: tuple[EstimatedLayer, ...]
    estimate: Estimate
    notes: tuple[str, ...] = ()


def why_not_measurable(path: Path) -> str:
    """Returns why an engine for a GPU cannot run here, such as a driver that is missing; empty if it may run.

    Raises:
        UsageError: ``path`` is not a bundle.
        EngineMismatch: there is a GPU, but the engine is for another.
    """
    manifest = read_manifest(path)
    target = backend(manifest.backend)
    if not target.on_gpu:
        return ""
    try:
        target.require_device(manifest.compute_capabilities)
    except BackendUnavailable as e:
        return e.message
    return ""


def estimate_of_bundle(
    path: Path, *, reason: str, board: str | None = None, sizes: Mapping[str, Sequence[int]] | None = None
) -> EngineEstimate:
    """Estimates the layers of an engine on a board; nothing is run.

    Args:
        path: the folder of the engine.
        reason: why it is not measured, for the report.
        board: key of the board; default: the first in ``boards.toml`` that the engine was built for.
        sizes: shapes of the inputs, as in `edgekit.measure.profile.profile_bundle`.

    Raises:
        UsageError: ``board`` is not known, or not given where none is known that the engine was built for.
        BackendUnavailable: ``onnx``, which counts the arithmetic of the graph, is not installed.
    """
    manifest = read_manifest(path)
    chosen = board or _default_board(manifest)
    inputs = sized_inputs(manifest.inputs, manifest.shapes, sizes or {})
    found = inspection_from_bundle(path, {spec.name: tuple(map(int, spec.shape)) for spec in inputs})
    if found.macs is None:
        hint = install_command("build", "onnx", "onnx-ir")
        raise BackendUnavailable("counting the arithmetic of an engine needs the package 'onnx'", hint=hint)
    fused = fused_layers(found)
    made = estimate_from_layers(fused, chosen, name=manifest.name, precision="as built", inputs=tuple(map(str, inputs)))
    return EngineEstimate(
        reason=reason,
        name=manifest.name,
        task=manifest.task,
        precision=str(manifest.precision),
        layer_counts=manifest.layers,
        backend=manifest.backend,
        backend_version=manifest.backend_version,
        compute_capabilities=manifest.compute_capabilities,
        edgekit=edgekit.__version__,
        created=timestamp(),
        inputs=inputs,
        shapes=manifest.shapes,
        engine_bytes=engine_bytes(manifest),
        layers_from="engine" if found.fusions else "graph",
        layers=_layers(fused, made, found),
        estimate=made,
        notes=(
            *_board_notes(manifest, chosen, given=board is not None),
            *made.notes,
            *(note for note in manifest.notes if reason not in note),
        ),
    )


def _default_board(manifest: Manifest) -> str:
    for key, board in boards().boards.items():
        if runs_on(board, manifest.compute_capabilities):
            return key
    raise UsageError(
        f"the estimate of an engine for {manifest.backend}: expected {argument('board')}, got none",
        hint=f"name the board or GPU; {names_of_boards()}",
    )


def _board_notes(manifest: Manifest, board: str, *, given: bool) -> list[str]:
    name = board_from_name(board).name
    if not given:
        return [
            f"No board was named: the estimate is for {name}, the first that the engine was built for. "
            f"{argument('board', like='NAME')} chooses another; {names_of_boards()}."
        ]
    if manifest.compute_capabilities and not runs_on(board_from_name(board), manifest.compute_capabilities):
        built = ", ".join(manifest.compute_capabilities)
        return [f"The engine does not run on {name}: it was built for compute capability {built}."]
    return []


def _layers(fused: Sequence[FusedLayer], made: Estimate, found: Inspection) -> tuple[EstimatedLayer, ...]:
    rows = {row.name: row for row in found.layers}
    estimates = made.layer_ms or (None,) * len(fused)
    times = [point.bound_ms if own is None else own for own, point in zip(estimates, made.roofline.points, strict=True)]
    whole = sum(times) or 1.0
    return tuple(
        EstimatedLayer(
            name=layer.name,
            operator=layer.operator,
            precision=layer.precision,
            nodes=layer.layers,
            module=module_of(layer.name, rows[layer.name].module, layer.operator),
            output=rows[layer.layers[-1]].output_shape,
            macs=layer.macs,
            weight_bytes=layer.weight_bytes,
            activation_bytes=layer.activation_bytes,
            bound=point.bound,
            bound_ms=point.bound_ms,
            estimate_ms=estimate_ms,
            share=time_ms / whole,
        )
        for layer, point, estimate_ms, time_ms in zip(fused, made.roofline.points, estimates, times, strict=True)
    )
