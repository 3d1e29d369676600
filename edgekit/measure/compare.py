"""Measures the engines of one model one after the other, and compares the outputs of the last with the first's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Manifest
from edgekit.measure.agreement import Accuracy, ComparedPicture, accuracy_from_outputs, compared_pictures
from edgekit.measure.profile import measure
from edgekit.measure.reports import LatencyReport
from edgekit.progress import Progress
from edgekit.quantize.compare import noise_db
from edgekit.runtime.session import Session
from edgekit.specs import specs_at

__all__ = ["BuiltEngine", "Comparison", "compare_engines"]

MIN_RUNS = 20
MAX_RUNS = 200
MEASURE_S = 2.0
WARMUP = 3
PICTURES = 4

Arrays = Mapping[str, np.ndarray]


class BuiltEngine(NamedTuple):
    """An engine in a bundle folder that is still being written."""

    folder: Path
    manifest: Manifest


class Comparison(NamedTuple):
    """Result of `compare_engines`.

    Attributes:
        reports: latency by precision, in the order of the engines.
        sqnr_db: signal to quantization noise ratio of each output of the last engine against the first, in dB.
        min_max_db: the same for the inputs of the min sizes and of the max sizes.
        accuracy: how far the outputs and results agree; None with one engine.
        pictures: a few of the pictures, with the detections of both; empty for other tasks.
    """

    reports: dict[str, LatencyReport]
    sqnr_db: dict[str, float]
    min_max_db: list[dict[str, float]]
    accuracy: Accuracy | None = None
    pictures: Sequence[ComparedPicture] = ()


def compare_engines(
    engines: Sequence[BuiltEngine],
    inputs: Sequence[Arrays],
    min_max: Sequence[Sequence[Arrays]] = (),
    *,
    threads: int,
    progress: Progress,
) -> Comparison:
    """Loads each engine, measures it for about two seconds, and compares the outputs of the last with the first's.

    Args:
        engines: the reference first; one engine is in memory at a time.
        inputs: feeds on which the outputs are compared.
        min_max: further feeds, of the min sizes and of the max sizes that the engines accept.
        threads: threads for each engine; 0 leaves it to the backend.
        progress: shows which engine is measured.
    """
    reports: dict[str, LatencyReport] = {}
    outputs: list[list[list[dict[str, np.ndarray]]]] = []
    for folder, manifest in engines:
        precision = str(manifest.precision)
        engine = backend(manifest.backend).load(folder / manifest.engine, threads=threads)
        with Session(engine, manifest) as session, progress.stage(f"measuring {precision.upper()}"):
            reports[precision] = measure(session, runs=_runs(session), warmup=WARMUP, threads=threads)
            sets = (inputs, *min_max)
            outputs.append([[session.run(_typed(arrays, session)) for arrays in feeds] for feeds in sets])
    if len(outputs) < 2:
        return Comparison(reports, {}, [])
    sqnr_db, *min_max_db = [noise_db(a, b) for a, b in zip(outputs[0], outputs[-1], strict=True)]
    manifest, first, last = engines[-1].manifest, outputs[0][0], outputs[-1][0]
    accuracy = accuracy_from_outputs(first, last, manifest)
    return Comparison(
        reports, sqnr_db, min_max_db, accuracy, compared_pictures(inputs, first, last, manifest, PICTURES)
    )


def _typed(arrays: Arrays, session: Session) -> dict[str, np.ndarray]:
    """Casts floats to the session's input types: one of the engines may have inputs in half precision."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    return {n: a.astype(dtypes[n]) if a.dtype.kind == dtypes[n].kind == "f" else a for n, a in arrays.items()}


def _runs(session: Session) -> int:
    """Returns how many runs fit into two seconds, but at least as many as percentiles need."""
    specs = specs_at(session.inputs, session.manifest.shapes)
    feeds = {spec.name: np.zeros([int(size) for size in spec.shape], spec.dtype) for spec in specs}
    start = time.perf_counter()
    session.run(feeds)
    return int(min(MAX_RUNS, max(MIN_RUNS, MEASURE_S / max(time.perf_counter() - start, 1e-6))))
