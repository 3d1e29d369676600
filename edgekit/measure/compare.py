"""Engines of one model measured one after the other, and how far the answers of the last are from the first's."""

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
from edgekit.quantize.compare import noise_db
from edgekit.runtime.session import Session
from edgekit.specs import specs_at

__all__ = ["BuiltEngine", "Comparison", "compare_engines"]

FEWEST_RUNS = 20
MOST_RUNS = 200
MEASURE_S = 2.0
WARMUP = 3

Arrays = Mapping[str, np.ndarray]


class BuiltEngine(NamedTuple):
    """An engine in a folder that is not sealed yet."""

    folder: Path
    manifest: Manifest


class Comparison(NamedTuple):
    """What came of it.

    Attributes:
        reports: latency by precision, in the order in which the engines were given.
        sqnr_db: signal to quantization noise of each output of the last engine against the first.
        min_max_db: the same at each end of the range of sizes.
    """

    reports: dict[str, LatencyReport]
    sqnr_db: dict[str, float]
    min_max_db: list[dict[str, float]]


def compare_engines(
    engines: Sequence[BuiltEngine],
    inputs: Sequence[Arrays],
    ends: Sequence[Sequence[Arrays]] = (),
    *,
    threads: int,
    progress: Progress,
) -> Comparison:
    """Loads each engine, measures it for about two seconds, and asks it for its answers.

    Args:
        engines: the reference first; one is in memory at a time.
        inputs: what the answers are compared on.
        ends: the same for inputs of the least and of the greatest sizes that the engines take.
        threads: for the engines; 0 leaves it to the backend.
        progress: is told which one is measured.
    """
    reports: dict[str, LatencyReport] = {}
    answers: list[list[list[dict[str, np.ndarray]]]] = []
    for folder, manifest in engines:
        precision = str(manifest.precision)
        engine = backend(manifest.backend).load(folder / manifest.engine, threads=threads)
        with Session(engine, manifest) as session, progress.stage(f"measuring {precision.upper()}"):
            reports[precision] = measure(session, runs=_runs(session), warmup=WARMUP, threads=threads)
            answers.append([[session.run(_typed(arrays, session)) for arrays in feeds] for feeds in (inputs, *ends)])
    if len(answers) < 2:
        return Comparison(reports, {}, [])
    sqnr_db, *min_max_db = [noise_db(a, b) for a, b in zip(answers[0], answers[-1], strict=True)]
    return Comparison(reports, sqnr_db, min_max_db)


def _typed(arrays: Arrays, session: Session) -> dict[str, np.ndarray]:
    """Floats as the session takes them: one of the engines may have inputs in half precision."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    return {n: a.astype(dtypes[n]) if a.dtype.kind == dtypes[n].kind == "f" else a for n, a in arrays.items()}


def _runs(session: Session) -> int:
    """As many as fit into two seconds, but enough for percentiles."""
    specs = specs_at(session.inputs, session.manifest.shapes)
    feeds = {spec.name: np.zeros([int(size) for size in spec.shape], spec.dtype) for spec in specs}
    start = time.perf_counter()
    session.run(feeds)
    return int(min(MOST_RUNS, max(FEWEST_RUNS, MEASURE_S / max(time.perf_counter() - start, 1e-6))))
