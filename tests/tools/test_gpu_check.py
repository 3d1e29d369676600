from __future__ import annotations

import ctypes
import json
import shutil
import stat
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_tensorrt
import msgspec
import numpy as np
import pytest
from fake_cuda import FakeDriver

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.null import Specs, Zeros
from edgekit.engine.tensorrt.runtime import load_engine
from edgekit.runtime.detections import Detections
from edgekit.runtime.session import Session
from tests.kernels.attention_in_numpy import numpy_kernels
from tools.gpu_check import __main__ as gpu_check
from tools.gpu_check import attention_engines, engines, frames, sanitizer, step, tests
from tools.gpu_check.page import page_from_result

ROOT = Path(gpu_check.__file__).parents[2]


@pytest.fixture
def no_gpu() -> None:
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        pytest.skip("there is an NVIDIA driver here")


@pytest.fixture
def python_that(tmp_path: Path) -> Callable[[str], str]:
    """A program in Python's place, which does what the shell is told; ``$4`` is the file for the answer."""

    def write(commands: str) -> str:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    return write


@pytest.mark.usefixtures("no_gpu")
def test_without_a_device_it_says_so_and_ends_with_status_3(tmp_path: Path) -> None:
    output = tmp_path / "results" / "gpu.json"
    assert gpu_check.main(["--output", str(output), "--commit", "abc"]) == 3
    result = json.loads(output.read_text())
    assert result["device"] is None and result["commit"] == "abc" and list(result["steps"]) == ["device"]
    assert "libcuda.so.1" in result["steps"]["device"]["error"]
    assert result["steps"]["device"]["kind"] == "BackendUnavailable"


def test_what_a_step_finds_is_recorded(python_that: Callable[[str], str], tmp_path: Path) -> None:
    python = python_that("""echo '{"ok": true, "figures": {"a": 1}}' > "$4" """)
    found = gpu_check._step(python, "versions", tmp_path, quick=False)
    assert found.pop("seconds") > 0
    assert found == {"ok": True, "figures": {"a": 1}}


def test_a_step_that_crashes_is_recorded_with_its_last_words(python_that: Callable[[str], str], tmp_path: Path) -> None:
    found = gpu_check._step(
        python_that(f"echo last words of {ROOT}/edgekit; kill -SEGV $$"), "versions", tmp_path, quick=False
    )
    assert (
        not found["ok"] and found["error"] == "killed by SIGSEGV" and found["log"] == ["last words of CHECKOUT/edgekit"]
    )


def test_a_step_that_hangs_is_ended(
    python_that: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu_check.STEPS, "versions", 0.2)
    found = gpu_check._step(python_that("exec sleep 30"), "versions", tmp_path, quick=False)
    assert found["error"] == "not done after 0.2 s" and found["seconds"] < 10


