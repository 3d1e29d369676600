"""Runs an engine that was just built, and measures it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest
from edgekit.measure.profile import measure
from edgekit.measure.reports import LatencyReport
from edgekit.progress import Progress
from edgekit.runtime.session import Session
from edgekit.specs import Precision

__all__ = ["BuiltEngine", "MeasuredEngine", "measured_engine", "typed_arrays"]

MIN_RUNS = 20
MAX_RUNS = 200
MEASURE_S = 2.0
WARMUP = 3

Arrays = Mapping[str, np.ndarray]


class BuiltEngine(NamedTuple):
    """An engine in a bundle folder that is still being written."""

    folder: Path
    manifest: Manifest


class MeasuredEngine(NamedTuple):
    """An engine that ran on this machine.

    Attributes:
        precision: its precision.
        report: its latency; None if it was not asked for.
        outputs: its outputs for each set of inputs.
    """

    precision: Precision
    report: LatencyReport | None
    outputs: Sequence[Sequence[Mapping[str, np.ndarray]]]


def measured_engine(
    built: BuiltEngine,
    inputs: Sequence[Sequence[Arrays]],
    *,
    latency: bool,
    threads: int,
    progress: Progress,
) -> MeasuredEngine:
    """Loads an engine, runs it on the inputs, and measures its latency for about two seconds.

    Args:
        built: the engine.
        inputs: sets of feeds: those of the opt shapes, then those of other sizes.
        latency: whether to measure it too.
        threads: threads for the engine; 0 leaves it to the backend.
        progress: shows the engine.
    """
    folder, manifest = built
    precision = str(manifest.precision).upper()
    engine = backend(manifest.backend).load(folder / manifest.engine, threads=threads)
    title = f"measuring {precision}" if latency else f"running {precision}"
    with Session(engine, manifest) as session, progress.stage(title):
        report = None
        if latency:
            runs = _runs(session, inputs[0][0])
            report = measure(session, runs=runs, warmup=WARMUP, threads=threads)
        outputs = [[session.run(typed_arrays(arrays, session)) for arrays in feeds] for feeds in inputs]
    return MeasuredEngine(manifest.precision, report, outputs)


def typed_arrays(arrays: Arrays, session: Session) -> dict[str, np.ndarray]:
    """Casts floats to the session's input types: an engine may have inputs in half precision."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    return {n: a.astype(dtypes[n]) if a.dtype.kind == dtypes[n].kind == "f" else a for n, a in arrays.items()}


def _runs(session: Session, arrays: Arrays) -> int:
    """Returns how many runs fit into two seconds, but at least as many as percentiles need."""
    start = time.perf_counter()
    session.run(typed_arrays(arrays, session))
    return int(min(MAX_RUNS, max(MIN_RUNS, MEASURE_S / max(time.perf_counter() - start, 1e-6))))
