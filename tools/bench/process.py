"""Runs a command and measures its duration, and the memory of the command and its child processes (Linux)."""

from __future__ import annotations

import resource
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.measure.machine import processor_time

__all__ = ["Finished", "peak_bytes", "run_watched"]

PROC = Path("/proc")
INTERVAL_S = 0.01


@dataclass(frozen=True)
class Finished:
    """A command that succeeded.

    Attributes:
        stdout: its standard output.
        wall_s: wall-clock time.
        processor_s: time of the processor, of the command and of its child processes that it waited for.
        largest_bytes: largest peak resident set size of one of its processes, as the kernel records it.
        sum_bytes: peak of the sum of all resident set sizes; shared pages count more than once.
        others: CPU load of other processes, as a share of all CPUs.
    """

    stdout: str
    wall_s: float
    processor_s: float
    largest_bytes: int
    sum_bytes: int
    others: float


def run_watched(command: Sequence[object], *, environment: Mapping[str, str] | None = None) -> Finished:
    """Runs ``command`` and waits for it.

    Raises:
        RuntimeError: it failed; with the last lines of its standard error.
    """
    before, own_before_s = processor_time(), _children_s()
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    watch = _Watch(process.pid)
    watch.start()
    stdout, stderr = process.communicate()
    after, own_s = processor_time(), _children_s() - own_before_s
    watch.ended.set()
    watch.join()
    if process.returncode:
        tail = "\n".join(stderr.strip().splitlines()[-12:])
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(map(str, command))}\n{tail}")
    assert before and after
    wall_s = after.wall_s - before.wall_s
    all_s = after.all_s - before.all_s + after.stolen_s - before.stolen_s
    others = max(0.0, all_s - own_s) / (wall_s * after.processors)
    return Finished(stdout, wall_s, own_s, watch.largest_bytes, watch.sum_bytes, round(others, 3))


def _children_s() -> float:
    """Returns the CPU time of all child processes that have ended, including their children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def peak_bytes(pid: int | str = "self") -> int:
    """Returns the peak resident set size of a process in bytes; 0 if it has ended."""
    return _status_bytes(pid, "VmHWM")


class _Watch(threading.Thread):
    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.largest_bytes = 0
        self.sum_bytes = 0
        self._root = root

    def run(self) -> None:
        while not self.ended.wait(INTERVAL_S):
            pids = _family(self._root)
            self.largest_bytes = max([self.largest_bytes, *map(peak_bytes, pids)])
            self.sum_bytes = max(self.sum_bytes, sum(_status_bytes(pid, "VmRSS") for pid in pids))


def _family(root: int) -> list[int]:
    """Returns a process and all its descendants."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for children in (PROC / str(pid) / "task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:
                continue  # the thread has ended
    return found


def _status_bytes(pid: int | str, field: str) -> int:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
