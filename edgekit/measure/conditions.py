"""Reads the state of the machine before, during and after a measurement, and judges whether it was undisturbed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgekit.measure.latency import Disturbance

__all__ = [
    "ConditionWatch",
    "Conditions",
    "GpuState",
    "Snapshot",
    "disturbances_from_conditions",
    "gpu_states",
    "load_limit",
    "snapshot",
]

ROOT = Path("/")
INTERVAL_S = 0.5
CPUS = "sys/devices/system/cpu"
LOAD_WINDOW_S = 60.0
LOAD_SHARE = 0.10
LOAD_LIMITS = (1.0, 4.0)
PRESSURE_LIMIT = 0.25
CLOCK_LIMIT = 0.10
NEAR_TRIP_C = 5.0

GPU_FIELDS = "temperature.gpu,clocks.sm,power.draw,utilization.gpu"
# Drivers before 535 have only the older name.
GPU_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# NVML's nvmlClocksEventReasons: those that lower the clock against the will of the user (nvml.h).
GPU_THROTTLES = {
    0x04: "a power cap",
    0x08: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature (hardware)",
    0x80: "an external power brake",
}
GPU_TIMEOUT_S = 10


class GpuState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an NVIDIA GPU, as its driver reports it; None where it does not.

    Attributes:
        temperature_c: temperature in degrees Celsius.
        clock_mhz: clock of the multiprocessors.
        power_w: power draw.
        utilization: share of the time that a kernel ran, 0 to 1.
        throttled_by: what lowers the clock now.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    power_w: float | None = None
    utilization: float | None = None
    throttled_by: tuple[str, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the machine at one time; None or empty where it is not readable here.

    Attributes:
        time_s: seconds since the measurement began.
        load: load average of the last minute, this process included.
        own_load: the part of the load that this process and its children caused; an estimate from their CPU time.
        pressure_s: total time for which some task waited for a processor (``/proc/pressure/cpu``, PSI).
        governors: frequency governors of the CPUs.
        clock_mhz: clock of the fastest CPU.
        max_clock_mhz: highest clock of any CPU.
        temperature_c: temperature of the hottest thermal zone.
        trip_c: the temperature at which the system begins to cool that zone by slowing down.
        throttle_events: number of times that a CPU or the board was throttled since it was started.
        gpus: NVIDIA GPUs.
    """

    time_s: float
    load: float | None = None
    own_load: float = 0.0
    pressure_s: float | None = None
    governors: tuple[str, ...] = ()
    clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    temperature_c: float | None = None
    trip_c: float | None = None
    throttle_events: int | None = None
    gpus: tuple[GpuState, ...] = ()


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the machine around a measurement.

    Attributes:
        before: before the first measured run.
        during: while it ran, about every half second, between two runs.
        after: after the last run.
        unreadable: names of what this machine does not report.
    """

    before: Snapshot
    during: tuple[Snapshot, ...]
    after: Snapshot
    unreadable: tuple[str, ...] = ()


def snapshot(root: Path = ROOT, *, since_s: float | None = None, gpus: bool = False) -> Snapshot:
    """Reads the state of the machine.

    Sources: proc_loadavg(5); Linux's ``Documentation/accounting/psi.rst``, ``admin-guide/pm/cpufreq.rst``,
    ``driver-api/thermal/sysfs-api.rst`` and ``ABI/testing/sysfs-devices-system-cpu`` (``thermal_throttle``); NVIDIA's
    Jetson Linux Developer Guide for ``oc*_event_cnt``.

    Args:
        root: where ``proc`` and ``sys`` are found.
        since_s: value of `time.perf_counter` when the measurement began; None for now.
        gpus: also ask ``nvidia-smi``, which takes tens of milliseconds.
    """
    now = time.perf_counter()
    load = _number(root / "proc/loadavg")
    zone = max(_zones(root), key=lambda found: found[0], default=(None, None))
    return Snapshot(
        time_s=now - (now if since_s is None else since_s),
        load=load,
        own_load=min(load or 0.0, _own_load()),
        pressure_s=_pressure_s(root),
        governors=tuple(sorted({_text(file) for file in _cpu_files(root, "cpufreq/scaling_governor")} - {""})),
        clock_mhz=_largest(_cpu_files(root, "cpufreq/scaling_cur_freq"), 1e-3),
        max_clock_mhz=_largest(_cpu_files(root, "cpufreq/cpuinfo_max_freq"), 1e-3),
        temperature_c=zone[0],
        trip_c=zone[1],
        throttle_events=_throttle_events(root),
        gpus=_gpus() if gpus else (),
    )


class ConditionWatch:
    """Collects the conditions of a measurement; `look` is called between two runs, so that it disturbs none.

    Args:
        root: see `snapshot`.
        gpus: the engine runs on a GPU: ask its driver before and after.
    """

    def __init__(self, root: Path = ROOT, *, gpus: bool = False) -> None:
        self._root, self._gpus = root, gpus
        self._start_s = time.perf_counter()
        self._before = snapshot(root, gpus=gpus)
        self._during: list[Snapshot] = []
        self._next_s = time.perf_counter() + INTERVAL_S

    def look(self) -> None:
        """Takes a snapshot if the last one is half a second old."""
        if time.perf_counter() >= self._next_s:
            self._during.append(snapshot(self._root, since_s=self._start_s))
            self._next_s = time.perf_counter() + INTERVAL_S

    def conditions(self) -> Conditions:
        """Takes the last snapshot and returns all."""
        after = snapshot(self._root, since_s=self._start_s, gpus=self._gpus)
        wanted = {
            "load": after.load,
            "processor pressure": after.pressure_s,
            "clock governor": after.governors or None,
            "clock frequency": after.clock_mhz,
            "temperature": after.temperature_c,
            "throttling": after.throttle_events,
        }
        return Conditions(
            before=self._before,
            during=tuple(self._during),
            after=after,
            unreadable=tuple(name for name, value in wanted.items() if value is None),
        )


def disturbances_from_conditions(conditions: Conditions, processors: int) -> tuple[Disturbance, ...]:
    """Judges the state of the machine; an empty tuple means that nothing that it reports disturbed the runs.

    The rules:

    * load: other processes had a load average of more than a tenth of the processors (at least 1, at most 4) before or
      after;
    * pressure: for more than 25 % of the time, a task waited for a processor;
    * clock: the clock of the fastest CPU changed by more than 10 % between two snapshots of the measurement;
    * heat: a thermal zone came within 5 degrees of the temperature at which it slows down;
    * throttling: a counter of throttling increased, or the GPU's driver reports a reason to lower its clock.

    Args:
        conditions: what was read.
        processors: number of logical CPUs of the machine.
    """
    seen = (conditions.before, *conditions.during, conditions.after)
    found = (
        _load(conditions, processors),
        _pressure(conditions),
        _clock(conditions),
        _heat(seen),
        _throttling(conditions),
    )
    return tuple(each for each in found if each)


def load_limit(processors: int) -> float:
    """Returns the load average of other processes from which on a machine is not quiet."""
    low, high = LOAD_LIMITS
    return min(high, max(low, LOAD_SHARE * processors))


def _load(conditions: Conditions, processors: int) -> Disturbance | None:
    others = [
        (each.load - each.own_load, when)
        for each, when in ((conditions.before, "beginning"), (conditions.after, "end"))
        if each.load is not None
    ]
    load, when = max(others, default=(0.0, ""))
    if load <= load_limit(processors):
        return None
    return Disturbance(
        kind="load",
        text=f"Other processes had a load average of {load:.1f} on {processors} processors in the minute before the "
        f"{when} of the runs.",
    )


def _pressure(conditions: Conditions) -> Disturbance | None:
    first, last = conditions.before, conditions.after
    if first.pressure_s is None or last.pressure_s is None or last.time_s <= first.time_s:
        return None
    share = (last.pressure_s - first.pressure_s) / (last.time_s - first.time_s)
    if share <= PRESSURE_LIMIT:
        return None
    return Disturbance(
        kind="pressure",
        text=f"For {100 * min(1.0, share):.0f} % of the time, a task waited for a processor: more threads were ready "
        "to run than there are processors.",
    )


def _clock(conditions: Conditions) -> Disturbance | None:
    # Before and after, the CPU may be idle at a low clock.
    clocks = [each.clock_mhz for each in conditions.during if each.clock_mhz]
    if len(clocks) < 2 or min(clocks) >= (1 - CLOCK_LIMIT) * max(clocks):
        return None
    governor = ", ".join(conditions.after.governors)
    return Disturbance(
        kind="clock",
        text=f"The clock changed between {min(clocks):.0f} and {max(clocks):.0f} MHz during the runs"
        + (f" (governor: {governor})." if governor else "."),
    )


def _heat(seen: Iterable[Snapshot]) -> Disturbance | None:
    hot = [
        (each.temperature_c, each.trip_c)
        for each in seen
        if each.temperature_c is not None
        and each.trip_c is not None
        and each.temperature_c >= each.trip_c - NEAR_TRIP_C
    ]
    if not hot:
        return None
    temperature, trip = max(hot)
    return Disturbance(
        kind="heat", text=f"A temperature reached {temperature:.0f} °C; from {trip:.0f} °C on the system slows down."
    )


def _throttling(conditions: Conditions) -> Disturbance | None:
    first, last = conditions.before.throttle_events, conditions.after.throttle_events
    events = last - first if first is not None and last is not None else 0
    gpu = tuple(
        dict.fromkeys(
            reason for each in (conditions.before, conditions.after) for gpu in each.gpus for reason in gpu.throttled_by
        )
    )
    if events <= 0 and not gpu:
        return None
    reasons = [f"the processor was throttled {events} times during the runs"] if events > 0 else []
    reasons += [f"the GPU's clock was lowered by {' and '.join(gpu)}"] if gpu else []
    text = "; ".join(reasons)
    return Disturbance(kind="throttling", text=f"{text[0].upper()}{text[1:]}.")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # sysfs files may exist and not be readable
        return ""


def _number(file: Path) -> float | None:
    words = _text(file).split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def _cpu_files(root: Path, name: str) -> list[Path]:
    return sorted((root / CPUS).glob(f"cpu[0-9]*/{name}"))


def _largest(files: Sequence[Path], unit: float) -> float | None:
    return max((value * unit for value in map(_number, files) if value is not None), default=None)


def _own_load() -> float:
    """Estimates this process's part of the load average: its CPU time, and that of its children, per wall time."""
    times = os.times()
    own_s = times.user + times.system + times.children_user + times.children_system
    return own_s / max(LOAD_WINDOW_S, time.perf_counter() - _STARTED_S)


