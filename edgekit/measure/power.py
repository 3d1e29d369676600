"""Measures the power of the machine beside the runs: Jetson's INA sensors, NVIDIA's driver, and RAPL on x86."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

__all__ = ["Power", "PowerWatch", "Sensor", "power_from_samples", "sensor"]

ROOT = Path("/")
INTERVAL_S = 0.01
IDLE_S = 1.0
SLOWEST = 0.10
INPUT_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails through which the whole module is supplied; the other rails are parts of them."""
FIRST_VALUE_S = 5


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """Power and energy beside the runs of a measurement.

    Attributes:
        source: what was read, such as ``RAPL package-0, dram``; empty if nothing is readable.
        unreadable: why nothing is readable here; empty if something is.
        idle_w: mean power of the idle machine, in the second before the warm-up, in watts.
        mean_w: mean power during the runs.
        over_idle_w: mean power during the runs, without that of the idle machine.
        mj_per_run: energy of a run in millijoules, from the first stage to the last, with what the idle machine draws.
        mj_over_idle_per_run: the same without what the idle machine draws.
        slowest_w: mean power during the slowest tenth of the runs; well below ``mean_w``, they were throttled or
            waited; None if the sensor is too slow to tell them apart.
        run_ends_s: end of each run, in seconds since the first run began.
        samples_s: times of the samples, on the same clock; the idle ones are negative, and so are those of the warm-up.
        samples_w: power at those times, in watts.
    """

    source: str
    unreadable: str = ""
    idle_w: float | None = None
    mean_w: float | None = None
    over_idle_w: float | None = None
    mj_per_run: float | None = None
    mj_over_idle_per_run: float | None = None
    slowest_w: float | None = None
    run_ends_s: tuple[float, ...] = ()
    samples_s: tuple[float, ...] = ()
    samples_w: tuple[float, ...] = ()


class Reading(NamedTuple):
    """One reading of a sensor: the energy since an arbitrary time, in joules, or the power now, in watts."""

    joules: float | None
    watts: float | None


class Sensor(Protocol):
    """A source of power readings.

    Attributes:
        source: what it reads.
    """

    source: str

    def read(self) -> Reading:
        """Returns the current reading."""
        ...

    def close(self) -> None:
        """Ends what the sensor started."""
        ...


class FileSensor:
    """A sensor in sysfs: the sum of several values."""

    def __init__(
        self, source: str, *, joules: Sequence[Callable[[], float]] = (), watts: Sequence[Callable[[], float]] = ()
    ) -> None:
        self.source = source
        self._joules, self._watts = joules, watts

    def read(self) -> Reading:
        """See `Sensor.read`."""
        if self._joules:
            return Reading(sum(each() for each in self._joules), None)
        return Reading(None, sum(each() for each in self._watts))

    def close(self) -> None:
        """See `Sensor.close`."""


