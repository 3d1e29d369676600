from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.device.cpu import cpu
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import UsageError
from edgekit.measure import peaks as module
from edgekit.measure.engine_roofline import peaks_of_engine, with_roofline
from edgekit.measure.machine import this_machine
from edgekit.measure.peaks import (
    BandwidthPeak,
    ComputePeak,
    MachinePeaks,
    cached_peaks,
    machine_peaks,
    peaks_from_machine,
)
from edgekit.measure.profile import profile_bundle
from edgekit.measure.theoretical_peaks import theoretical_peaks

FASTER_THAN_BOUND = 1.15
"""An engine may be this much faster than the bound: the peak kernels may have been disturbed, and it not."""


def compute(precision: str, threads: int, macs_per_s: float) -> ComputePeak:
    return ComputePeak(precision=precision, threads=threads, macs_per_s=macs_per_s, backend="cpu", kernel="conv")


def bandwidth(size: int, threads: int, bytes_per_s: float) -> BandwidthPeak:
    return BandwidthPeak(working_set_bytes=size, threads=threads, bytes_per_s=bytes_per_s, kernel="copy")


FOUND = MachinePeaks(
    fingerprint="f", machine=this_machine(), backends={"cpu": "1"}, created="2026-01-01T00:00:00+00:00", seconds=5.0,
    compute=(compute("float32", 1, 10.0), compute("float32", 2, 18.0), compute("int8", 1, 40.0),
             compute("int8", 2, 36.0)),
    bandwidth=(bandwidth(100, 1, 5.0), bandwidth(100, 2, 9.0), bandwidth(1000, 1, 7.0), bandwidth(1000, 2, 3.0),
               bandwidth(10_000, 1, 2.0), bandwidth(10_000, 2, 1.0)),
    theoretical=(),
)  # fmt: skip


def test_peaks_are_those_of_the_number_of_threads_or_of_fewer() -> None:
    one, two = peaks_from_machine(FOUND, 1), peaks_from_machine(FOUND, 2)
    assert one.macs_per_s == {"float32": 10.0, "int8": 40.0}
    assert two.macs_per_s == {"float32": 18.0, "int8": 40.0}
    assert (one.threads, two.threads, peaks_from_machine(FOUND, 64).threads) == (1, 2, 2)


def test_a_smaller_working_set_is_never_slower_than_a_larger_one() -> None:
    one = peaks_from_machine(FOUND, 1)
    assert [(level.working_set_bytes, level.bytes_per_s) for level in one.levels] == [
        (100, 7.0), (1000, 7.0), (10_000, 2.0),
    ]  # fmt: skip
    assert one.bytes_per_s == 2.0
    assert peaks_from_machine(FOUND, 2).levels[0].bytes_per_s == 9.0


def test_peaks_are_measured_once_and_again_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def measured(progress: object) -> MachinePeaks:
        calls.append(1)
        return msgspec.structs.replace(FOUND, seconds=float(len(calls)))

    monkeypatch.setattr(module, "_measured", measured)
    assert cached_peaks(tmp_path) is None
    assert machine_peaks(folder=tmp_path).seconds == machine_peaks(folder=tmp_path).seconds == 1
    assert machine_peaks(folder=tmp_path, recalibrate=True).seconds == 2
    assert cached_peaks(tmp_path) == machine_peaks(folder=tmp_path)
    assert len(calls) == 2


def test_another_version_of_a_library_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_measured", lambda progress: FOUND)
    machine_peaks(folder=tmp_path)
    assert cached_peaks(tmp_path) is not None
    monkeypatch.setattr(module, "_versions", lambda: {"cpu": "99.0"})
    assert cached_peaks(tmp_path) is None


def test_a_damaged_file_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_measured", lambda progress: FOUND)
    machine_peaks(folder=tmp_path)
    next(tmp_path.iterdir()).write_text("{")
    assert cached_peaks(tmp_path) is None
    assert machine_peaks(folder=tmp_path) == FOUND


def test_error_on_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_measured", lambda progress: FOUND)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        machine_peaks(folder=tmp_path / "file")
    assert "EDGEKIT_CACHE" in caught.value.hint


