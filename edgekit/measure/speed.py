"""Measures an engine and its reference by turns, and the layers of both if the engine is slower."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np

from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import GRAPH
from edgekit.engine.layer_timer import TimesLayers
from edgekit.measure.compare import BuiltEngine, typed_arrays
from edgekit.measure.inspection import graph_and_stats
from edgekit.measure.layer_times import LayerTimes
from edgekit.measure.layers import Once, measure_layers
from edgekit.measure.relative import ratio_of_rounds
from edgekit.measure.slower_layers import RelativeSpeed, layers_that_are_slower
from edgekit.progress import Progress
from edgekit.runtime.session import Session

__all__ = ["opened_engines", "ratio_by_turns", "relative_speed"]

ROUNDS = 12
ROUND_S = 0.08
LAYERS_S = 1.0

Arrays = Mapping[str, np.ndarray]


def relative_speed(
    engine: BuiltEngine, reference: BuiltEngine, feeds: Arrays, *, threads: int, progress: Progress
) -> RelativeSpeed:
    """Runs an engine and its reference by turns, and, if the engine is slower, times the layers of both.

    Args:
        engine: the engine.
        reference: the engine that it is compared with, of the same backend.
        feeds: inputs by name.
        threads: threads of each engine; 0 leaves it to the backend.
        progress: shows the measurement.
    """
    names = [str(each.manifest.precision) for each in (engine, reference)]
    built = (engine, reference)
    with ExitStack() as stack:
        engines = [
            backend(manifest.backend).load(folder / manifest.engine, threads=threads) for folder, manifest in built
        ]
        sessions = [
            stack.enter_context(Session(loaded, each.manifest)) for loaded, each in zip(engines, built, strict=True)
        ]
        with progress.stage(f"measuring {names[0].upper()} and {names[1].upper()} by turns"):
            own, base = _by_turns(sessions, [typed_arrays(feeds, session) for session in sessions])
        found = RelativeSpeed(
            ratio=ratio_of_rounds(own, base, lambda samples: np.median(samples, axis=-1)),
            precision=names[0],
            reference=names[1],
        )
        if not found.is_slower or not all(isinstance(each, TimesLayers) for each in engines):
            return found
        medians_ms = [float(np.median(np.concatenate(samples))) for samples in (own, base)]
        own_times, base_times = (
            _layer_times(session, each.folder / GRAPH, feeds, median_ms, progress)
            for session, each, median_ms in zip(sessions, built, medians_ms, strict=True)
        )
    shapes = {name: array.shape for name, array in feeds.items() if name in reference.manifest.shapes}
    _, stats = graph_and_stats(reference.folder / GRAPH, shapes)
    macs = {layer.name: layer.macs for layer in stats.layers}
    return msgspec.structs.replace(found, layers=layers_that_are_slower(own_times, base_times, macs))


def ratio_by_turns(sessions: Sequence[Session], feeds: Arrays, *, rounds: int, round_s: float) -> float:
    """Returns the time of the first of two engines divided by that of the second, where both run by turns.

    The fastest run of each counts: what else the machine does makes runs slower, never faster, and there is no time
    for as many runs as would make it even out.

    Args:
        sessions: the two.
        feeds: inputs by name.
        rounds: number of turns of each.
        round_s: duration of a turn; at least one run.
    """
    own, base = _by_turns(sessions, [typed_arrays(feeds, session) for session in sessions], rounds, round_s)
    return float(np.concatenate(own).min() / np.concatenate(base).min())


@contextmanager
def opened_engines(built: Sequence[BuiltEngine], *, threads: int) -> Iterator[list[Session]]:
    """Loads engines that were just built, and closes them when the context exits.

    Args:
        built: the engines.
        threads: threads of each engine; 0 leaves it to the backend.
    """
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Session(backend(manifest.backend).load(folder / manifest.engine, threads=threads), manifest)
            )
            for folder, manifest in built
        ]


def _by_turns(
    sessions: Sequence[Session], feeds: Sequence[Arrays], rounds: int = ROUNDS, round_s: float = ROUND_S
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the runs of each round of both sessions, in ms; the first turn alternates."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    pairs = list(zip(sessions, feeds, strict=True))
    runs = [max(1, int(round_s * 1e3 / max(min(_timed(session, each, 2)), 1e-3))) for session, each in pairs]
    for index in range(rounds):
        for which in (0, 1) if index % 2 else (1, 0):
            found[which].append(_timed(*pairs[which], runs[which]))
    return found


def _timed(session: Session, feeds: Arrays, runs: int) -> np.ndarray:
    found = np.empty(runs)
    for index in range(runs):
        start = time.perf_counter()
        session.run(feeds)
        found[index] = (time.perf_counter() - start) * 1e3
    return found


def _layer_times(session: Session, graph: Path, feeds: Arrays, median_ms: float, progress: Progress) -> LayerTimes:
    arrays = typed_arrays(feeds, session)

    def stages_of(timed: Session) -> tuple[tuple[str], Once]:
        return ("inference",), lambda: (float(_timed(timed, arrays, 1)[0]),)

    return measure_layers(
        session,
        stages_of,
        end_to_end_ms=median_ms,
        graph=graph,
        duration_s=LAYERS_S,
        warmup=1,
        progress=progress,
    )