class DriverSensor:
    """The power of all NVIDIA GPUs, from one ``nvidia-smi`` that prints it every 20 ms.

    With several GPUs, it prints a line for each; the last value of each is summed.
    """

    source = "NVIDIA driver (nvidia-smi), power.draw"

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [program, "--query-gpu=index,power.draw", "--format=csv,noheader,nounits", "--loop-ms=20"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._latest: dict[str, float] = {}
        self._first = threading.Event()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            index, _, power = line.partition(",")
            with contextlib.suppress(ValueError):  # a GPU without a sensor prints [N/A]
                self._latest[index.strip()] = float(power)
                self._first.set()
        self._first.set()

    def has_value(self) -> bool:
        """Waits for the first value; returns False if the program ends, or prints none for five seconds."""
        self._first.wait(FIRST_VALUE_S)
        return bool(self._latest)

    def read(self) -> Reading:
        """See `Sensor.read`."""
        return Reading(None, sum(self._latest.values()))

    def close(self) -> None:
        """See `Sensor.close`."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def sensor(root: Path = ROOT, *, on_gpu: bool = False) -> Sensor | str:
    """Returns the sensor that covers the engine's device, or the reason why there is none.

    A Jetson's INA3221 or INA238 (Linux ``Documentation/hwmon/ina3221.rst``, ``ina238.rst``; the rails are named in
    NVIDIA's Jetson Linux Developer Guide) covers the module; NVIDIA's driver covers the GPU only; RAPL (Linux
    ``Documentation/power/powercap/powercap.rst``) covers processor packages and memory.

    Args:
        root: where ``sys`` is found.
        on_gpu: the engine runs on a GPU.
    """
    board = _ina(root)
    if board is not None:
        return board
    if on_gpu:
        return _driver()
    return _rapl(root)


def _ina(root: Path) -> FileSensor | None:
    rails: dict[str, Callable[[], float]] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _text(chip / "name")
        if name == "ina3221":
            rails |= _rails(chip)
        elif name == "ina238" and _text(chip / "power1_input"):
            rails[_text(chip / "power1_label") or "VIN"] = _value(chip / "power1_input", 1e-6)
    whole = [name for name in rails if name in INPUT_RAILS]
    chosen = {name: rails[name] for name in (whole or rails)}
    return FileSensor(f"INA rails {', '.join(chosen)}", watts=list(chosen.values())) if chosen else None


def _rails(chip: Path) -> dict[str, Callable[[], float]]:
    """Returns the channels of an INA3221 by label; each is a voltage in mV times a current in mA."""
    found: dict[str, Callable[[], float]] = {}
    for current in sorted(chip.glob("curr[1-3]_input")):
        channel = current.name[len("curr")]
        label, voltage = _text(chip / f"in{channel}_label"), chip / f"in{channel}_input"
        if label and label != "NC" and _text(current) and _text(voltage):
            found[label] = _product(_value(voltage, 1e-3), _value(current, 1e-3))
    return found


def _product(volts: Callable[[], float], amperes: Callable[[], float]) -> Callable[[], float]:
    return lambda: volts() * amperes()


def _driver() -> Sensor | str:
    program = shutil.which("nvidia-smi")
    if not program:
        return "not readable here: nvidia-smi was not found"
    found = DriverSensor(program)
    if found.has_value():
        return found
    found.close()
    return "not readable here: nvidia-smi reports no power.draw"


def _rapl(root: Path) -> Sensor | str:
    folder = root / "sys/class/powercap"
    # intel-rapl:0 is a package, intel-rapl:0:2 a part of it; AMD's driver uses the same names.
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _counts(zone)]
    if not zones:
        return "not readable here: the processor has no RAPL counters (/sys/class/powercap)"
    if any(not _text(zone / "energy_uj") for zone in zones):
        return "not readable here: /sys/class/powercap/*/energy_uj is for root only"
    names = ", ".join(_text(zone / "name") for zone in zones)
    return FileSensor(f"RAPL {names}", joules=[_counter(zone) for zone in zones])


def _counts(zone: Path) -> bool:
    """Whether a zone is summed: packages, and their memory, which is not part of the package's counter."""
    name = _text(zone / "name")
    return name.startswith("package") or name == "dram"


def _counter(zone: Path) -> Callable[[], float]:
    """Returns a function that reads an energy counter in joules, continued where the counter starts again from zero."""
    span = float(_text(zone / "max_energy_range_uj") or 0)
    read = _value(zone / "energy_uj", 1.0)
    state = {"last": read(), "added": 0.0}

    def joules() -> float:
        now = read()
        if now < state["last"]:
            state["added"] += span
        state["last"] = now
        return (now + state["added"]) * 1e-6

    return joules


def _value(file: Path, unit: float) -> Callable[[], float]:
    return lambda: float(file.read_text()) * unit


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


class PowerWatch:
    """Reads a sensor in a thread beside the runs, every 10 ms.

    Args:
        source: the sensor, or the reason why there is none; then nothing is measured.
    """

    def __init__(self, source: Sensor | str) -> None:
        self._source = source
        self._readings: list[tuple[float, Reading]] = []
        self._ended = threading.Event()
        self._idle_until_s = 0.0

    @contextlib.contextmanager
    def idle_then_beside(self) -> Iterator[None]:
        """Measures the idle machine for a second, then goes on beside the block."""
        if isinstance(self._source, str):
            yield
            return
        thread = threading.Thread(target=self._sample, args=(self._source,), daemon=True)
        thread.start()
        try:
            time.sleep(IDLE_S)
            self._idle_until_s = time.perf_counter()
            yield
        finally:
            self._ended.set()
            thread.join()
            self._source.close()

    def _sample(self, source: Sensor) -> None:
        while not self._ended.is_set():
            self._readings.append((time.perf_counter(), source.read()))
            self._ended.wait(INTERVAL_S)
        self._readings.append((time.perf_counter(), source.read()))

    def power(self, run_starts_s: Sequence[float], run_ends_s: Sequence[float]) -> Power:
        """Joins the samples with the runs.

        Args:
            run_starts_s: begin of each run by `time.perf_counter`.
            run_ends_s: end of each run.
        """
        if isinstance(self._source, str):
            return Power(source="", unreadable=self._source)
        times = [at for at, _ in self._readings]
        joules = [reading.joules for _, reading in self._readings if reading.joules is not None]
        watts = [reading.watts for _, reading in self._readings if reading.watts is not None]
        energy = np.array(joules) if joules else _energy(times, watts)
        return power_from_samples(
            self._source.source, times, energy, run_starts_s, run_ends_s, idle_until_s=self._idle_until_s
        )


def _energy(times_s: Sequence[float], watts: Sequence[float]) -> np.ndarray:
    """Integrates power over time, by trapezoids; joules since the first sample."""
    at, power = np.asarray(times_s), np.asarray(watts)
    return np.concatenate([[0.0], np.cumsum(np.diff(at) * (power[1:] + power[:-1]) / 2)])


def power_from_samples(
    source: str,
    times_s: Sequence[float],
    energy_j: np.ndarray,
    run_starts_s: Sequence[float],
    run_ends_s: Sequence[float],
    *,
    idle_until_s: float,
) -> Power:
    """Joins samples of an energy counter with the runs; the counter is interpolated linearly between samples.

    Args:
        source: name of the sensor.
        times_s: times of the samples; ascending.
        energy_j: joules at those times; float64, shape ``(n,)``.
        run_starts_s: begin of each run, on the same clock.
        run_ends_s: end of each run.
        idle_until_s: until when the machine was idle; warm-up runs follow.
    """
    times, starts, ends = np.asarray(times_s), np.asarray(run_starts_s), np.asarray(run_ends_s)
    origin = float(starts[0])
    idle = times <= idle_until_s
    if idle.sum() < 2 or times[-1] <= origin:
        return Power(source="", unreadable="not readable here: the sensor gave too few values")
    idle_w = float((energy_j[idle][-1] - energy_j[0]) / (times[idle][-1] - times[0]))
    used_j = np.interp(ends, times, energy_j) - np.interp(starts, times, energy_j)
    lengths = ends - starts
    busy_s, busy_j = float(lengths.sum()), float(used_j.sum())
    mean_w = busy_j / busy_s
    middle = (times[1:] + times[:-1]) / 2 - origin
    return Power(
        source=source,
        idle_w=idle_w,
        mean_w=mean_w,
        over_idle_w=mean_w - idle_w,
        mj_per_run=1000 * busy_j / len(ends),
        mj_over_idle_per_run=1000 * (busy_j - idle_w * busy_s) / len(ends),
        slowest_w=_slowest_w(times, energy_j, used_j, lengths),
        run_ends_s=tuple((ends - origin).tolist()),
        samples_s=tuple(middle.tolist()),
        samples_w=tuple((np.diff(energy_j) / np.diff(times)).tolist()),
    )


def _slowest_w(times: np.ndarray, energy_j: np.ndarray, used_j: np.ndarray, lengths: np.ndarray) -> float | None:
    """Returns the power of the slowest tenth of the runs; None if a run is shorter than two updates of the sensor."""
    # The sensor may change its value less often than it is read.
    changes = np.flatnonzero(np.diff(np.diff(energy_j) / np.diff(times)))
    update_s = float(np.median(np.diff(times[changes]))) if len(changes) > 1 else np.inf
    if len(lengths) < 1 / SLOWEST or np.median(lengths) < 2 * update_s:
        return None
    slowest = np.argsort(lengths)[-max(1, int(SLOWEST * len(lengths))) :]
    return float(used_j[slowest].sum() / lengths[slowest].sum())