def test_theoretical_peaks_follow_from_cores_clock_units_and_width() -> None:
    here = msgspec.structs.replace(
        cpu(), arch="x86_64", cores=4, threads=4, features=("avx2", "avx512f", "avx512_vnni")
    )
    found = {(peak.precision, peak.instructions): peak.macs_per_s for peak in theoretical_peaks(here, 3000.0)}
    assert found["float32", "AVX-512 FMA"] == 4 * 3e9 * 2 * 16
    assert found["int8", "AVX-512 VNNI"] == 4 * 3e9 * 2 * 64
    # VNNI replaces three instructions by one.
    assert found["int8", "AVX-512 without dot product"] == pytest.approx(found["int8", "AVX-512 VNNI"] / 3)
    arm = msgspec.structs.replace(here, arch="aarch64", features=("neon", "asimddp"))
    assert [peak.instructions for peak in theoretical_peaks(arm, 2000.0)] == ["NEON FMA", "SDOT"]
    assert theoretical_peaks(here, None) == ()


def test_bandwidth_counts_what_a_copy_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BANDWIDTH_S", 0.02)
    size = 2**24
    half = np.ones(size // 8, np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        half.copy()
        times.append(time.perf_counter() - start)
    # The best of several, as of the copies: what others do on this machine makes both slower.
    found = max(module._bandwidth("copy", size, 1) for _ in range(5))
    # A copy into new memory is slower, as its pages are made first; one into a cache is faster by less than 20 times.
    assert 0.5 * size / min(times) < found < 20 * size / min(times)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> MachinePeaks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KERNEL_S", 0.1)
        patch.setattr(module, "BANDWIDTH_S", 0.01)
        patch.setattr(module, "LARGEST_BYTES", 2**26)
        return machine_peaks(folder=tmp_path_factory.mktemp("peaks"))


def test_this_machine_is_measured(measured: MachinePeaks) -> None:
    threads = {peak.threads for peak in measured.compute}
    assert {(peak.precision, peak.threads) for peak in measured.compute} == {
        (precision, count) for precision in ("float32", "int8") for count in threads
    }
    assert max(threads) == cpu().compute_threads
    # Every processor that EdgeKit runs on has FMA units of 128 bits at 0.5 GHz or more, and no core has 1,000 GMAC/s.
    fastest = max(peak.macs_per_s for peak in measured.compute if peak.precision == "float32")
    assert 1e9 < fastest < 1e12 * cpu().compute_threads
    sizes = sorted({peak.working_set_bytes for peak in measured.bandwidth})
    assert sizes[0] == module.SMALLEST_BYTES
    assert all(b == 4 * a for a, b in zip(sizes, sizes[1:], strict=False))
    assert all(1e8 < peak.bytes_per_s < 1e13 for peak in measured.bandwidth)
    assert "cpu" in measured.backends


@pytest.mark.parametrize(
    ("model", "precision", "runs"),
    [
        ("lenet", "fp32", 200),
        ("lenet", "int8", 200),
        pytest.param("resnet18", "fp32", 20, marks=pytest.mark.slow),
        pytest.param("resnet18", "int8", 20, marks=pytest.mark.slow),
    ],
)
def test_no_engine_is_faster_than_the_bound_by_the_measured_peaks(
    measured: MachinePeaks, model: str, precision: str, runs: int, tmp_path: Path
) -> None:
    calibration = {"calib_images": 4} if precision == "int8" else {}
    path = edgekit.build(model, precision=precision, target="cpu", profile=False, output=tmp_path / "e", **calibration)
    report = with_roofline(profile_bundle(path, runs=runs, warmup=5), path, peaks_from_machine(measured))
    assert report.roofline is not None
    assert report.roofline.measured_ms == report.latency_ms.p50
    assert report.roofline.bound_ms < FASTER_THAN_BOUND * report.latency_ms.min
    assert 0 < (report.roofline.reached or 0) < FASTER_THAN_BOUND


def test_error_on_the_roofline_of_a_gpu_engine_without_its_board(make_bundle: Callable[..., Path]) -> None:
    path = make_bundle()
    seal(path, msgspec.structs.replace(read_manifest(path), backend="tensorrt-rtx"))
    with pytest.raises(UsageError, match="expected board, got none"):
        peaks_of_engine(path)
    assert peaks_of_engine(path, board="rtx-4090").name == "GeForce RTX 4090"
