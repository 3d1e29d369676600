from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from edgekit.device.cpu import Cpu, clock_mhz, cpu, last_cache_bytes, peak_memory_bytes

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(autouse=True)
def sixteen_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (
            "intel-i5-8250u",
            Cpu(
                name="Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz",
                arch="x86_64",
                cores=4,
                threads=16,
                features=("avx2",),
                memory_bytes=8010488 * 1024,
                available_bytes=4120004 * 1024,
            ),
        ),
        (
            "amd-epyc",
            Cpu(
                name="AMD EPYC",
                arch="x86_64",
                cores=2,
                threads=16,
                features=("avx2", "avx512f", "avx512_vnni"),
                memory_bytes=24684096 * 1024,
                available_bytes=23650000 * 1024,
            ),
        ),
        (
            "jetson-orin-nano",
            Cpu(
                name="Cortex-A78AE",
                arch="aarch64",
                cores=6,
                threads=16,
                features=("neon", "asimddp"),
                memory_bytes=7801600 * 1024,
                available_bytes=5620164 * 1024,
            ),
        ),
        (
            "raspberry-pi-5",
            Cpu(
                name="Cortex-A76",
                arch="aarch64",
                cores=4,
                threads=16,
                features=("neon", "asimddp"),
                memory_bytes=8245376 * 1024,
                available_bytes=7526992 * 1024,
            ),
        ),
    ],
)
def test_recorded_machines_are_recognized(machine: str, expected: Cpu) -> None:
    assert cpu(RECORDED / machine) == expected


def test_int8_is_fast_with_dot_products_only() -> None:
    fast = {machine: cpu(RECORDED / machine).fast_int8 for machine in ("intel-i5-8250u", "amd-epyc", "raspberry-pi-5")}
    assert fast == {"intel-i5-8250u": False, "amd-epyc": True, "raspberry-pi-5": True}


def test_hyperthreads_are_no_compute_threads() -> None:
    assert cpu(RECORDED / "intel-i5-8250u").compute_threads == 4


def test_affinity_bounds_compute_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert cpu(RECORDED / "intel-i5-8250u").compute_threads == 3


def test_a_feature_that_only_some_cores_have_does_not_count(tmp_path: Path) -> None:
    block = "processor : {}\nFeatures : asimd {}\nCPU implementer : 0x41\nCPU part : {}\n\n"
    _write(tmp_path, "proc/cpuinfo", block.format(0, "asimddp", "0xd05") + block.format(1, "asimddp i8mm", "0xd41"))
    assert cpu(tmp_path).features == ("neon", "asimddp")
    assert cpu(tmp_path).name == "Cortex-A55 + Cortex-A78"


@pytest.mark.parametrize(("quota", "threads"), [("150000 100000", 2), ("max 100000", 16), ("50000 100000", 1)])
def test_quota_of_a_control_group_bounds_threads(tmp_path: Path, quota: str, threads: int) -> None:
    _write(tmp_path, "proc/self/cgroup", "0::/machine/box\n")
    _write(tmp_path, "sys/fs/cgroup/machine/box/cpu.max", "max 100000\n")
    _write(tmp_path, "sys/fs/cgroup/machine/cpu.max", quota + "\n")
    assert cpu(tmp_path).threads == threads


def test_quota_of_an_old_control_group_bounds_threads(tmp_path: Path) -> None:
    _write(tmp_path, "proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/docker/abc\n")
    _write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n")
    _write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpu(tmp_path).threads == 3


def test_memory_limit_of_a_control_group_is_the_memory(tmp_path: Path) -> None:
    _write(tmp_path, "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n")
    _write(tmp_path, "proc/self/cgroup", "0::/\n")
    _write(tmp_path, "sys/fs/cgroup/memory.max", "1000000000\n")
    _write(tmp_path, "sys/fs/cgroup/memory.current", "700000000\n")
    _write(tmp_path, "sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 200000000\n")
    found = cpu(tmp_path)
    assert (found.memory_bytes, found.available_bytes) == (1_000_000_000, 500_000_000)


def test_a_system_without_proc_is_described_as_far_as_possible(tmp_path: Path) -> None:
    found = cpu(tmp_path)
    assert found.cores == os.cpu_count()
    assert found.arch == platform.machine().replace("arm64", "aarch64").replace("AMD64", "x86_64")
    assert found.memory_bytes > 0


def test_this_machine_is_described() -> None:
    here = cpu()
    assert here.name and here.cores >= 1 and here.threads >= 1 and 0 < here.available_bytes <= here.memory_bytes


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory_bytes()
    held = b"x" * (before + 50_000_000)
    assert peak_memory_bytes() >= before + 40_000_000
    del held
    assert peak_memory_bytes() >= before + 40_000_000


def _write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_clock_is_the_highest_that_the_system_allows(tmp_path: Path) -> None:
    assert clock_mhz(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("cpu MHz\t\t: 1200.5\n\ncpu MHz\t\t: 2445.4\n")
    assert clock_mhz(tmp_path) == 2445.4
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "cpuinfo_max_freq").write_text("3700000\n")
    assert clock_mhz(tmp_path) == 3700


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    assert last_cache_bytes(tmp_path) == 0
    for index, size in enumerate(("32K", "512K", "32M", "")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 32 * 2**20
