"""Compares the measured latency of an engine with the least time that the machine's peaks allow."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import BackendUnavailable, UsageError
from edgekit.extras import install_command
from edgekit.measure.boards import board_from_name, peaks_from_board
from edgekit.measure.fused_layers import fused_layers
from edgekit.measure.inspection import inspection_from_bundle
from edgekit.measure.peaks import machine_peaks, peaks_from_machine
from edgekit.measure.reports import LatencyReport
from edgekit.measure.roofline import Peaks, roofline_from_layers
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
            f"the roofline of an engine for {target}: expected --board, got none",
            hint="name the board or GPU that this is, as `edgekit estimate --boards` lists it",
        )
    return peaks_from_machine(machine_peaks(progress=progress), threads)


def with_roofline(report: LatencyReport, path: Path, peaks: Peaks) -> LatencyReport:
    """Returns a report of an engine with its roofline: the layers of its graph, and the median latency as the time.

    Raises:
        BackendUnavailable: ``onnx``, which counts the arithmetic of the graph, is not installed.
    """
    found = inspection_from_bundle(path, {spec.name: tuple(map(int, spec.shape)) for spec in report.inputs})
    if found.macs is None:
        hint = install_command("build", "onnx", "onnx-ir")
        raise BackendUnavailable("counting the arithmetic of an engine needs the package 'onnx'", hint=hint)
    roofline = roofline_from_layers(fused_layers(found), peaks, measured_ms=report.latency_ms.p50)
    return msgspec.structs.replace(report, roofline=roofline)
