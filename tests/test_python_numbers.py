"""Numbers that no argument of the functions in `edgekit.__all__` takes, and numbers of numpy, which all take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgekit
from edgekit.engine.bundle.manifest import read_manifest
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


def test_numbers_of_numpy_in_mappings_are_numbers(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> g (uint8[1,3,8,8] x, int64 n) => (float[1,3,8,8] y) {'
    text += " f = Cast <to = 1> (x) g = Cast <to = 1> (n) y = Mul (f, g) }"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    made = edgekit.build(
        tmp_path / "m.onnx",
        precision="fp32",
        target="null",
        profile=False,
        output=tmp_path / "e",
        input={"n": np.int64(3)},
        preprocess={"pad": np.int64(7), "divisor": np.float32(1), "mean": np.zeros(3), "std": (np.float64(1), 1, 1)},
    )
    how = read_manifest(made).preprocess
    assert how is not None and (how.pad, how.mean) == (7, (0.0, 0.0, 0.0))
    assert [spec.name for spec in read_manifest(made).inputs] == ["x"]


@pytest.mark.parametrize("value", [10**300, 10**5000, float("nan"), float("inf")], ids=shown)
@pytest.mark.parametrize("name", ["n", "x"])
def test_a_value_that_an_input_does_not_hold_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[1] x, int64 n) => (float[1] y) {'
    text += " g = Cast <to = 1> (n) y = Mul (x, g) }"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(edgekit.EdgeKitError, match=f"input '{name}': expected a value of"):
        edgekit.build(tmp_path / "m.onnx", precision="fp32", target="null", profile=False, input={name: value})


@pytest.mark.parametrize("pad", [10**30, -1, 256, 1.5, float("nan")], ids=shown)
def test_fields_of_the_preprocessing_are_in_their_range(pad: Any) -> None:
    with pytest.raises(edgekit.UsageError, match="preprocess: pad: expected an? "):
        edgekit.build("lenet", target="null", profile=False, preprocess={"pad": pad})
