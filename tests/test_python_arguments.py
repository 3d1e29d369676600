"""Wrong arguments of the functions in `edgekit.__all__`: an EdgeKitError that names parameters of Python."""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.specs import Precision

TENSORRT = {"target": "tensorrt"}
NUMBERS = np.zeros((1, 1, 28, 28), np.float32)


class DynamicCache:
    """Named as the cache of Hugging Face Transformers."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "int9"}, "unknown precision 'int9': expected fp32, fp16, bf16 or int8\ndid you mean int8?"),
        ({"precision": None}, "unknown precision None"),
        ({"target": 5}, "unknown target 5"),
        ({"calib": "nofolder"}, "calib='nofolder': expected a folder"),
        ({"calib": 5}, "calib: expected a folder, the name of a set, an array, an iterable of inputs, or a function"),
        ({"calib": list}, "calib: expected a folder, the name of a set, an array"),
        ({"progress": "yes"}, "progress: expected True, False or an object with the methods of edgekit.Progress"),
        ({"input": [Ellipsis, NUMBERS]}, "input: expected tensors as example inputs, got also Ellipsis"),
        ({"input": [DynamicCache(), NUMBERS]}, "got also DynamicCache\ncall the model with use_cache=False"),
        ({"input": NUMBERS}, "input does not go with the recipe 'lenet'"),
        ({"calib_method": "kl"}, "calib_method: expected 'minmax', 'percentile', 'entropy' or 'mse', got 'kl'"),
        ({"calib_images": 0}, "calib_images: expected a whole number from 1 to 2147483647, got 0"),
        ({"keep_float": "head*"}, "keep_float: expected a list of texts, got 'head*'"),
        ({"threads": -1}, "threads: expected a whole number from 0 to 1024, got -1"),
        ({"seed": 1.5}, "seed: expected a whole number from 0 to 4294967295, got 1.5"),
        ({"seed": 10**30}, "seed: expected a whole number from 0"),
        ({"weights": "a\0b"}, "weights: expected a name without a zero byte"),
        ({"labels": "a\0b"}, "labels: expected a name without a zero byte"),
        ({"output": "a\0b"}, "output: expected a name without a zero byte"),
        ({"batch": 10**30}, "batch: expected at most 2,147,483,647, got 1000"),
        ({"profile": "no"}, "profile: expected True or False, got 'no'"),
        ({"shape": "320x320"}, "shape: expected a size for each dimension"),
        ({"input": (1, 3, 2, 2)}, "input: expected a mapping"),
        ({"input": {"x": (0, 1)}}, "input['x']: expected a number of 1 or more"),
        ({"batch": (4, 2, 1)}, "batch: expected a number of 1 or more, or a range (MIN, OPT, MAX)"),
        ({"engine": {"dla": 0}}, "target 'cpu' does not have the option engine['dla']\nadd target='tensorrt'"),
        ({"engine": 5}, "engine: expected a BackendOptions or a mapping"),
        ({"engine": {"sm": 86}, **TENSORRT}, "engine['sm']: expected compute capabilities, as in (86, 89), got 86"),
        ({"engine": {"workspace_mib": -1}, **TENSORRT}, "engine['workspace_mib']: expected a whole number"),
        ({"half_io": True}, "half_io is for GPU targets\nadd target='tensorrt'"),
        ({"weights": "nofile"}, "weights: expected a file that exists (lenet has no published weights), got 'nofile'"),
        ({"precision": "fp32", "calib_method": "mse"}, "calib_method does not go with precision='fp32'"),
        ({"output": 5}, "output: expected a path, got 5"),
    ],
)
def test_a_wrong_argument_of_build_names_the_parameter(given: dict[str, Any], message: str) -> None:
    with pytest.raises(edgekit.UsageError) as caught:
        edgekit.build("lenet", **{"target": "cpu", "profile": False, **given})
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edgekit.load(5), "path: expected a text or a path, got 5"),
        (lambda: edgekit.load("x", threads=-1), "threads: expected a whole number from 0 to 1024, got -1"),
        (lambda: edgekit.compile(5), "bundle: expected a text or a path, got 5"),
        (lambda: edgekit.compare("ab"), "paths: expected a list of two or more paths, got 'ab'"),
        (lambda: edgekit.compare(5), "paths: expected a list"),
        (lambda: edgekit.compare(["a", "b"], rounds=0), "rounds: expected a whole number from 1 to 100000, got 0"),
        (lambda: edgekit.profile("x", runs=0), "runs: expected a whole number from 1 to 10000000, got 0"),
        (lambda: edgekit.profile("x", duration_s="9"), "duration_s: expected more than 0 s, and 2,592,000 s at most"),
        (lambda: edgekit.profile("x", duration_s=float("inf")), "2,592,000 s at most, got inf"),
        (lambda: edgekit.profile("x", warmup=10**9), "warmup: expected a whole number from 0 to 1000000"),
        (lambda: edgekit.inspect("x" * 500), "unknown engine or model"),
        (lambda: edgekit.debug("x" * 500), "unknown engine or model"),
        (lambda: edgekit.debug("lenet", progress=np.zeros(2)), "progress: expected None or an object"),
        (lambda: edgekit.train("x" * 500, data="digits"), "unknown recipe"),
        (lambda: edgekit.profile("x", claim=99, runs=5), "claim and runs: expected one of them"),
        (lambda: edgekit.evaluate("x", data=5), "data: expected a data set, its name or a path, got 5"),
        (lambda: edgekit.estimate("lenet", board=5), "board: expected the name of a board, got 5"),
        (lambda: edgekit.inspect("lenet", precision="int9"), "unknown precision 'int9'"),
        (lambda: edgekit.train(5), "model: expected a text or a path, got 5"),
        (lambda: edgekit.train("lenet", data="digits", changes=5), "changes: expected a mapping"),
        (lambda: edgekit.train("lenet", data="digits", changes={"lr": "x"}), "changes['lr']:"),
        (lambda: edgekit.train("lenet", data="digits", threads=-1), "threads: expected a whole number"),
        (lambda: edgekit.train("lenet", data="digits", output="a.pt"), "output='a.pt': expected a name that ends in"),
        (lambda: edgekit.train("lenet", data="digits", weights="nofile"), "weights: expected a file"),
    ],
)
def test_a_wrong_argument_names_the_parameter(
    call: Callable[[], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(edgekit.UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


def test_type_checkers_know_the_precisions() -> None:
    known = typing.get_args(typing.get_type_hints(edgekit.build)["precision"])
    assert set(known) == {str(precision) for precision in Precision}
    assert (Path(edgekit.__file__).parent / "py.typed").is_file()


def test_notes_are_warnings_at_the_line_of_the_caller(tmp_path: Path, write_classifier: Callable[..., Path]) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        edgekit.build(model, target="null", profile=False, output=tmp_path / "engine", calib_images=2)
        edgekit.build(model, target="null", profile=False, output=tmp_path / "engine", calib_images=2)
    own = [warning for warning in caught if warning.category is edgekit.EdgeKitWarning]
    texts = [str(warning.message) for warning in own]
    assert any("calib=DIR" in text for text in texts)
    assert any(f"the engine at {tmp_path / 'engine'}" in text and "was replaced" in text for text in texts)
    assert {warning.filename for warning in own} == {__file__}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threads": 10**6}, "threads: expected a whole number from 0 to 1024, got 1000000"),
        ({"threads": np.zeros(2)}, "threads: expected a whole number from 0 to 1024"),
        ({"noise_budget": 101}, "noise_budget: expected a whole number from 0 to 100, got 101"),
        ({"calib_method": []}, "calib_method: expected 'minmax'"),
        ({"batch": np.zeros(2)}, "batch: expected a number"),
        ({"head_option": "extras"}, "head_option: expected fields by name"),
    ],
)
def test_numbers_and_types_out_of_range_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(edgekit.UsageError) as caught:
        edgekit.build("lenet", **{"target": "cpu", "profile": False, **given})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        ("evaluate", {"data": "digits", "progress": 3}, "progress: expected None or an object"),
        ("evaluate", {"data": "digits", "split": np.zeros(3)}, "split: expected train, val, test"),
        ("train", {"labels": 3}, "labels: expected a text or a path, got 3"),
        ("train", {"output": ""}, "output: expected the name of a file"),
        ("train", {"resume": "yes"}, "resume: expected True or False, got 'yes'"),
        ("estimate", {"board": 3}, "board: expected the name of a board, got 3"),
        ("compare", {"limits": "p50"}, "limits: expected a list of limits"),
    ],
)
def test_wrong_types_are_named_by_every_function(
    function: str, given: dict[str, Any], message: str, make_bundle: Callable[..., Path]
) -> None:
    engine = make_bundle("engine")
    first: Any = {"train": "lenet", "estimate": "lenet", "compare": [engine, engine]}.get(function, engine)
    with pytest.raises(edgekit.EdgeKitError) as caught:
        getattr(edgekit, function)(first, **given)
    assert message in str(caught.value)
