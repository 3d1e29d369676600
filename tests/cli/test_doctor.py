from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from edgekit.cli.doctor import nvidia as survey_nvidia
from edgekit.cli.doctor import survey as module
from edgekit.cli.doctor.finding import Finding
from edgekit.cli.doctor.survey import Survey, survey
from edgekit.cli.main import main
from edgekit.device.cpu import cpu
from edgekit.device.cuda.driver import DeviceProperties
from edgekit.device.jetson import Jetson, jetson
from edgekit.device.nvidia import Gpu
from edgekit.engine.table import BACKENDS
from edgekit.errors import BackendUnavailable, RunError
from edgekit.extras import install_command

RECORDED = Path(__file__).parents[1] / "device" / "recorded"
ORIN = DeviceProperties(
    name="Orin", compute_capability=(8, 7), memory_bytes=8 * 10**9, free_bytes=10**9, integrated=True,
    driver_version="12.6",
)  # fmt: skip


def finding(found: Survey, name: str) -> Finding:
    return next(item for item in found.findings if item.name == name)


class Present:
    """A backend that is installed."""

    def require(self) -> None:
        return None

    def require_device(self, compute_capabilities: tuple[str, ...]) -> None:
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


def test_json_has_the_same_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    names = {item["name"] for item in content["findings"]}
    assert {"Python", "processor", "cpu", "openvino", "null", "torch", "onnx"} <= names
    assert set(content["can_run"]) <= set(BACKENDS) - {"null"}


def test_a_missing_backend_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def require(self) -> None:
            raise BackendUnavailable("not installed", hint="pip install 'onnxruntime>=1.23'")

    monkeypatch.setattr(module, "backend", lambda name: Missing())
    found = survey()
    assert finding(found, "cpu").status == "missing"
    assert finding(found, "cpu").hint == "pip install 'onnxruntime>=1.23'"
    assert found.can_run == ()


def test_a_missing_build_package_is_found_without_importing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(module.metadata, "version", version)
    found = survey()
    assert finding(found, "torch").hint == install_command("build", "torch")
    assert not found.can_build


def test_versions_that_are_too_old_are_no_versions_to_build_and_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        return {"onnx-ir": "0.1.12", "onnxruntime": "1.20.1"}.get(name, installed(name))

    installed = metadata.version
    monkeypatch.setattr(metadata, "version", version)
    found = survey()
    assert finding(found, "onnx-ir").value == "0.1.12: expected onnx-ir>=0.2.1"
    assert finding(found, "onnx-ir").hint.startswith("pip install 'onnx-ir>=")
    assert finding(found, "cpu").status == "missing"
    assert "expected onnxruntime>=1.23" in finding(found, "cpu").value
    assert finding(found, "onnx").status == "ok"
    assert "cpu" not in found.can_run
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


def test_without_dot_products_the_known_issue_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx2")
    assert "microsoft/onnxruntime #17389" in finding(survey(), "8-bit integers").hint


def test_little_memory_is_a_caution(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, "avx512_vnni", available_bytes=10**9)
    assert finding(survey(), "memory").status == "caution"


@pytest.mark.parametrize(
    ("jetpack", "status"),
    [("5.1.3", "caution"), ("4.6.1", "caution"), ("6.0", "caution"), ("6.2", "ok"), ("6.2.1", "ok"), ("7.0", "ok")],
)
def test_jetpacks_before_6_1_are_out_of_scope(monkeypatch: pytest.MonkeyPatch, jetpack: str, status: str) -> None:
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


def test_targets_and_libraries_have_their_own_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "backend", lambda name: Present())
    backends = [item for item in survey().findings if item.group == "backends"]
    assert [item.name for item in backends] == list(BACKENDS)
    assert finding(survey(), "tensorrt-rtx").value == "TensorRT-RTX 1.0"


def test_a_library_without_a_device_builds_but_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGpu(Present):
        def require_device(self, compute_capabilities: tuple[str, ...]) -> None:
            raise BackendUnavailable("there is no GPU", hint="plug one in")

    monkeypatch.setattr(module, "backend", lambda name: NoGpu() if name == "tensorrt-rtx" else Present())
    found = survey()
    rtx = finding(found, "tensorrt-rtx")
    assert (rtx.status, rtx.hint) == ("caution", "plug one in")
    assert rtx.value == "TensorRT-RTX 1.0 can build engines, but not run them here: there is no GPU"
    assert "tensorrt-rtx" not in found.can_run and "tensorrt" in found.can_run
    assert any("tensorrt-rtx" in line and "need a GPU" in line for line in found.verdict) == found.can_build


def test_a_missing_tensorrt_names_its_commands_and_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def require(self) -> None:
            raise BackendUnavailable("not installed", hint="sudo apt-get install python3-libnvinfer")

    monkeypatch.setattr(module, "backend", lambda name: Missing())
    first, second = finding(survey(), "tensorrt").hint.splitlines()
    assert first == "sudo apt-get install python3-libnvinfer"
    assert "--target tensorrt --graph-only" in second


