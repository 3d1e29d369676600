"""TensorRT's logger: one per process, and no garbage collection while the library holds its lock."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest

from edgekit.engine.tensorrt.log import builder_log, last_words, made_with_log, process_log

LEFT_BEHIND = """
import gc
import io
import sys
import tensorrt_rtx as library
from edgekit.engine.tensorrt.log import builder_log, made_with_log, process_log

class Cycle:
    pass

class Collects(io.StringIO):
    'Stands for an allocation that sets off a collection, which may be anywhere in a logger.'

    def write(self, text):
        if gc.isenabled():
            gc.collect()
        return super().write(text)

def leave_behind(log):
    cycle = Cycle()
    cycle.itself, cycle.builder = cycle, library.Builder(log)

gc.set_threshold(10**6)
"""


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


@pytest.mark.parametrize("log", ["process_log(library)", "library.Logger()"])
@pytest.mark.parametrize("kind", ["Builder", "Runtime"])
def test_a_builder_among_the_garbage_does_not_stop_the_next_one_for_ever(kind: str, log: str, library: Any) -> None:
    """The library takes a lock to free an object, and holds it while it warns about a second logger."""
    script = LEFT_BEHIND + (
        f"leave_behind({log})\n"
        "sys.stderr = Collects()\n"
        "with builder_log(library) as told:\n"
        f"    made = made_with_log(library.{kind}, told)\n"
        "print(type(made).__name__, 'differs' in sys.stderr.getvalue())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"{kind} {'Logger' in log}\n"), done.stderr


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_afterwards_as_before(collects: bool) -> None:
    def kind(*arguments: int) -> tuple[bool, tuple[int, ...]]:
        return gc.isenabled(), arguments

    def fails() -> None:
        raise TypeError("null")

    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        assert made_with_log(kind, 1, 2) == (False, (1, 2))
        assert gc.isenabled() is collects
        with pytest.raises(TypeError):
            made_with_log(fails)
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


def test_builders_and_runtimes_have_one_logger(library: Any) -> None:
    with builder_log(library) as log:
        assert log is process_log(library)
        builder = made_with_log(library.Builder, log)
        runtime = made_with_log(library.Runtime, log)
        assert builder.logger is log and runtime.logger is log
        assert not log.cautions


def test_a_builders_words_are_shown_and_a_runtimes_kept(library: Any, capsys: pytest.CaptureFixture[str]) -> None:
    levels = library.ILogger
    with builder_log(library) as log:
        for severity in (levels.VERBOSE, levels.INFO, levels.WARNING, levels.ERROR):
            log.log(severity, f"of {severity.name}")
        assert capsys.readouterr().err == "info: of INFO\nwarning: of WARNING\nerror: of ERROR\n"
    log.log(levels.INTERNAL_ERROR, "of a\n  runtime")
    assert capsys.readouterr() == ("", "")
    assert last_words(log) == "of ERROR; of a runtime"
    assert log.take() == "of ERROR; of a runtime"
    assert log.take() == ""


def test_warnings_are_the_last_words_where_there_are_no_errors(library: Any) -> None:
    with builder_log(library) as log:
        assert last_words(log) == "it gives no reason"
        for number in range(6):
            log.log(library.ILogger.WARNING, f"warning {number // 2}")
        assert last_words(log) == "warning 1; warning 2"
    with builder_log(library) as log:
        assert last_words(log) == "it gives no reason"


def test_the_log_is_no_longer_shown_after_a_build_that_failed(library: Any) -> None:
    with pytest.raises(RuntimeError), builder_log(library):
        raise RuntimeError("out of memory")
    assert not process_log(library).shown