_STARTED_S = time.perf_counter()


def _pressure_s(root: Path) -> float | None:
    total = re.search(r"^some .*total=(\d+)", _text(root / "proc/pressure/cpu"), re.MULTILINE)
    return int(total[1]) / 1e6 if total else None


def _zones(root: Path) -> list[tuple[float, float | None]]:
    """Returns temperature and the lowest trip point, other than an active one, of each thermal zone, in °C."""
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        temperature = _number(zone / "temp")
        if temperature is None or temperature <= 0:  # a sensor that is switched off reads 0 or below
            continue
        trips = [
            value / 1000
            for kind in zone.glob("trip_point_*_type")
            if _text(kind) in ("passive", "hot", "critical")
            and (value := _number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
            and value > 0
        ]
        found.append((temperature / 1000, min(trips, default=None)))
    return found


def _throttle_events(root: Path) -> int | None:
    """Returns the sum of Intel's throttle counters, and of the over-current counters of a Jetson."""
    files = [
        *_cpu_files(root, "thermal_throttle/core_throttle_count"),
        *_cpu_files(root, "thermal_throttle/package_throttle_count"),
        *sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")),
    ]
    counts = [int(value) for value in map(_number, files) if value is not None]
    return sum(counts) if counts else None


def _gpus() -> tuple[GpuState, ...]:
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    for reasons in GPU_REASONS:
        command = [program, f"--query-gpu={GPU_FIELDS},{reasons}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            continue  # this driver does not know the name
        return gpu_states(done.stdout)
    return ()


def gpu_states(csv: str) -> tuple[GpuState, ...]:
    """Parses what ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits`` prints; a missing value is ``[N/A]``."""
    rows = [[cell.strip() for cell in line.split(",")] for line in csv.splitlines()]
    return tuple(_gpu(*row) for row in rows if len(row) == len(GPU_FIELDS.split(",")) + 1)


def _gpu(temperature: str, clock: str, power: str, utilization: str, reasons: str) -> GpuState:
    share = _float(utilization)
    bits = int(reasons, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", reasons) else 0
    return GpuState(
        temperature_c=_float(temperature),
        clock_mhz=_float(clock),
        power_w=_float(power),
        utilization=None if share is None else share / 100,
        throttled_by=tuple(text for bit, text in GPU_THROTTLES.items() if bits & bit),
    )


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
