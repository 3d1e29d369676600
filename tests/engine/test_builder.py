from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.writing import write_bundle
from edgekit.errors import BackendUnavailable, BuildError, GraphError, UsageError
from edgekit.specs import Precision, ShapeRange

FP32 = BuildOptions(precision=Precision.FP32)


@pytest.fixture
def broken(registered: Callable[[str, str], str]) -> Callable[[str], str]:
    return lambda name: registered("broken", f"broken_backends:{name}")


def test_the_engine_is_built_in_a_child_process(graph: Path, folder: Path) -> None:
    result = engine_from_graph(graph, folder, "null", FP32)
    assert result.layers == {"float32": 2}
    assert sorted(p.name for p in folder.iterdir()) == ["engine.json"]
    assert result.seconds > 0
    assert 10_000_000 < result.peak_memory_bytes < 2_000_000_000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Segfaults", ["'broken'", "SIGSEGV", "Segmentation fault", "fusing attention"]),
        ("Aborts", ["'broken'", "SIGABRT"]),
        ("RunsOutOfMemory", ["'broken'", "SIGKILL", "memory"]),
        ("Exits", ["'broken'", "exit code 3", "step 39"]),
        ("Raises", ["'broken'", "exit code 1", "ZeroDivisionError: a bug in the builder"]),
        ("FindsTheDiskFull", ["the disk is full", "engine.json", "bytes free"]),
        ("Forgets", ["'broken'", "engine.bin", "did not"]),
    ],
)
def test_a_builder_that_crashes_is_a_build_error(
    name: str, words: list[str], graph: Path, folder: Path, broken: Callable[[str], str]
) -> None:
    with pytest.raises(BuildError) as caught:
        engine_from_graph(graph, folder, broken(name), FP32)
    assert [word for word in words if word not in str(caught.value)] == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["FillsTheDisk", "FillsTheDiskInItsOwnWords", "FillsTheDiskAndCrashes"])
def test_a_disk_that_fills_up_during_the_build_is_named_by_the_users_path(
    name: str, graph: Path, tiny_disk: Path, broken: Callable[[str], str]
) -> None:
    target = broken(name)
    with pytest.raises(BuildError) as caught, write_bundle(tiny_disk / "out") as staging:
        engine_from_graph(graph, staging, target, FP32)
    file, room = r"( \(\w+\.\w+\))?", r"more than [\d,]+ bytes needed, [\d,]+ bytes free"
    expected = f"cannot write {re.escape(str(tiny_disk))}/out{file}: the disk is full; {room}"
    assert re.fullmatch(expected, caught.value.message), caught.value.message
    assert int(caught.value.message.split("more than ")[1].split()[0].replace(",", "")) > 50_000
    assert caught.value.hint == "make room or choose another place with output"
    assert list(tiny_disk.iterdir()) == []


def test_the_last_lines_of_the_log_are_in_the_error(graph: Path, folder: Path, broken: Callable[[str], str]) -> None:
    with pytest.raises(BuildError) as caught:
        engine_from_graph(graph, folder, broken("Exits"), FP32)
    steps = [line.strip() for line in str(caught.value).splitlines() if "step" in line]
    assert steps == [f"step {line}" for line in range(25, 40)]


@pytest.mark.parametrize(
    ("name", "kind", "message", "hint"),
    [
        ("Refuses", GraphError, "operator 'Odd' is not supported", "replace it"),
        ("NotInstalled", BackendUnavailable, "needs libfoo", "pip install foo"),
    ],
)
def test_errors_of_the_backend_are_passed_on_unchanged(
    name: str, kind: type[Exception], message: str, hint: str, graph: Path, folder: Path, broken: Callable[[str], str]
) -> None:
    with pytest.raises(kind) as caught:
        engine_from_graph(graph, folder, broken(name), FP32)
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == (message, hint)  # type: ignore[attr-defined]


def test_error_on_unknown_target(graph: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="'opnvino': expected .*\ndid you mean openvino"):
        engine_from_graph(graph, folder, "opnvino", FP32)


def test_a_builder_that_takes_too_long_is_stopped(graph: Path, folder: Path, broken: Callable[[str], str]) -> None:
    start = time.monotonic()
    with pytest.raises(BuildError, match=r"longer than 3 s(.|\n)*sleeping"):
        engine_from_graph(graph, folder, broken("Sleeps"), FP32, timeout_s=3)
    assert time.monotonic() - start < 15
    assert list(folder.iterdir()) == []
    assert _gone(int(graph.with_suffix(".pid").read_text()))


BUILDING = """
import signal
import sys
from pathlib import Path
from edgekit.engine.backend import BuildOptions
from edgekit.engine.table import BACKENDS, Entry
from edgekit.engine.builder import engine_from_graph
from edgekit.engine.bundle.writing import write_bundle
from edgekit.specs import Precision, ShapeRange

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test process may ignore it, which is inherited
BACKENDS["broken"] = Entry("broken_backends:Sleeps")
with write_bundle(Path(sys.argv[2])) as staging:
    engine_from_graph(Path(sys.argv[1]), staging, "broken", BuildOptions(precision=Precision.FP32))
"""


@pytest.fixture
def building(graph: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that waits for its builder, which sleeps; and the builder's process id."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BUILDING, str(graph), str(tmp_path / "out")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as parent:
        _wait_for(graph.with_suffix(".pid"))
        yield parent, int(graph.with_suffix(".pid").read_text())


def test_ctrl_c_ends_the_builder(building: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    # In a process of its own: here, an interrupt that comes late would end the tests.
    parent, builder = building
    parent.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in parent.communicate(timeout=60)[1]
    assert _gone(builder)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_killed_build_leaves_neither_bundle_nor_builder(
    building: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    parent, builder = building
    parent.kill()
    parent.wait()
    assert _gone(builder)
    assert not (tmp_path / "out").exists()


def test_modules_in_the_current_folder_are_not_imported(
    graph: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/onnx.py").write_text("raise SystemExit('the wrong onnx')")
    (tmp_path / "here/numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert engine_from_graph(graph, folder, "null", FP32).engine == "engine.json"


@pytest.mark.parametrize(("name", "library"), [("Cpu", "onnxruntime"), ("Openvino", "openvino")])
def test_the_child_process_imports_only_what_it_uses(
    name: str, library: str, tmp_path: Path, folder: Path, registered: Callable[[str, str], str]
) -> None:
    """sympy, which onnx_ir imports, takes the longest to load; PyTorch and onnxscript are for export."""
    pytest.importorskip(library)
    from small_graphs import SHAPE, conv_graph, save

    graph = save(conv_graph(quantized=True, batch="batch"), tmp_path)
    shapes = {"images": ShapeRange(SHAPE, SHAPE, (4, *SHAPE[1:]))}
    options = BuildOptions(precision=Precision.INT8, shapes=shapes)
    target = registered("recorded", f"recorded_imports:{name}")
    assert engine_from_graph(graph, folder, target, options).layers["int8"] == 1
    modules = set(json.loads((folder / "modules.json").read_text()))
    assert {"onnx_ir", "edgekit.lower.split_float_weights", library} <= modules
    assert modules & {"sympy", "onnx_ir._symbolic_shapes", "torch", "onnxscript"} == set()


def _wait_for(file: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.02)


def _gone(process: int, seconds: float = 10) -> bool:
    """Whether the process ends in time; a zombie process has ended too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False
