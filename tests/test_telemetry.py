"""Nothing that EdgeKit starts looks up a vendor's host or writes a vendor's file."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.telemetry import SWITCH, sends_nothing

# Refuses every look-up and connection, and writes down which were asked for.
REFUSE = r"""
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <sys/socket.h>
static void note(const char *what, const char *name) {
    FILE *log = fopen(getenv("NETWORK_LOG"), "a");
    if (log) { fprintf(log, "%s %s\n", what, name ? name : ""); fclose(log); }
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    (void)service; (void)hints; (void)found;
    note("getaddrinfo", name);
    return EAI_FAIL;
}
int connect(int socket, const struct sockaddr *address, socklen_t length) {
    (void)socket; (void)address; (void)length;
    note("connect", "");
    errno = ECONNREFUSED;
    return -1;
}
"""
# In a CI run or a unit test, the vendors' libraries send nothing anyway.
HIDES_IT = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_RUNNING_UNIT_TESTS", "GITHUB_ACTIONS", SWITCH)
PACKAGE_FOLDER = Path(edgekit.__file__).parents[1]

ONNXRUNTIME_ALONE = "import onnxruntime"
OPENVINO_ALONE = "import openvino, time; time.sleep(1)"


class Watched:
    """Runs Python in an empty home folder, without a network."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.home, self.log = folder / "home", folder / "network.log"
        self.home.mkdir()
        kept = {name: value for name, value in os.environ.items() if name not in HIDES_IT and "XDG" not in name}
        self.environment = kept | {
            "HOME": str(self.home),
            "EDGEKIT_CACHE": str(folder / "cache"),
            "LD_PRELOAD": str(library),
            "NETWORK_LOG": str(self.log),
            "PYTHONPATH": str(PACKAGE_FOLDER),
        }

    def python(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True, text=True, env=self.environment | environment, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def lookups(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def files(self) -> list[str]:
        return sorted(str(file.relative_to(self.home)) for file in self.home.rglob("*") if file.is_file())


@pytest.fixture(scope="session")
def refuse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("needs gcc, and a loader that knows LD_PRELOAD")
    folder = tmp_path_factory.mktemp("refuse")
    (folder / "refuse.c").write_text(REFUSE)
    library = folder / "refuse.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "refuse.c"], check=True)
    return library


@pytest.fixture
def watched(tmp_path: Path, refuse: Path) -> Watched:
    return Watched(tmp_path, refuse)


def test_the_watch_sees_what_openvino_does_alone(watched: Watched) -> None:
    watched.python("-c", OPENVINO_ALONE)
    assert "getaddrinfo www.google-analytics.com" in watched.lookups
    assert watched.files


def test_the_watch_sees_what_onnxruntime_does_alone(watched: Watched) -> None:
    watched.python("-c", ONNXRUNTIME_ALONE)
    assert any("onnxruntime" in file for file in watched.files)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_build_run_and_profile_look_nothing_up_and_write_nothing(
    target: str, watched: Watched, write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    model = write_classifier(tmp_path / "small.onnx")
    engine, array = tmp_path / "engine", tmp_path / "x.npy"
    edgekit_command = ("-m", "edgekit")
    watched.python(*edgekit_command, "build", str(model), "--int8", "--target", target, "-o", str(engine))
    shape = edgekit.load(engine).inputs[0].shape
    np.save(array, np.zeros(shape, np.float32))
    watched.python(*edgekit_command, "run", str(engine), str(array))
    watched.python(*edgekit_command, "profile", str(engine), "--runs", "20")
    assert watched.lookups == []
    assert watched.files == []


def test_doctor_says_that_telemetry_is_off_and_sends_none(watched: Watched) -> None:
    said = " ".join(watched.python("-m", "edgekit", "doctor").split())
    assert f"telemetry off: ONNX Runtime's ({SWITCH}=1) and OpenVINO's" in said
    assert "import edgekit before onnxruntime" in said
    assert watched.lookups == []
    assert watched.files == []


def test_a_user_may_switch_onnxruntimes_telemetry_on(watched: Watched) -> None:
    said = " ".join(watched.python("-m", "edgekit", "doctor", **{SWITCH: "0"}).split())
    assert f"OpenVINO's is off, ONNX Runtime's is on: {SWITCH} is '0'" in said


def test_openvinos_own_package_can_be_imported_afterwards(watched: Watched) -> None:
    code = "import edgekit.telemetry as t; t.import_openvino(); import openvino_telemetry; print(openvino_telemetry)"
    assert "openvino_telemetry" in watched.python("-c", code)
    assert watched.lookups == []


ROI_ALIGN = """<ir_version: 9, opset_import: ["" : 20]> g (float[1, 3, 8, 8] x) => (float[1, 3, 2, 2] y)
    <float[1, 4] boxes = {0, 0, 4, 4}, int64[1] first = {0}>
    { y = RoiAlign <mode = "max", sampling_ratio = 2, output_height = 2, output_width = 2> (x, boxes, first) }"""


def test_onnxruntime_prints_nothing_that_users_cannot_act_on(tmp_path: Path) -> None:
    """Loading a RoiAlign for maxima writes a warning to the default log, which no session's options silence."""
    model = tmp_path / "roi.onnx"
    onnx.save(onnx.parser.parse_model(ROI_ALIGN), model)
    load = f"onnxruntime.InferenceSession({str(model)!r}, providers=['CPUExecutionProvider'])"
    for first, printed in (("import onnxruntime", True), ("import edgekit.graph.evaluator, onnxruntime", False)):
        code = [sys.executable, "-c", f"{first}; {load}"]
        done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=PACKAGE_FOLDER)
        assert ("[W:onnxruntime:Default" in done.stderr) is printed, first
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "build", str(model), "--fp32", "--no-profile", "-o", str(tmp_path / "it")],
        capture_output=True, text=True, check=True, cwd=PACKAGE_FOLDER,
    )  # fmt: skip
    assert "onnxruntime:" not in done.stderr


def test_one_place_imports_onnxruntime() -> None:
    importing = {
        file.relative_to(PACKAGE_FOLDER).as_posix()
        for file in (PACKAGE_FOLDER / "edgekit").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) or isinstance(node, ast.Module)
        for each in node.body
        if isinstance(each, ast.Import) and any(alias.name.startswith("onnxruntime") for alias in each.names)
    }
    assert importing == {"edgekit/telemetry.py"}


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("on", True), ("TRUE", True), ("0", False), ("", False)])
def test_the_switch_is_read_as_onnxruntime_reads_it(
    value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, value)
    assert sends_nothing() is expected
