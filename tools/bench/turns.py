"""Candidates that are timed by turns, in another order each time, each turn in a process of its own.

In one process, threads of one runtime that spin for work disturb the next, and heaps grow together. One candidate after
the other, a machine that warms up or gets busy favours one of them. By turns and apart, both are shared alike.

Where the pages of a process lie in memory makes it up to 4 % faster or slower than another of the same program, for as
long as it lives (seen on YOLOv3-416 in INT8). So each turn has a new one, and a ratio is the median over many.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Candidate", "measure_by_turns"]


@dataclass(frozen=True)
class Candidate:
    """Something whose inference is timed.

    Attributes:
        name: in the tables.
        runtime: ``edgekit`` for a bundle, ``onnxruntime`` or ``openvino`` for a graph.
        path: of the bundle or graph.
    """

    name: str
    runtime: str
    path: Path


def _turn(candidate: Candidate, feed: Path, threads: int, runs: int) -> dict[str, Any]:
    """See `tools.bench.candidate`."""
    words = [sys.executable, "-m", "tools.bench.candidate", candidate.runtime, candidate.path, feed, threads, runs]
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"candidate '{candidate.name}' ended with exit code {done.returncode}")
    return dict(json.loads(done.stdout))


def measure_by_turns(
    candidates: Sequence[Candidate], feed: Path, *, threads: int, rounds: int, runs: int
) -> dict[str, dict[str, Any]]:
    """Times ``rounds`` times ``runs`` runs of each candidate.

    Args:
        candidates: the first one is what ratios are relative to.
        feed: ``.npy`` file of the one input.
        threads: that each candidate computes with.
        rounds: turns of each candidate, each in a new process; a ratio is taken within each round.
        runs: in one turn, after a second that is not counted.

    Returns:
        By name: ``median_ms``, ``p10_ms`` and ``p90_ms`` of all runs; ``ratio``, the median over rounds of this
        candidate's median by the first one's, with its quartiles; ``others``, the share of the processors that
        everybody else used meanwhile.
    """
    answers: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
    shuffled = random.Random(0)
    for _ in range(rounds):
        # Whoever comes after a heavy neighbour pays for its heat: nobody follows the same one every time.
        for candidate in shuffled.sample(candidates, len(candidates)):
            answers[candidate.name].append(_turn(candidate, feed, threads, runs))
    medians = {name: np.array([np.median(turn["ms"]) for turn in turns]) for name, turns in answers.items()}
    base = medians[candidates[0].name]
    return {name: _summary(answers[name], medians[name] / base) for name in answers}


def _summary(turns: Sequence[dict[str, Any]], ratios: np.ndarray) -> dict[str, Any]:
    p10, median, p90 = np.percentile([ms for turn in turns for ms in turn["ms"]], (10, 50, 90))
    low, ratio, high = np.percentile(ratios, (25, 50, 75))
    wall_s = sum(turn["wall_s"] * turn["processors"] for turn in turns)
    return {
        "median_ms": round(float(median), 3),
        "p10_ms": round(float(p10), 3),
        "p90_ms": round(float(p90), 3),
        "ratio": round(float(ratio), 4),
        "ratio_quartiles": [round(float(low), 4), round(float(high), 4)],
        "runs": sum(len(turn["ms"]) for turn in turns),
        "others": round(sum(turn["others_s"] for turn in turns) / wall_s, 3) if wall_s else None,
    }
