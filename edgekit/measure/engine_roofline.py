"""Compares the measured latency of an engine with the least time that the machine's peaks allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.arguments import argument
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.extras import install_command
from edgekit.measure.boards import board_from_name, names_of_boards, peaks_from_board
from edgekit.measure.fused_layers import FusedLayer, fused_layers
from edgekit.measure.inspection import inspection_from_bundle
from edgekit.measure.layer_times import LayerTimes
from edgekit.measure.peaks import machine_peaks, peaks_from_machine
from edgekit.measure.reports import LatencyReport
from edgekit.measure.roofline import Peaks, RooflinePoint, roofline_from_layers
from edgekit.progress import Progress

__all__ = ["peaks_of_engine", "with_roofline"]


def peaks_of_engine(
    path: Path, *, threads: int = 0, board: str | None = None, progress: Progress | None = None
) -> Peaks:
    """Returns the peaks of the machine that an engine runs on: measured for a CPU, published for a board.

    Args:
        path: the folder of the engine.
        threads: threads of the engine; 0: the backend's default.
        board: key of the board that this is; needed for engines that run on a GPU.
        progress: shows the progress of measuring this machine.

    Raises:
        UsageError: the engine runs on a GPU, and ``board`` is not given or not known.
    """
    if board is not None:
        return peaks_from_board(board_from_name(board))
    target = read_manifest(path).backend
    if backend(target).on_gpu:
        raise UsageError(
            f"the roofline of an engine for {target}: expected {argument('board')}, got none",
            hint=f"name the board or GPU that this is; {names_of_boards()}",
        )
    return peaks_from_machine(machine_peaks(progress=progress), threads)


def with_roofline(report: LatencyReport, path: Path, peaks: Peaks) -> LatencyReport:
    """Returns a report of an engine with its roofline: the layers of its graph, and the median latency as the time.

    Where the times of layers were measured, each layer of the graph has its time too.

    Raises:
        BackendUnavailable: ``onnx``, which counts the arithmetic of the graph, is not installed.
    """
    found = inspection_from_bundle(path, {spec.name: tuple(map(int, spec.shape)) for spec in report.inputs})
    if found.macs is None:
        hint = install_command("build", "onnx", "onnx-ir")
        raise BackendUnavailable("counting the arithmetic of an engine needs the package 'onnx'", hint=hint)
    fused = fused_layers(found)
    roofline = roofline_from_layers(fused, peaks, measured_ms=report.latency_ms.p50)
    if report.layer_times is not None:
        times_ms = _times_ms(fused, report.layer_times)
        points = tuple(_measured(point, time_ms) for point, time_ms in zip(roofline.points, times_ms, strict=True))
        roofline = msgspec.structs.replace(roofline, points=points)
    return msgspec.structs.replace(report, roofline=roofline)


def _times_ms(fused: Sequence[FusedLayer], times: LayerTimes) -> list[float | None]:
    """Returns the time of each layer of the graph; None where the engine has none of its own for it.

    A layer of the engine that computes several of the graph counts for the one with the most arithmetic.
    """
    owner = {name: index for index, layer in enumerate(fused) for name in layer.layers}
    found: list[float | None] = [None] * len(fused)
    for timed in times.layers:
        owners = {owner[node] for node in timed.nodes if node in owner}
        if owners and not timed.overhead:
            largest = max(owners, key=lambda index: fused[index].macs)
            found[largest] = (found[largest] or 0.0) + timed.median_ms
    return found


def _measured(point: RooflinePoint, time_ms: float | None) -> RooflinePoint:
    if not time_ms:
        return point
    return msgspec.structs.replace(point, measured_ms=time_ms, reached=point.bound_ms / time_ms)
