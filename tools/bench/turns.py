"""Candidates that are timed by turns, in another order each time, each in a process of its own that stops in between.

In one process, threads of one runtime that spin for work disturb the next, and heaps grow together. One candidate after
the other, a machine that warms up or gets busy favours one of them. By turns and apart, both are shared alike.

Where the pages of a process lie in memory makes it up to 4 % faster or slower than another of the same program, for as
long as it lives (seen on YOLOv3-416 in INT8). So each candidate has several processes, and its time is their median.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
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


class _Process:
    """A candidate in its own process; see `tools.bench.candidate`."""

    def __init__(self, candidate: Candidate, feed: Path, threads: int) -> None:
        command = [sys.executable, "-m", "tools.bench.candidate", candidate.runtime, candidate.path, feed, threads]
        self._name = candidate.name
        self._process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()
        os.kill(self._process.pid, signal.SIGSTOP)

    def turn(self, runs: int) -> dict[str, Any]:
        """Times so many runs, after a few that are left out."""
        assert self._process.stdin
        os.kill(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        answer = self._answer()
        os.kill(self._process.pid, signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"candidate '{self._name}' ended with exit code {self._process.wait()}")
        return dict(json.loads(line))


def measure_by_turns(
    candidates: Sequence[Candidate], feed: Path, *, threads: int, rounds: int, runs: int, instances: int = 1
) -> dict[str, dict[str, Any]]:
    """Times ``rounds`` times ``runs`` runs of each process of each candidate.

    Args:
        candidates: the first one is what ratios are relative to.
        feed: ``.npy`` file of the one input.
        threads: that each candidate computes with.
        rounds: turns of each candidate; a ratio is taken within each round.
        runs: in one turn, after a few that are not counted.
        instances: processes of each candidate.

    Returns:
        By name: ``median_ms``, ``p10_ms`` and ``p90_ms`` of all runs; ``ratio``, the median over rounds of this
        candidate's median by the first one's, with its quartiles; ``others``, the share of the processors that
        everybody else used meanwhile.
    """
    answers: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
    with ExitStack() as stack:
        processes = []
        for candidate in [*candidates] * instances:
            processes.append((candidate.name, _Process(candidate, feed, threads)))
            stack.callback(processes[-1][1].close)
        shuffled = random.Random(0)
        for _ in range(rounds):
            # Whoever comes after a heavy neighbour pays for its heat: nobody follows the same one every time.
            for name, process in shuffled.sample(processes, len(processes)):
                answers[name].append(process.turn(runs))
    medians = {name: _medians(turns, instances) for name, turns in answers.items()}
    base = medians[candidates[0].name]
    return {name: _summary(answers[name], medians[name] / base) for name in answers}


def _medians(turns: Sequence[dict[str, Any]], instances: int) -> np.ndarray:
    """Of each round, the median over a candidate's processes of their median runs."""
    of_each = [np.median(turn["ms"]) for turn in turns]
    return np.asarray(np.median(np.reshape(of_each, (-1, instances)), axis=1))


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
