from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.device.nvidia import Gpu, gpus

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def no_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("no_nvidia_smi")
def test_driver_and_cards_are_read_without_nvidia_smi() -> None:
    assert gpus(RECORDED / "rtx") == (Gpu(name="NVIDIA RTX A2000", driver="570.124.06"),)


@pytest.mark.usefixtures("no_nvidia_smi")
def test_a_machine_without_the_driver_has_no_gpus() -> None:
    assert gpus(RECORDED / "raspberry-pi-5") == ()


def test_nvidia_smi_is_used_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(tmp_path, monkeypatch, "NVIDIA H200, 570.124.06, 143771, 9.0\nOrin (nvgpu), 540.4.0, [N/A], [N/A]")
    assert gpus(RECORDED / "rtx") == (
        Gpu(name="NVIDIA H200", driver="570.124.06", memory_bytes=143771 * 2**20, compute_capability="9.0"),
        Gpu(name="Orin (nvgpu)", driver="540.4.0"),
    )


def test_proc_is_read_if_nvidia_smi_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(tmp_path, monkeypatch, "NVIDIA-SMI has failed because it couldn't communicate with the driver", code=9)
    assert gpus(RECORDED / "rtx")[0].name == "NVIDIA RTX A2000"
    assert gpus(RECORDED / "raspberry-pi-5") == ()


def _answers(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\ncat <<"END"\n{text}\nEND\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