def test_one_step_that_fails_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(python: str, name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
        assert quick
        return {"ok": name != "tests", "figures": {"name": "GPU"}, "error": "no luck\nat all", "seconds": 1}

    monkeypatch.setattr(gpu_check, "_step", found)
    output = tmp_path / "gpu.json"
    assert gpu_check.main(["--output", str(output), "--quick"]) == 1
    result = json.loads(output.read_text())
    assert list(result["steps"]) == list(gpu_check.STEPS) and result["device"] == {"name": "GPU"}
    assert "tests: no luck\n" in capsys.readouterr().err
    assert gpu_check.main(["--output", str(output), "--quick", "--only", "device", "--only", "versions"]) == 0
    assert list(json.loads(output.read_text())["steps"]) == ["device", "versions"]
    assert "| versions | passed |" in output.with_suffix(".md").read_text()


def test_a_folder_without_wheels_is_recorded_and_the_present_environment_used(tmp_path: Path) -> None:
    python, found = gpu_check._environment(tmp_path, tmp_path)
    assert python == sys.executable and not found["ok"] and "expected wheels" in found["error"]


def test_every_step_that_is_listed_exists() -> None:
    assert list(step.steps()) == list(gpu_check.STEPS)


def test_a_step_writes_what_it_found_and_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad(quick: bool) -> dict[str, Any]:
        raise ZeroDivisionError("by nothing")

    known = {"good": lambda quick: {"a": quick}, "off": lambda quick: {"a": 1, "problems": ["too far"]}, "bad": bad}
    monkeypatch.setattr(step, "steps", lambda: known)
    answer = tmp_path / "answer.json"
    assert step.main(["good", str(answer), "--quick"]) == 0
    assert json.loads(answer.read_text()) == {"ok": True, "figures": {"a": True}}
    assert step.main(["off", str(answer)]) == 1
    assert json.loads(answer.read_text()) == {"ok": False, "figures": {"a": 1}, "error": "too far"}
    assert step.main(["bad", str(answer)]) == 1
    assert json.loads(answer.read_text()) == {"ok": False, "error": "by nothing", "kind": "ZeroDivisionError"}
    assert "Traceback" in capsys.readouterr().err


def test_versions_are_those_of_what_is_installed() -> None:
    assert step.steps()["versions"](True)["numpy"] == np.__version__


@pytest.mark.usefixtures("no_gpu")
def test_tests_on_the_gpu_are_counted() -> None:
    found = tests.run_tests()
    assert found["skipped"] > 10 and found["problems"] == ["no test has passed"]
    assert all("needs a CUDA device" in reason for reason in found["skips"].values())


def test_failures_in_a_report_are_problems() -> None:
    report = ElementTree.fromstring(
        '<testsuite><testcase name="a"/><testcase name="b"><failure message="2 is not 3"/></testcase>'
        '<testcase name="c"><skipped message="no time"/></testcase></testsuite>'
    )
    assert tests.counted(report) == {
        "passed": 1, "failed": 1, "skipped": 1, "skips": {"c": "no time"}, "problems": ["b: 2 is not 3"],
    }  # fmt: skip
    assert tests.counted(ElementTree.fromstring("<testsuite/>"))["problems"] == ["no test has passed"]


@pytest.fixture
def gpu_session(arrays_engine: Path, tmp_path: Path) -> Any:
    """A session of a TensorRT engine on a fake GPU, which computes ``2 x + 1``."""
    driver = FakeDriver()
    plan = tmp_path / "engine.plan"
    plan.write_text(json.dumps({"inputs": {"x": [2, 8]}}))
    engine = load_engine(fake_tensorrt.library(driver), plan, name="tensorrt", cuda=driver)
    manifest = msgspec.structs.replace(read_manifest(arrays_engine), inputs=engine.inputs, outputs=engine.outputs)
    with Session(engine, manifest) as session:
        yield session


def test_times_are_taken_with_a_graph_and_without(gpu_session: Session) -> None:
    figures = engines.timed(gpu_session, runs=5)
    for kind in ("graph", "no_graph"):
        assert figures[kind]["gpu_ms"]["p50"] == 2
        assert set(figures[kind]) == {"copy_in_ms", "gpu_ms", "copy_out_ms", "enqueue_ms", "end_to_end_ms"}
    assert figures["run_fps"] > 0 and figures["stream_fps"] > 0 and figures["notes"] == []


def test_outputs_that_are_off_are_a_problem(gpu_session: Session) -> None:
    assert engines.compared(gpu_session, gpu_session, "fp32")["problems"] == []
    with Session(Zeros(Specs(gpu_session.inputs, gpu_session.outputs)), gpu_session.manifest) as zeros:
        (problem,) = engines.compared(zeros, gpu_session, "fp16")["problems"]
        assert problem == "outputs: expected an error of at most 0.01 of the max output, got 1"
        (problem,) = engines.compared(gpu_session, zeros, "fp32")["problems"]
        assert "at most 0.001" in problem


def found(*objects: tuple[str, list[float]]) -> Detections:
    names = sorted({label for label, _ in objects})
    return Detections(
        boxes=np.array([box for _, box in objects], np.float32).reshape(-1, 4),
        scores=np.ones(len(objects), np.float32),
        classes=np.array([names.index(label) for label, _ in objects], np.int64),
        names=tuple(names),
    )


def test_an_object_is_found_again_by_its_class_and_place_and_only_once() -> None:
    dog, near, far = [0.0, 0, 10, 10], [1.0, 0, 11, 10], [9.0, 9, 20, 20]
    assert engines.matches(found(("dog", near)), found(("dog", dog))) == 1
    assert engines.matches(found(("cat", near)), found(("dog", dog))) == 0
    assert engines.matches(found(("dog", far)), found(("dog", dog))) == 0
    assert engines.matches(found(("dog", near)), found(("dog", dog), ("dog", dog))) == 1
    assert engines.matches(found(), found(("dog", dog))) == 0


@pytest.fixture(scope="session")
def kernels(on_cpu: Callable[..., Path]) -> Any:
    libraries = [ctypes.CDLL(str(on_cpu(name))) for name in ("preprocess", "decode")]

    class Kernels:
        def __getattr__(self, name: str) -> Any:
            return next(getattr(library, name) for library in libraries if hasattr(library, name))

    return Kernels()


@pytest.mark.slow
def test_frames_are_detected_as_on_the_cpu_and_a_difference_is_a_problem(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "driver", lambda: FakeDriver(kernels=kernels))
    found = frames.check_frames(warmup=1, repeats=1)
    assert found["problems"] == [] and found["graph_us"] > 0 and found["launches_us"] > 0
    detect = frames.detect
    monkeypatch.setattr(frames, "detect", lambda *a, **options: detect(*a, **{**options, "max_detections": 5}))
    problems = frames.check_frames(warmup=0, repeats=1)["problems"]
    assert [problem.split(": expected")[0] for problem in problems] == ["graph", "launches"]


def test_the_sanitizers_words_are_recorded_and_errors_are_problems(tmp_path: Path) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\n[ "$2" = racecheck ] && n=2 || n=0\necho "========= ERROR SUMMARY: $n errors"\n')
    program.chmod(0o755)
    found = sanitizer.check_sanitizer(str(program), checks=("nms",))
    assert found == {
        "memcheck nms": "ERROR SUMMARY: 0 errors",
        "racecheck nms": "ERROR SUMMARY: 2 errors",
        "problems": ["racecheck of nms: ERROR SUMMARY: 2 errors"],
    }
    missing = sanitizer.check_sanitizer("no-such-program")
    assert missing == {"compute-sanitizer": "not installed; it is part of the CUDA toolkit"}


def test_the_page_has_the_device_the_figures_and_the_errors() -> None:
    result = {
        "created": "2026-11-29T00:00:00+00:00", "commit": "abc", "system": "Linux 6", "arch": "aarch64",
        "python": "3.10", "quick": False,
        "device": {"name": "Orin", "compute_capability": [8, 7], "driver_version": "12.6", "package": "pycuda"},
        "steps": {
            "nms": {"ok": True, "seconds": 2.25, "figures": {"cases": [{"images": 1, "median_us": 31.24}], "goal": 50}},
            "decode": {"ok": False, "seconds": 1.0, "error": "expected 3 boxes, got 2"},
        },
    }  # fmt: skip
    page = page_from_result(result)
    assert "- device: Orin, compute capability 8.7, CUDA 12.6 by pycuda" in page
    assert "| nms | passed | 2.2 |\n| decode | failed | 1.0 |" in page
    assert "## nms\n\n- cases: images 1, median_us 31.2\n- goal: 50\n" in page
    assert "## decode\n\n```text\nexpected 3 boxes, got 2\n```" in page


def test_attention_in_engines_is_compared_with_the_single_operators(arrays_engine: Path, tmp_path: Path) -> None:
    driver = FakeDriver(kernels=numpy_kernels)
    library = fake_tensorrt.library(driver)
    with ExitStack() as stack:
        sessions = {}
        for kind, scale, int8 in (("off", 0.25, 0), ("edgekit", 0.5, 0), ("edgekit-int8", 0.25, 1)):
            fields = {"scale": scale, "head_size": 32, "int8": int8}
            plan = {"inputs": {name: [1, 2, 20, 32] for name in "qkv"}, "dtype": "HALF"}
            (tmp_path / kind).mkdir()
            (tmp_path / kind / "plugins.json").write_text("[]")
            file = tmp_path / kind / "engine.plan"
            file.write_text(json.dumps(plan | {"plugin": {"name": "EdgeKitAttention", "fields": fields}}))
            engine = load_engine(library, file, name="tensorrt", cuda=driver)
            manifest = read_manifest(arrays_engine)
            manifest = msgspec.structs.replace(
                manifest, inputs=engine.inputs, outputs=engine.outputs, notes=("attention: 1 of 1", "other")
            )
            sessions[kind] = stack.enter_context(Session(engine, manifest))
        found = attention_engines.compared(sessions, runs=2)
    (problem,) = found["problems"]
    assert problem.startswith("--attention edgekit: expected a relative error of 0.002, got ")
    assert 0 < found["edgekit-int8"]["relative_error"] < 2e-2 and "relative_error" not in found["off"]
    assert all(found[kind]["gpu_ms_p50"] > 0 for kind in sessions)
    assert found["edgekit"]["notes"] == ["attention: 1 of 1"]


@pytest.mark.parametrize(
    ("version", "native"), [("10.3.0", False), ("10.13.3.9", False), ("10.14.1", True), ("11.4.0", True)]
)
def test_onnxs_attention_is_checked_where_tensorrt_reads_it(version: str, native: bool) -> None:
    found = attention_engines.kinds(version)
    assert ("native" in found) == native
    assert {"off", "edgekit", "edgekit-int8"} <= set(found)


def test_the_attention_that_is_checked_in_engines_becomes_a_plugin(tmp_path: Path) -> None:
    model = attention_engines.write_model(tmp_path, tokens=16)
    place = edgekit.build(
        model, precision="fp16", target="tensorrt", attention="edgekit", graph_only=True, output=tmp_path / "engine"
    )
    assert "attention: 1 of 1 run as EdgeKit's kernel, a plugin of TensorRT" in read_manifest(place).notes
