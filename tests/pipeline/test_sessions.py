"""The sessions of ONNX Runtime in a build: the time of each grows faster than the graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import pytest

import edgekit
from edgekit.engine.onnxruntime.tiles import has_wrong_columns
from tools.bench.grown_graphs import grown


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each session of this process, how many of those before it still exist when it is loaded."""
    found: list[int] = []
    sessions: weakref.WeakSet[onnxruntime.InferenceSession] = weakref.WeakSet()
    load: Callable[..., None] = onnxruntime.InferenceSession.__init__

    def counted(session: onnxruntime.InferenceSession, *arguments: Any, **options: Any) -> None:
        found.append(len(sessions))
        load(session, *arguments, **options)
        sessions.add(session)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", counted)
    return found


@pytest.mark.parametrize(
    ("precision", "sessions"),
    [
        # The graph, the original while the graph waits to be compared with it, the engine.
        ("fp32", [0, 1, 0]),
        # Between them: calibration, the means that correct biases, the graph with Q/DQ pairs.
        ("int8", [0, 1, 0, 0, 0, 0]),
    ],
)
def test_a_build_has_no_more_sessions_than_these(
    precision: Literal["fp32", "int8"],
    sessions: list[int],
    alive: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that builds the engine has one more."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))  # without ranges of an earlier build
    has_wrong_columns()  # two small sessions, once in a process
    alive.clear()
    model = grown("residual", 12, tmp_path / "model.onnx")
    edgekit.build(model, precision=precision, target="cpu", profile=False, output=tmp_path / "engine", progress=False)
    assert alive == sessions
