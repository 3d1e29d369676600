"""The files have the formats of the Linux documentation that `snapshot` names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgekit.measure.conditions import (
    Conditions,
    ConditionWatch,
    GpuState,
    Snapshot,
    disturbances_from_conditions,
    gpu_states,
    load_limit,
    snapshot,
)

INTEL = {
    "proc/loadavg": "0.42 0.30 0.21 1/345 6789\n",
    "proc/pressure/cpu": "some avg10=0.12 avg60=0.20 avg300=0.11 total=2500000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3400000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "4\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "3300000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "3400000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone1/temp": "61000\n",
    "sys/class/thermal/thermal_zone1/trip_point_0_type": "active\n",
    "sys/class/thermal/thermal_zone1/trip_point_0_temp": "50000\n",
    "sys/class/thermal/thermal_zone1/trip_point_1_type": "passive\n",
    "sys/class/thermal/thermal_zone1/trip_point_1_temp": "95000\n",
    "sys/class/thermal/thermal_zone1/trip_point_2_type": "critical\n",
    "sys/class/thermal/thermal_zone1/trip_point_2_temp": "100000\n",
}
# NVIDIA's Jetson Linux Developer Guide: counters of over-current events, and a sensor of a power domain that is off.
JETSON = {
    "proc/loadavg": "1.05 0.80 0.40 2/600 4321\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "5\n",
    "sys/class/thermal/thermal_zone0/temp": "51593\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
}


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def state(**changes: object) -> Snapshot:
    quiet = Snapshot(
        time_s=0.0, load=0.2, pressure_s=5.0, clock_mhz=3000.0, temperature_c=60.0, trip_c=95.0, throttle_events=7
    )
    return msgspec.structs.replace(quiet, **changes)


def around(before: Snapshot, after: Snapshot, *during: Snapshot) -> Conditions:
    return Conditions(before=before, during=during, after=msgspec.structs.replace(after, time_s=10.0))


def kinds(conditions: Conditions, processors: int = 8) -> set[str]:
    return {item.kind for item in disturbances_from_conditions(conditions, processors)}


def test_the_state_of_a_pc_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    found = snapshot(write_tree(tmp_path, INTEL))
    assert (found.load, found.pressure_s, found.governors) == (0.42, 2.5, ("powersave",))
    assert (found.clock_mhz, found.max_clock_mhz, found.throttle_events) == (3300.0, 3400.0, 7)
    # The hottest zone, and the lowest trip point that slows it down; an active one only starts a fan.
    assert (found.temperature_c, found.trip_c) == (61.0, 95.0)


def test_the_state_of_a_jetson_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    found = snapshot(write_tree(tmp_path, JETSON))
    assert (found.load, found.governors, found.throttle_events) == (1.05, ("schedutil",), 5)
    assert (found.temperature_c, found.trip_c) == (51.593, None)


def test_what_is_not_readable_is_named(tmp_path: Path) -> None:
    watch = ConditionWatch(write_tree(tmp_path, {"proc/loadavg": "0.1 0.1 0.1 1/10 99\n"}))
    found = watch.conditions()
    assert found.after.load == 0.1
    assert found.unreadable == ("processor pressure", "clock governor", "clock frequency", "temperature", "throttling")


def test_snapshots_during_the_runs_are_half_a_second_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("edgekit.measure.conditions.time.perf_counter", lambda: now[0])
    watch = ConditionWatch(write_tree(tmp_path, INTEL))
    for _ in range(30):
        now[0] += 0.1
        watch.look()
    found = watch.conditions()
    assert [round(each.time_s, 1) for each in found.during] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0] or len(found.during) == 5
    assert found.after.time_s == pytest.approx(3.0)


def test_a_quiet_machine_has_no_disturbance() -> None:
    assert kinds(around(state(), state(load=0.9), state(), state(clock_mhz=2900.0))) == set()


@pytest.mark.parametrize("processors", [2, 8, 32, 128])
def test_a_load_of_eight_is_never_quiet(processors: int) -> None:
    assert kinds(around(state(load=8.0), state()), processors) == {"load"}
    assert kinds(around(state(), state(load=8.0)), processors) == {"load"}
    assert load_limit(processors) < 8


def test_the_load_of_the_measurement_itself_is_no_disturbance() -> None:
    assert kinds(around(state(), state(load=4.0, own_load=3.8))) == set()


def test_waiting_for_a_processor_is_pressure() -> None:
    assert kinds(around(state(), state(pressure_s=9.0))) == {"pressure"}
    assert kinds(around(state(), state(pressure_s=6.0))) == set()


def test_a_clock_that_falls_during_the_runs_is_reported_with_its_governor() -> None:
    during = [state(clock_mhz=3000.0), state(clock_mhz=2100.0)]
    (found,) = disturbances_from_conditions(around(state(), state(governors=("powersave",)), *during), 8)
    assert found.kind == "clock"
    assert "between 2100 and 3000 MHz" in found.text and "powersave" in found.text


def test_an_idle_clock_before_and_after_is_no_disturbance() -> None:
    assert kinds(around(state(clock_mhz=800.0), state(clock_mhz=800.0), state(), state())) == set()


def test_a_zone_near_its_trip_point_is_heat() -> None:
    assert kinds(around(state(), state(), state(temperature_c=91.0))) == {"heat"}
    assert kinds(around(state(), state(), state(temperature_c=91.0, trip_c=None))) == set()


def test_counted_throttling_during_the_runs_is_reported() -> None:
    assert kinds(around(state(), state(throttle_events=9))) == {"throttling"}


def test_a_throttled_gpu_is_reported_with_the_reason() -> None:
    gpu = GpuState(throttled_by=("its temperature",))
    (found,) = disturbances_from_conditions(around(state(), state(gpus=(gpu,))), 8)
    assert (found.kind, found.text) == ("throttling", "The GPU's clock was lowered by its temperature.")


# `nvidia-smi --help-query-gpu` lists the fields; the bits are those of nvmlClocksEventReasons in nvml.h.
def test_gpus_are_parsed_from_what_nvidia_smi_prints() -> None:
    hot, idle = gpu_states("83, 1395, 69.12, 98, 0x0000000000000024\n31, 210, [N/A], 0, 0x0000000000000001\n")
    assert hot == GpuState(
        temperature_c=83,
        clock_mhz=1395,
        power_w=69.12,
        utilization=0.98,
        throttled_by=("a power cap", "its temperature"),
    )
    assert idle == GpuState(temperature_c=31, clock_mhz=210, power_w=None, utilization=0.0)


def test_the_driver_is_asked_with_the_older_name_if_it_does_not_know_the_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in *throttle*) echo "40, 1500, 20.5, 3, 0x0000000000000000";; '
        '*) echo "Field is not a valid field to query."; exit 2;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (gpu,) = snapshot(tmp_path, gpus=True).gpus
    assert (gpu.temperature_c, gpu.power_w, gpu.throttled_by) == (40, 20.5, ())
