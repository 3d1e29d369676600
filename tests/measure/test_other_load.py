from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.measure.machine import ProcessorTime, disturbance_by_others, processor_time

START = ProcessorTime(wall_s=100.0, all_s=5000.0, stolen_s=10.0, own_s=50.0, processors=4)


def after(*, all_s: float, own_s: float = 0.0, stolen_s: float = 0.0, wall_s: float = 10.0) -> ProcessorTime:
    return ProcessorTime(
        START.wall_s + wall_s, START.all_s + all_s, START.stolen_s + stolen_s, START.own_s + own_s, START.processors
    )


def test_load_of_this_process_is_no_disturbance() -> None:
    assert disturbance_by_others(START, after(all_s=40.0, own_s=40.0)) is None


def test_a_little_background_load_is_no_disturbance() -> None:
    assert disturbance_by_others(START, after(all_s=26.0, own_s=20.0)) is None


def test_load_of_other_processes_is_reported() -> None:
    found = disturbance_by_others(START, after(all_s=40.0, own_s=20.0))
    assert found is not None
    assert found.kind == "others"
    assert "2.0 of 4 processors" in found.text


def test_steal_time_is_reported() -> None:
    found = disturbance_by_others(START, after(all_s=20.0, own_s=20.0, stolen_s=2.0))
    assert found is not None
    assert "5 %" in found.text


def test_too_short_an_interval_reports_nothing() -> None:
    assert disturbance_by_others(START, after(all_s=0.4, wall_s=0.1)) is None


def test_a_system_without_counters_reports_nothing(tmp_path: Path) -> None:
    assert processor_time(tmp_path / "stat") is None
    (tmp_path / "stat").write_text("cpu x y\n")
    assert processor_time(tmp_path / "stat") is None
    assert disturbance_by_others(None, processor_time()) is None


def test_counters_are_read_from_proc_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    text = "cpu  100 20 30 9999 888 4 5 60 0 0\ncpu0 1 1 1 1 1 1 1 1\ncpu1 1 1 1 1 1 1 1 1\nintr 1\n"
    (tmp_path / "stat").write_text(text)
    found = processor_time(tmp_path / "stat")
    assert found is not None
    assert (found.all_s, found.stolen_s, found.processors) == (pytest.approx(1.59), pytest.approx(0.6), 2)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat on this system")
def test_a_spinning_process_is_counted_as_other_load() -> None:
    before = processor_time()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        time.sleep(1.0)
        later = processor_time()
        spinning.kill()
    assert before is not None
    assert later is not None
    others = (later.all_s - before.all_s) - (later.own_s - before.own_s)
    # It may have to share its processor with other tests.
    assert others > 0.2
