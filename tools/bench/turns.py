"""Times candidates in turns, in random order, each turn in a new process.

In one process, spinning threads of one runtime disturb the next runtime, and their heaps mix. If each candidate ran all
its turns at once, a machine that warms up or gets busy would favour one of them. Turns in separate processes distribute
both effects equally.

The placement of a process's pages in memory makes it up to 4 % faster or slower than another process of the same
program, for its lifetime (measured with YOLOv3-416 in INT8). So each turn is a new process, and a ratio is the median
of many turns.
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
    """An engine or graph whose inference is timed.

    Attributes:
        name: name in the tables.
        runtime: ``edgekit`` for a bundle, ``onnxruntime`` or ``openvino`` for a graph.
        path: path of the bundle or graph.
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
        candidates: ratios are relative to the first one.
        feed: ``.npy`` file of the only input; for bundles, also an ``.npz`` file of all inputs.
        threads: number of threads of each candidate.
        rounds: number of turns of each candidate, each in a new process; a ratio is computed within each round.
        runs: number of runs per turn, after one second of warm-up.

    Returns:
        By name: ``median_ms``, ``p10_ms`` and ``p90_ms`` of all runs; ``ratio``, the median over rounds of this
        candidate's median divided by the first one's, with its quartiles; ``others``, the CPU load of other processes
        as a share of all CPUs.
    """
    results: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
    shuffled = random.Random(0)
    for _ in range(rounds):
        # In random order: a candidate runs slower after one that heats the CPU.
        for candidate in shuffled.sample(candidates, len(candidates)):
            results[candidate.name].append(_turn(candidate, feed, threads, runs))
    medians = {name: np.array([np.median(turn["ms"]) for turn in turns]) for name, turns in results.items()}
    base = medians[candidates[0].name]
    return {name: _summary(results[name], medians[name] / base) for name in results}


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
