"""Measures how much CPU time other processes used during a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from edgekit.measure.latency import Disturbance

__all__ = ["ProcessorTime", "disturbance_by_others", "processor_time"]

STAT = Path("/proc/stat")
SHARE_LIMIT = 0.20
STOLEN_LIMIT = 0.02


class ProcessorTime(NamedTuple):
    """CPU time counters, in seconds since an arbitrary point in time.

    Attributes:
        wall_s: wall-clock time.
        all_s: CPU time of all processes on this machine, including this one.
        stolen_s: CPU time that other virtual machines took.
        own_s: CPU time of all threads of this process.
        processors: number of logical CPUs.
    """

    wall_s: float
    all_s: float
    stolen_s: float
    own_s: float
    processors: int


def processor_time(stat: Path = STAT) -> ProcessorTime | None:
    """Returns the current counters; None if the system has none.

    Args:
        stat: Linux's ``/proc/stat``; see proc_stat(5).
    """
    try:
        lines = stat.read_text().splitlines()
        user, nice, system, _, _, irq, softirq, stolen = map(int, lines[0].split()[1:9])
    except (OSError, ValueError, IndexError):
        return None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return ProcessorTime(
        wall_s=time.perf_counter(),
        all_s=(user + nice + system + irq + softirq) * tick_s,
        stolen_s=stolen * tick_s,
        own_s=time.process_time(),
        processors=sum(line.startswith("cpu") for line in lines) - 1,
    )


def disturbance_by_others(before: ProcessorTime | None, after: ProcessorTime | None) -> Disturbance | None:
    """Detects load from other processes: over 20 % of the CPU time of all processors, or over 2 % stolen time.

    A constant load slows all runs down equally, so the statistics of the runs cannot show it.
    """
    if before is None or after is None:
        return None
    capacity_s = (after.wall_s - before.wall_s) * after.processors
    # The counters have a resolution of 10 ms, too coarse for shorter intervals.
    if after.wall_s - before.wall_s < 0.2 or capacity_s <= 0:
        return None
    stolen = (after.stolen_s - before.stolen_s) / capacity_s
    if stolen > STOLEN_LIMIT:
        text = f"Other virtual machines took {100 * stolen:.0f} % of the CPU time (steal time)."
        return Disturbance(kind="others", text=text)
    others = ((after.all_s - before.all_s) - (after.own_s - before.own_s)) / capacity_s
    if others <= SHARE_LIMIT:
        return None
    busy = others * after.processors
    text = f"Other processes kept {busy:.1f} of {after.processors} processors busy during the measurement."
    return Disturbance(kind="others", text=text)
