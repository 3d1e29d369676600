"""The files have the formats that `sensor` names: powercap.rst, ina3221.rst and ina238.rst of Linux's documentation."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.measure.power import PowerWatch, Reading, power_from_samples, sensor

RAPL = {
    "intel-rapl:0/name": "package-0\n",
    "intel-rapl:0/energy_uj": "262143000000\n",
    "intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "intel-rapl:0:0/name": "core\n",
    "intel-rapl:0:0/energy_uj": "1000\n",
    "intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
    "intel-rapl:0:1/name": "dram\n",
    "intel-rapl:0:1/energy_uj": "5000000\n",
    "intel-rapl:0:1/max_energy_range_uj": "65712999613\n",
}
# Jetson Orin Nano: NVIDIA's Jetson Linux Developer Guide lists the rails of its INA3221. Values in mV and mA.
ORIN_NANO = {
    "hwmon0/name": "ina3221\n",
    "hwmon0/in1_label": "VDD_IN\n",
    "hwmon0/in1_input": "5096\n",
    "hwmon0/curr1_input": "1176\n",
    "hwmon0/in2_label": "VDD_CPU_GPU_CV\n",
    "hwmon0/in2_input": "5088\n",
    "hwmon0/curr2_input": "336\n",
    "hwmon0/in3_label": "VDD_SOC\n",
    "hwmon0/in3_input": "5088\n",
    "hwmon0/curr3_input": "280\n",
}
# AGX Orin has no rail for the whole module: its two monitors are summed; the channel that is not connected is left out.
AGX_ORIN = {
    "hwmon3/name": "ina3221\n",
    "hwmon3/in1_label": "VDD_GPU_SOC\n",
    "hwmon3/in1_input": "19856\n",
    "hwmon3/curr1_input": "160\n",
    "hwmon3/in2_label": "VDD_CPU_CV\n",
    "hwmon3/in2_input": "19856\n",
    "hwmon3/curr2_input": "40\n",
    "hwmon4/name": "ina3221\n",
    "hwmon4/in1_label": "NC\n",
    "hwmon4/in1_input": "0\n",
    "hwmon4/curr1_input": "0\n",
    "hwmon4/in2_label": "VDDQ_VDD2_1V8AO\n",
    "hwmon4/in2_input": "5000\n",
    "hwmon4/curr2_input": "100\n",
}


def write_tree(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_rapl_sums_packages_and_memory_without_the_parts_of_a_package(tmp_path: Path) -> None:
    write_tree(tmp_path / "sys/class/powercap", RAPL)
    found = sensor(tmp_path)
    assert not isinstance(found, str)
    assert found.source == "RAPL package-0, dram"
    assert found.read().joules == pytest.approx(262143.0 + 5.0)


def test_rapl_goes_on_where_a_counter_starts_again(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/powercap"
    write_tree(folder, RAPL)
    found = sensor(tmp_path)
    assert not isinstance(found, str)
    before = found.read().joules
    (folder / "intel-rapl:0/energy_uj").write_text("671150\n")
    after = found.read().joules
    assert before is not None and after is not None
    # 328,850 µJ up to the end of the range, then 671,150 µJ.
    assert after - before == pytest.approx(1.0)


def test_a_counter_for_root_only_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "sys/class/powercap", RAPL)
    read = Path.read_text

    def refuse(path: Path, *args: str, **options: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert sensor(tmp_path) == "not readable here: /sys/class/powercap/*/energy_uj is for root only"


def test_a_machine_without_sensors_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sensor(tmp_path) == "not readable here: the processor has no RAPL counters (/sys/class/powercap)"
    assert sensor(tmp_path, on_gpu=True) == "not readable here: nvidia-smi was not found"


def test_a_jetson_with_an_input_rail_is_measured_there(tmp_path: Path) -> None:
    write_tree(tmp_path / "sys/class/hwmon", ORIN_NANO)
    found = sensor(tmp_path, on_gpu=True)
    assert not isinstance(found, str)
    assert found.source == "INA rails VDD_IN"
    assert found.read().watts == pytest.approx(5.096 * 1.176)


def test_a_jetson_without_one_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    write_tree(tmp_path / "sys/class/hwmon", AGX_ORIN)
    found = sensor(tmp_path)
    assert not isinstance(found, str)
    assert found.source == "INA rails VDD_GPU_SOC, VDD_CPU_CV, VDDQ_VDD2_1V8AO"
    assert found.read().watts == pytest.approx(19.856 * 0.2 + 0.5)


def test_an_ina238_reports_microwatts(tmp_path: Path) -> None:
    write_tree(
        tmp_path / "sys/class/hwmon",
        {"hwmon1/name": "ina238\n", "hwmon1/power1_input": "31250000\n", "hwmon1/power1_label": "VIN\n"},
    )
    found = sensor(tmp_path)
    assert not isinstance(found, str)
    assert found.read().watts == pytest.approx(31.25)


def fake_driver(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_the_power_of_all_gpus_is_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, 'while :; do echo "0, 71.50"; echo "1, 28.25"; sleep 0.02; done', monkeypatch)
    found = sensor(tmp_path, on_gpu=True)
    assert not isinstance(found, str)
    deadline = time.monotonic() + 5
    while found.read().watts != pytest.approx(99.75) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found.read().watts == pytest.approx(99.75)
    found.close()


def test_a_gpu_without_a_sensor_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, 'echo "0, [N/A]"', monkeypatch)
    assert sensor(tmp_path, on_gpu=True) == "not readable here: nvidia-smi reports no power.draw"


def test_energy_and_power_of_runs_come_from_the_counter_at_their_ends() -> None:
    """A machine that draws 10 W idle and 30 W in runs of 0.5 s with pauses of 0.5 s."""
    times = np.arange(0, 6.001, 0.01)
    starts, ends = np.array([2.0, 3.0, 4.0]), np.array([2.5, 3.5, 4.5])
    busy = np.zeros_like(times)
    for start, end in zip(starts, ends, strict=True):
        busy += np.clip(times - start, 0, end - start)
    found = power_from_samples(
        "meter", times.tolist(), 10 * times + 20 * busy, starts.tolist(), ends.tolist(), idle_until_s=2.0
    )
    assert found.idle_w == pytest.approx(10)
    assert found.mean_w == pytest.approx(30)
    assert found.over_idle_w == pytest.approx(20)
    assert found.mj_per_run == pytest.approx(15_000)
    assert found.mj_over_idle_per_run == pytest.approx(10_000)
    assert found.run_ends_s == pytest.approx((0.5, 1.5, 2.5))
    assert len(found.samples_w) == len(found.samples_s) == len(times) - 1


def test_the_power_of_warm_up_runs_is_not_that_of_the_idle_machine() -> None:
    times = np.arange(0, 4, 0.01)
    energy = np.cumsum(np.where(times < 1, 10.0, 30.0)) * 0.01
    found = power_from_samples("meter", times.tolist(), energy, [2.0], [3.0], idle_until_s=0.99)
    assert found.idle_w == pytest.approx(10)
    assert found.over_idle_w == pytest.approx(20)


def test_the_slowest_runs_of_a_throttled_machine_draw_less() -> None:
    lengths = np.array([0.1] * 18 + [0.2] * 2)
    ends = 2 + np.cumsum(lengths)
    starts = ends - lengths
    times = np.arange(0, ends[-1] + 0.1, 0.005)
    # 20 W, and 12 W from where the runs are slow; a little noise, as real sensors have.
    watts = np.where(times < starts[18], 20.0, 12.0) + np.random.default_rng(0).normal(0, 0.01, len(times))
    energy = np.concatenate([[0], np.cumsum(watts[:-1] * np.diff(times))])
    found = power_from_samples("meter", times.tolist(), energy, starts.tolist(), ends.tolist(), idle_until_s=2.0)
    assert found.slowest_w == pytest.approx(12, abs=0.2)
    assert found.mean_w == pytest.approx((1.8 * 20 + 0.4 * 12) / 2.2, abs=0.2)


def test_runs_shorter_than_the_sensors_updates_are_not_told_apart() -> None:
    times = np.arange(0, 4, 0.1)
    watts = 10 + np.random.default_rng(0).random(len(times))
    energy = np.concatenate([[0], np.cumsum(watts[:-1] * np.diff(times))])
    ends = 2 + 0.01 * np.arange(1, 100)
    assert (
        power_from_samples(
            "meter", times.tolist(), energy, (ends - 0.01).tolist(), ends.tolist(), idle_until_s=2.0
        ).slowest_w
        is None
    )


class Meter:
    """A sensor of constant power."""

    source = "meter"
    closed = False

    def read(self) -> Reading:
        return Reading(None, 12.0)

    def close(self) -> None:
        self.closed = True


def test_a_watch_samples_before_and_beside_the_runs_and_ends() -> None:
    meter = Meter()
    watch = PowerWatch(meter)
    starts, ends = [], []
    with watch.idle_then_beside():
        for _ in range(5):
            starts.append(time.perf_counter())
            time.sleep(0.02)
            ends.append(time.perf_counter())
    assert meter.closed
    found = watch.power(starts, ends)
    assert (found.mean_w, found.idle_w) == (pytest.approx(12), pytest.approx(12))
    assert found.mj_per_run == pytest.approx(12_000 * np.mean(np.subtract(ends, starts)))
    assert found.samples_s[0] < -0.5 < 0 < found.samples_s[-1]


def test_without_a_sensor_the_reason_is_in_the_report() -> None:
    watch = PowerWatch("not readable here: no sensor")
    with watch.idle_then_beside():
        start = time.perf_counter()
    assert watch.power([start], [start + 1]).unreadable == "not readable here: no sensor"
