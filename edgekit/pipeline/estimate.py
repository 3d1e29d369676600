"""Estimates the latency of a model on a board, before the model is built for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgekit.arguments import argument
from edgekit.errors import UsageError
from edgekit.measure.boards import board_from_name
from edgekit.measure.estimate import Estimate, estimate_from_layers
from edgekit.measure.fused_layers import fused_layers
from edgekit.measure.peaks import machine_peaks, peaks_from_machine
from edgekit.measure.roofline import roofline_from_layers
from edgekit.option.objects import SupportsArray
from edgekit.pipeline.inspect import inspect
from edgekit.progress import Progress
from edgekit.specs import specs_at

__all__ = ["THIS_MACHINE", "estimate"]

THIS_MACHINE = "this-machine"
"""The name of the board that is this machine's CPU, with its measured peaks."""

Sizes = Sequence["int | Sequence[int]"]


def estimate(
    model: Any,
    *,
    board: str,
    precision: Literal["int8", "fp16", "fp32"] | None = None,
    shape: Sizes | None = None,
    input: SupportsArray | Mapping[str, Any] | Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Estimates the latency of a model on a board: the least by the roofline model, and what engines reach of it.

    Args:
        model: a model, as in `edgekit.build`, or the folder of an engine.
        board: key of a board, such as ``orin-nano``, or ``this-machine``.
        precision: precision of all layers; default: INT8, and for an engine the precision of each layer in it.
        shape: ``(H, W)`` of the image, or all sizes of the first input; not for an engine.
        input: example inputs of a module or an ONNX file, or shapes by name, as in `edgekit.build`; not for an engine.
        progress: shows the progress of measuring this machine.

    Raises:
        UsageError: the model or the board does not exist, or the board does not compute in that precision.
        BackendUnavailable: a package that is needed is not installed.
    """
    if not isinstance(board, str):
        raise UsageError(f"{argument('board')}: expected the name of a board, got {board!r}")
    if board != THIS_MACHINE:
        board_from_name(board)  # an unknown board is reported before time is spent on the model
    is_engine = isinstance(model, (str, Path)) and Path(model).is_dir()
    if is_engine and precision is not None:
        raise UsageError(
            f"{argument('precision', precision)} goes with models, not with an engine, whose precision is fixed",
            hint="leave it out, or estimate the model that it was built from",
        )
    wanted = precision or (None if is_engine else "int8")
    found = inspect(model, shape=shape, input=input, precision=wanted)
    if found.macs is None:
        raise UsageError(
            f"{found.name}: expected a graph whose arithmetic can be counted, got layers without it",
            hint="install the package 'onnx', or estimate the model that the engine was built from",
        )
    layers = fused_layers(found)
    shapes = tuple(str(spec) for spec in specs_at(found.inputs, found.manifest.shapes if found.manifest else {}))
    shown = str(wanted) if wanted else "as built"
    if board != THIS_MACHINE:
        return estimate_from_layers(layers, board, name=found.name, precision=shown, inputs=shapes)
    peaks = peaks_from_machine(machine_peaks(progress=progress))
    return Estimate(
        name=found.name,
        board=THIS_MACHINE,
        board_name=peaks.name,
        precision=shown,
        inputs=shapes,
        macs=sum(layer.macs for layer in layers),
        roofline=roofline_from_layers(layers, peaks),
        notes=("The peaks are those that kernels reached on this machine.",),
    )
