from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from edgekit.cli import survey as module
from edgekit.cli.main import main
from edgekit.cli.survey import Survey, survey
from edgekit.device.cpu import cpu
from edgekit.device.jetson import Jetson
from edgekit.device.nvidia import Gpu
from edgekit.errors import BackendUnavailable


def finding(found: Survey, name: str) -> module.Finding:
    return next(item for item in found.findings if item.name == name)


class Present:
    """A backend that is installed."""

    def require(self) -> None:
        return None

    def version(self) -> str:
        return "1.0"


def processor(monkeypatch: pytest.MonkeyPatch, *features: str, available_bytes: int = 8 * 10**9) -> None:
    fake = type(cpu())(
        name="Test", arch="x86_64", cores=2, threads=2, features=features,
        memory_bytes=8 * 10**9, available_bytes=available_bytes,
    )  # fmt: skip
    monkeypatch.setattr(module, "cpu", lambda: fake)


def test_everything_is_printed_and_the_exit_code_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("Python", "processor", "memory", "cpu", "openvino", "torch", "This machine can")
    )


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    names = {item["name"] for item in content["findings"]}
    assert {"Python", "processor", "cpu", "openvino", "null", "torch", "onnx"} <= names
    assert set(content["can_run"]) <= {"cpu", "openvino"}


def test_a_missing_backend_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def require(self) -> None:
            raise BackendUnavailable("not installed", hint="pip install 'edgekit[cpu]'")

    monkeypatch.setattr(module, "backend", lambda name: Missing())
    found = survey()
    assert finding(found, "cpu").status == "missing"
    assert finding(found, "cpu").hint == "pip install 'edgekit[cpu]'"
    assert found.can_run == ()


def test_a_missing_build_package_is_found_without_importing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(module.metadata, "version", version)
    found = survey()
    assert finding(found, "torch").hint == "pip install 'edgekit[build]'"
    assert not found.can_build


@pytest.mark.parametrize(
    ("features", "status"),
    [(("avx2", "avx512_vnni"), "ok"), (("neon", "asimddp"), "ok"), (("avx2",), "caution"), ((), "caution")],
)
def test_integers_are_fast_with_dot_products_only(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], status: str
) -> None:
    processor(monkeypatch, *features)
    monkeypatch.setattr(module, "backend", lambda name: Present())
    found = survey()
    assert finding(found, "8-bit integers").status == status
    assert any("hardly faster" in line for line in found.verdict) == (status == "caution")


def test_without_vnni_the_known_issue_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx2")
    assert "microsoft/onnxruntime #17389" in finding(survey(), "8-bit integers").hint


def test_little_memory_is_a_caution(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx512_vnni", available_bytes=10**9)
    assert finding(survey(), "memory").status == "caution"


@pytest.mark.parametrize(
    ("jetpack", "status"), [("5.1.3", "caution"), ("4.6.1", "caution"), ("6.2", "ok"), ("7.0", "ok")]
)
def test_jetpack_5_is_out_of_scope(monkeypatch: pytest.MonkeyPatch, jetpack: str, status: str) -> None:
    board = Jetson(board="Orin Nano", l4t="36.4.3", jetpack=jetpack, power_mode="MAXN")
    monkeypatch.setattr(module, "jetson", lambda: board)
    found = finding(survey(), "Jetson")
    assert found.status == status
    assert found.value == f"Orin Nano, JetPack {jetpack}, power mode MAXN"


def test_a_gpu_is_named_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu(name="RTX A2000", driver="580.1", memory_bytes=6 * 10**9, compute_capability="8.6")
    monkeypatch.setattr(module, "gpus", lambda: (card,))
    assert finding(survey(), "GPU").value == "RTX A2000, 6.00 GB, compute capability 8.6, driver 580.1"


def test_the_cache_folder_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    assert finding(survey(), "cache").value.startswith(str(tmp_path / "cache"))
