"""A builder that crashes, is killed or hangs inside TensorRT-RTX does not affect the caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.engine.backend import BuildOptions
from edgekit.engine.builder import engine_from_graph
from edgekit.errors import BuildError
from edgekit.specs import Precision

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

FP32 = BuildOptions(precision=Precision.FP32)


@pytest.fixture
def crashing(registered: Callable[[str, str], str]) -> Callable[[str], str]:
    return lambda name: registered("crashing", f"crashing_tensorrt:{name}")


def test_attention_that_crashes_the_library_is_a_build_error(tmp_path: Path, folder: Path) -> None:
    from typed_graphs import attention_graph, save

    graph = save(attention_graph(of_one_tensor=True), tmp_path)
    with pytest.raises(BuildError) as caught:
        engine_from_graph(graph, folder, "tensorrt-rtx", FP32)
    words = ["'tensorrt-rtx'", "SIGSEGV", "Compiler backend is used during engine build", "in build"]
    assert [word for word in words if word not in str(caught.value)] == []
    assert list(folder.iterdir()) == []


def test_attention_that_may_not_be_decomposed_fails_with_the_librarys_message(
    tmp_path: Path, folder: Path, crashing: Callable[[str], str]
) -> None:
    from typed_graphs import attention_graph, save

    with pytest.raises(BuildError, match="is_decomposable"):
        engine_from_graph(save(attention_graph(), tmp_path), folder, crashing("LeavesAttentionWhole"), FP32)


@pytest.mark.parametrize(
    ("name", "words"),
    [("Aborts", ["SIGABRT"]), ("IsKilledForMemory", ["SIGKILL", "memory", "swap"])],
)
def test_a_builder_that_crashes_during_the_build_is_a_build_error_with_its_last_lines(
    name: str, words: list[str], graph: Path, folder: Path, crashing: Callable[[str], str]
) -> None:
    with pytest.raises(BuildError) as caught:
        engine_from_graph(graph, folder, crashing(name), FP32)
    expected = [*words, "'crashing'", "Compiler backend is used during engine build"]
    assert [word for word in expected if word not in str(caught.value)] == []
    assert list(folder.iterdir()) == []


def test_a_builder_that_gets_no_more_memory_is_a_build_error(
    graph: Path, folder: Path, crashing: Callable[[str], str]
) -> None:
    with pytest.raises(BuildError, match=r"(?i)alloc|memory"):
        engine_from_graph(graph, folder, crashing("HasNoMemory"), FP32)
    assert list(folder.iterdir()) == []


def test_a_builder_that_takes_too_long_is_stopped_at_work(
    graph: Path, folder: Path, crashing: Callable[[str], str]
) -> None:
    started = time.monotonic()
    with pytest.raises(BuildError, match=r"(?s)took longer than 4 s and was stopped.*Compiler backend"):
        engine_from_graph(graph, folder, crashing("TakesLong"), FP32, timeout_s=4)
    assert time.monotonic() - started < 20
    assert list(folder.iterdir()) == []