@pytest.mark.parametrize("error", [OSError("libnvinfer.so.10: cannot open"), AttributeError("no 'Builder'")])
def test_a_broken_library_is_a_finding_and_no_crash(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Broken:
        def require(self) -> None:
            raise error

    monkeypatch.setattr(module, "backend", lambda name: Broken() if name == "tensorrt" else Present())
    broken = finding(survey(), "tensorrt")
    assert broken.status == "missing"
    assert str(error) in broken.value
    assert finding(survey(), "cpu").status == "ok"


def board_of(monkeypatch: pytest.MonkeyPatch, python: str = "3.10.12") -> None:
    """Replaces the machine with the recorded Jetson."""
    monkeypatch.setattr(module, "jetson", lambda: jetson(RECORDED / "jetson-orin-nano"))
    monkeypatch.setattr(survey_nvidia.platform, "python_version", lambda: python)


def test_a_jetson_shows_what_its_jetpack_includes(monkeypatch: pytest.MonkeyPatch) -> None:
    board_of(monkeypatch)
    found = survey()
    assert finding(found, "Jetson").value.startswith("NVIDIA Jetson Orin Nano Developer Kit, JetPack 6.2")
    assert finding(found, "JetPack").value == "includes TensorRT 10.3, CUDA 12.6, Python 3.10"
    assert finding(found, "JetPack").status == "fact"


def test_a_python_that_does_not_match_jetpacks_tensorrt_is_a_caution(monkeypatch: pytest.MonkeyPatch) -> None:
    board_of(monkeypatch, python="3.12.3")
    found = finding(survey(), "JetPack")
    assert found.status == "caution"
    assert "/usr/bin/python3.10 -m venv --system-site-packages" in found.hint


def cuda_is(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    class Driver:
        name = package

    monkeypatch.setattr(survey_nvidia, "driver", Driver)
    monkeypatch.setattr(survey_nvidia, "device_properties", lambda: ORIN)
    monkeypatch.setattr(survey_nvidia.metadata, "version", lambda name: "12.9.1")


@pytest.mark.parametrize("package", ["cuda-bindings", "pycuda"])
def test_cuda_is_shown_with_its_package_driver_and_device(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    cuda_is(monkeypatch, package)
    found = finding(survey(), "CUDA")
    assert found.status == "ok"
    assert found.value == f"{package} 12.9.1, driver for CUDA 12.6: Orin, 8.7, memory shared with the CPU"


@pytest.mark.parametrize(
    ("capability", "driver", "status", "value"),
    [
        ((8, 7), "12.6", "ok", "preprocess, decode, nms, attention: sm_87.cubin"),
        ((12, 0), "12.8", "ok", "preprocess, decode, nms, attention: compute_80.ptx"),
        ((7, 2), "12.6", "caution", "preprocess, decode, nms, attention: none for this GPU"),
    ],
)
def test_the_kernels_that_run_on_the_gpu_are_named(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], driver: str, status: str, value: str
) -> None:
    cuda_is(monkeypatch, "pycuda")
    device = msgspec.structs.replace(ORIN, compute_capability=capability, driver_version=driver)
    monkeypatch.setattr(survey_nvidia, "device_properties", lambda: device)
    found = finding(survey(), "CUDA kernels")
    assert (found.status, found.value) == (status, value)
    assert ("expected a GPU of compute capability 7.5 or later" in found.hint) == (status == "caution")


def no_driver() -> None:
    raise BackendUnavailable("CUDA needs the package 'cuda-bindings' or 'pycuda'", hint="pip install pycuda")


@pytest.mark.parametrize(("here", "status"), [(True, "missing"), (False, "fact")])
def test_a_missing_cuda_package_matters_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, here: bool, status: str
) -> None:
    card = Gpu(name="RTX A2000", driver="580.1")
    monkeypatch.setattr(survey_nvidia, "driver", no_driver)
    monkeypatch.setattr(module, "gpus", lambda: (card,) if here else ())
    monkeypatch.setattr(module, "jetson", lambda: None)
    found = finding(survey(), "CUDA")
    assert found.status == status
    assert found.hint == ("pip install pycuda" if here else "")


@pytest.mark.parametrize("error", [RunError("CUDA failed: cuInit gave 999"), TypeError("a stub"), ImportError("libc")])
def test_a_broken_cuda_is_a_finding_and_no_crash(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken() -> None:
        raise error

    board_of(monkeypatch)
    monkeypatch.setattr(survey_nvidia, "driver", broken)
    found = finding(survey(), "CUDA")
    assert found.status == "missing"
    assert str(error) in found.value


def test_it_works_with_none_of_the_libraries_installed() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda',"
        " 'torch', 'onnx', 'onnx_ir'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from edgekit.cli.main import main\n"
        "sys.exit(main(['doctor', '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    status = {item["name"]: item["status"] for item in content["findings"]}
    assert {status[name] for name in set(BACKENDS) - {"null"}} == {"missing"}
    assert content["can_run"] == []
