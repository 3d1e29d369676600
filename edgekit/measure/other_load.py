"""How much of the processors everybody else used while an engine was measured."""

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
    """Seconds that processors have worked, counted from some moment in the past.

    Attributes:
        wall_s: seconds on the wall.
        all_s: by everybody on this machine, ourselves included.
        stolen_s: by other virtual machines on the same processors.
        own_s: by this process, all its threads.
        processors: how many there are.
    """

    wall_s: float
    all_s: float
    stolen_s: float
    own_s: float
    processors: int


def processor_time(stat: Path = STAT) -> ProcessorTime | None:
    """The counters as they stand now; None where the system has none.

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
    """Whether others were at work between two moments: over a fifth of all processors, or 2 % stolen.

    A machine that is evenly busy slows every run down alike, which no statistic of the runs can tell.
    """
    if before is None or after is None:
        return None
    capacity_s = (after.wall_s - before.wall_s) * after.processors
    # Counters tick a hundred times a second: shorter than this, they say nothing.
    if after.wall_s - before.wall_s < 0.2 or capacity_s <= 0:
        return None
    stolen = (after.stolen_s - before.stolen_s) / capacity_s
    if stolen > STOLEN_LIMIT:
        text = f"Other virtual machines took {100 * stolen:.0f} % of the processors' time away."
        return Disturbance(kind="others", text=text)
    others = ((after.all_s - before.all_s) - (after.own_s - before.own_s)) / capacity_s
    if others <= SHARE_LIMIT:
        return None
    busy = others * after.processors
    text = f"Other processes kept {busy:.1f} of {after.processors} processors busy during the measurement."
    return Disturbance(kind="others", text=text)
