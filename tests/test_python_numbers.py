"""Numbers that no argument of the functions in `edgekit.__all__` takes, and numbers of numpy, which all take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.runtime.session import Session

FUNCTIONS = ("build", "compare", "debug", "estimate", "evaluate", "inspect", "load", "profile", "train")
METHODS = ("classify", "detect", "postprocess", "predict", "stream")
SOME = 1.5
NONSENSE: tuple[Any, ...] = (
    10**30, -(10**30), 10**5000, float("nan"), float("inf"), SOME, True, np.True_, "5", [1], {}, 1j, np.zeros(2), -1
)  # fmt: skip
REAL = {"claim", "duration_s", "seconds", "checkpoint_s"}
"""Arguments that take 1.5."""


def numeric(function: Callable[..., Any]) -> Iterator[str]:
    """The parameters whose annotation has numbers alone, apart from None."""
    for name, parameter in inspect.signature(function).parameters.items():
        words = set(re.findall(r"\w+", str(parameter.annotation)))
        if words & {"int", "float"} and not words & {"Callable", "Mapping", "Sequence", "str"}:
            yield name


ARGUMENTS = [(name, argument) for name in FUNCTIONS for argument in numeric(getattr(edgekit, name))]
WRONG = [(*each, value) for each in ARGUMENTS for value in NONSENSE if not (each[1] in REAL and value is SOME)]


def shown(value: Any) -> str:
    return "10**5000" if isinstance(value, int) and value > 10**100 else str(value)


def test_every_function_has_numbers() -> None:
    assert {"runs", "duration_s", "warmup", "threads", "seed", "claim", "streams"} == set(numeric(edgekit.profile))
    assert len(ARGUMENTS) > 25


@pytest.mark.parametrize(("function", "argument", "value"), WRONG, ids=shown)
def test_a_number_out_of_any_sense_is_refused_by_name(
    function: str,
    argument: str,
    value: Any,
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = make_bundle("engine")
    of_model = function in ("build", "debug", "estimate", "inspect", "train")
    first: Any = [engine, engine] if function == "compare" else "lenet" if of_model else engine
    more: dict[str, Any] = {"evaluate": {"data": "digits"}, "train": {"data": "digits"}}.get(function, {})
    with pytest.raises(edgekit.UsageError) as caught:
        getattr(edgekit, function)(first, **more, **{argument: value})
    assert str(caught.value).startswith(f"{argument}: expected ")
    assert ", got " in str(caught.value)


@pytest.mark.parametrize("value", NONSENSE, ids=shown)
@pytest.mark.parametrize("argument", ["score_threshold", "iou_threshold", "max_detections"])
def test_a_session_refuses_them_too(argument: str, value: Any, detector: Path, picture: Path) -> None:
    with edgekit.load(detector) as session, pytest.raises(edgekit.UsageError) as caught:
        session.detect(picture, **{argument: value})
    assert str(caught.value).startswith(f"{argument}: expected ")


@pytest.mark.parametrize("value", NONSENSE, ids=shown)
def test_a_stream_refuses_them_too(value: Any, detector: Path, picture: Path) -> None:
    with edgekit.load(detector) as session, pytest.raises(edgekit.UsageError, match="batch"):
        session.stream(str(picture), batch=value)


@pytest.mark.parametrize("sizes", [{"x": (10**30,)}, {"x": (1.5,)}, {"x": (True,)}, {"x": ("1",)}, {"x": 5}])
def test_sizes_are_whole_numbers_of_a_dimension(sizes: Any, make_bundle: Callable[..., Path]) -> None:
    for function in (edgekit.profile, lambda engine, sizes: edgekit.compare([engine, engine], sizes=sizes)):
        with pytest.raises(edgekit.UsageError, match="sizes: expected shapes by name"):
            function(make_bundle("engine"), sizes=sizes)


def test_numbers_of_numpy_are_numbers(arrays_engine: Path) -> None:
    report = edgekit.profile(
        arrays_engine,
        runs=np.int64(3),
        duration_s=np.float32(30),
        warmup=np.uint8(1),
        threads=np.int32(1),
        seed=np.array(7),
        streams=np.int16(1),
    )
    assert (report.runs, report.warmup, report.threads) == (3, 1, 1)
    from edgekit.measure.reports import json_from_report

    assert json_from_report(report)


def test_parameters_of_session_are_those_that_are_tested() -> None:
    found = {name for method in METHODS for name in numeric(getattr(Session, method))}
    assert found == {"score_threshold", "iou_threshold", "max_detections", "top", "batch"}
