from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import edgekit
from edgekit import extras
from edgekit.data.examples import data_set
from edgekit.data.generated.digits import digit_arrays
from edgekit.device.cuda import choose as cuda
from edgekit.device.cuda.packages import CUDA_12, CUDA_13, bindings_command
from edgekit.engine.backend import backend
from edgekit.engine.source_graph import read_graph
from edgekit.engine.table import BACKENDS
from edgekit.errors import BackendUnavailable, needs_extra
from edgekit.evaluation.metrics import require_pycocotools

PACKAGE = Path(edgekit.__file__).parent
ROOT = PACKAGE.parent
ANOTHER_PROJECT = re.compile(r"pip3? install[^;]*\bedgekit|\bedgekit(-compiler)?\[")

LIBRARIES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "cuda.bindings", "pycuda", "pycuda.driver")


@pytest.fixture(scope="session")
def built_metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata of the built wheel, as an installation has it."""
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys\nfrom hatchling.build import build_wheel\nbuild_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder, [name for name in file.namelist() if ".dist-info/" in name])
    return folder


@pytest.fixture
def installed(built_metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(built_metadata)


def not_installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Only these packages, of these versions."""

    def version(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(metadata, "version", version)


def test_the_wheel_is_named_edgekit_compiler_and_requires_no_edgekit(built_metadata: Path) -> None:
    (found,) = metadata.distributions(path=[str(built_metadata)])
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in found.requires or ()}
    assert found.metadata["Name"] == extras.DISTRIBUTION == "edgekit-compiler"
    assert {"click", "torch", "openvino", "cuda-bindings", "pytest"} <= names
    assert {name for name in names if name.startswith("edgekit")} <= {"edgekit-compiler"}
    assert {entry.name for entry in found.entry_points} == {"edgekit"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_the_names_for_a_folder_that_is_not_installed_match_the_metadata(extra: str) -> None:
    assert set(extras._of_extra(extra)) == set(extras.EXTRAS[extra])


@pytest.mark.usefixtures("installed")
def test_a_command_names_the_packages_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    not_installed(monkeypatch)
    assert extras.install_command("openvino") == "pip install 'openvino>=2026.1'"
    assert extras.install_command("build", "onnx", "onnx-ir") == "pip install 'onnx-ir>=0.2.1' 'onnx>=1.18'"


@pytest.mark.usefixtures("installed")
def test_a_command_names_only_what_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"ml_dtypes": "0.6.0", "onnx_ir": "0.2.1", "onnxruntime": "1.23", "onnxscript": "0.7", "torch": "2.9.0"}
    present["tomli_w"] = "1.2.0"
    not_installed(monkeypatch, **present, onnx="1.17.0")
    assert extras.install_command("build") == "pip install 'onnx>=1.18' 'safetensors>=0.5'"


@pytest.mark.usefixtures("installed")
def test_an_older_version_is_another_one_than_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    not_installed(monkeypatch, onnx="1.17.0", onnxruntime="1.23.2", onnxruntime_gpu="1.10")
    assert extras.other_version("build", "onnx") == ">=1.18"
    assert extras.other_version("cpu", "onnxruntime") == ""
    assert extras.other_version("openvino", "openvino") == ""  # not installed
    assert extras.other_version("cpu", "onnxruntime-gpu") == ""


@pytest.mark.usefixtures("installed")
def test_a_command_names_all_packages_where_none_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    not_installed(monkeypatch, cuda_bindings="13.5.0", tensorrt_rtx_cu13="1.7.1.116")
    assert extras.install_command("rtx") == "pip install 'cuda-bindings>=13.0' 'tensorrt-rtx-cu13>=1.7'"


def test_without_metadata_a_command_names_the_packages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    not_installed(monkeypatch)
    assert extras.install_command("cpu") == "pip install onnxruntime"
    assert extras.install_command("train", "scikit-learn") == "pip install scikit-learn"


@pytest.mark.parametrize(
    ("release", "driver", "bindings"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1", "", CUDA_12),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "", CUDA_13),
        ("", "570.124.06", CUDA_12),
        ("", "580.65.06", CUDA_13),
        ("", "595.45.04", CUDA_13),
    ],
)
def test_the_version_of_cuda_bindings_depends_on_the_driver(
    release: str, driver: str, bindings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    if release:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/nv_tegra_release").write_text(release)
    else:
        card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text("Model: \t\t NVIDIA RTX A2000\n")
        version = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue"
        (tmp_path / "proc/driver/nvidia/version").write_text(version)
    assert bindings_command(root=tmp_path) == f"pip install '{bindings}'"


def test_both_versions_of_cuda_bindings_are_named_where_the_driver_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert bindings_command("tensorrt-rtx-cu13>=1.7", root=tmp_path) == (
        "pip install 'tensorrt-rtx-cu13>=1.7' 'cuda-bindings>=13.0'; "
        "with a driver for CUDA 12: pip install 'cuda-bindings>=12.6,<13'"
    )


def test_a_version_of_cuda_that_the_caller_knows_is_used() -> None:
    assert bindings_command(cuda="12.6", options="--force-reinstall") == (
        "pip install --force-reinstall 'cuda-bindings>=12.6,<13'"
    )
    assert bindings_command(cuda="13.2") == "pip install 'cuda-bindings>=13.0'"


def literals(file: Path) -> list[str]:
    """The string literals of a file; of an f-string, its source."""
    text = file.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return plain + [ast.unparse(node) for node in nodes if isinstance(node, ast.JoinedStr)]


def test_no_text_installs_the_other_project_of_that_name() -> None:
    found = {file.relative_to(ROOT).as_posix(): text for file in PACKAGE.rglob("*.py") for text in literals(file)}
    assert any("pip install" in text for text in found.values())
    assert {file: text for file, text in found.items() if ANOTHER_PROJECT.search(text)} == {}


def hint_of(act: Callable[[], object]) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        act()
    return caught.value.hint


def inspect_without_packages() -> None:
    with needs_extra("inspecting a model", "build"):
        raise ImportError("No module named 'torch'", name="torch")


def hints(folder: Path) -> dict[str, str]:
    found = {name: hint_of(lambda name=name: backend(name).require()) for name in BACKENDS if name != "null"}
    return found | {
        "cuda": hint_of(cuda.driver),
        "digits": hint_of(lambda: data_set("digits")),
        "eval": hint_of(require_pycocotools),
        "onnx": hint_of(lambda: read_graph(folder / "graph.onnx")),
        "build": hint_of(inspect_without_packages),
    }


@pytest.mark.parametrize("metadata_is_there", [True, False])
def test_every_hint_names_packages_and_never_edgekit(
    metadata_is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if metadata_is_there:
        request.getfixturevalue("installed")
    for name in (*LIBRARIES, "onnx_ir", "pycocotools", "pycocotools.cocoeval", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    for remembered in (cuda.driver, digit_arrays):
        remembered.cache_clear()
    found = hints(tmp_path)
    cuda.driver.cache_clear()
    assert {name: hint for name, hint in found.items() if ANOTHER_PROJECT.search(hint)} == {}
    assert {name: hint for name, hint in found.items() if "pip install" not in hint} == {}
    for name, package in {
        "cpu": "onnxruntime",
        "openvino": "openvino",
        "tensorrt-rtx": "tensorrt-rtx-cu13",
        "cuda": "cuda-bindings",
        "digits": "scikit-learn",
        "eval": "pycocotools",
        "onnx": "onnx-ir",
        "build": "torch",
    }.items():
        assert package in found[name]
