from __future__ import annotations

import dataclasses
import inspect
import shlex
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.config import (
    BackendOptions,
    BuildConfig,
    CalibrationConfig,
    ModelConfig,
    OutputConfig,
    TargetConfig,
    build_command,
)
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.null import Null
from edgekit.engine.table import BACKENDS, Entry
from edgekit.errors import UsageError
from edgekit.option import option, option_fields
from edgekit.pipeline.validate import build_config
from edgekit.recipe.schema import Preprocess

GROUPS = (ModelConfig, CalibrationConfig, TargetConfig, OutputConfig)

ARGUMENTS: list[dict[str, Any]] = [
    {"model": "yolov3", "target": "cpu"},
    {"model": "yolov3", "precision": "fp32", "target": "openvino", "profile": False},
    {
        "model": "a model.onnx",
        "target": "cpu",
        "calib": "my photos",
        "calib_method": "mse",
        "calib_images": 7,
        "keep_float": ("head*", "/stem"),
        "output": Path("out/t"),
        "input": {"x:0": (1, 3, 8, 8), "ids": (1, 4)},
        "preprocess": {"color": "bgr", "mean": (0.5, 0.25, 0.125), "pad": 0},
        "threads": 2,
    },
    {"model": "m:f", "target": "null", "input": {"": (1, 8)}, "opset": 19, "seed": 3},
    {"model": "yolov3", "target": "cpu", "weights": "w.weights", "shape": (320, 416)},
    {"model": "cfg/net.cfg", "target": "cpu", "weights": "net.weights", "shape": (320, 416)},
    {"model": "yolov3", "precision": "fp16", "target": "tensorrt-rtx", "batch": (1, 4, 16), "half_io": True},
    {
        "model": "yolov3",
        "precision": "bf16",
        "target": "tensorrt",
        "batch": 8,
        "graph_only": True,
        "engine": {
            "sm": (86, 120),
            "workspace_mib": 512,
            "timing_cache": "t.cache",
            "dla": 0,
            "version_compatible": True,
            "hardware_compatible": True,
            "refittable": True,
            "strip_weights": True,
        },
    },
    {"model": "yolov3", "target": "cpu", "preprocess": Preprocess()},
    {
        "model": "m.onnx",
        "precision": "fp32",
        "target": "cpu",
        "shape": ((320, 416, 640), 416),
        "input": {"ids:1": ((1, 1, 8), (16, 128, 512)), "x": ((1, 1, 8), 4)},
    },
    {"model": "m.onnx", "target": "cpu", "preprocess": {"color": "gray", "mean": (0.5,), "resize": "crop"}},
    {"model": "m.onnx", "target": "cpu", "preprocess": {"interpolation": "nearest", "antialias": False}},
]


def asked_by(command: str, monkeypatch: pytest.MonkeyPatch) -> BuildConfig:
    """Returns the config of a command line."""
    asked: list[BuildConfig] = []

    def build(model: str, *, progress: object, **options: Any) -> Path:
        asked.append(build_config(model=model, **options))
        raise UsageError("seen")

    module = types.ModuleType("edgekit.pipeline.build")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgekit.pipeline.build", module)
    assert main(shlex.split(command)[1:]) == 2
    return asked[0]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_the_rebuild_command_asks_for_the_same_config(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(**arguments)
    assert asked_by(build_command(config), monkeypatch) == config


def test_the_command_names_the_given_fields_and_no_others() -> None:
    config = build_config(model="yolov3", target="cpu", preprocess={"pad": 128, "mean": (0.0,) * 3})
    words = shlex.split(build_command(config))
    given = [words[i + 1] for i, word in enumerate(words) if word == "--preprocess"]
    assert given == ["pad=128", "mean=0.0,0.0,0.0"]
    assert words[:6] == ["edgekit", "build", "yolov3", "--int8", "--target", "cpu"]


def test_a_module_has_no_command() -> None:
    assert build_command(build_config(model=object(), target="cpu")) == ""


def test_every_option_of_a_config_is_a_parameter_of_build_and_the_reverse() -> None:
    parameters = inspect.signature(edgekit.build).parameters
    declared = {field.name: field for group in GROUPS for field, _ in option_fields(group)}
    assert set(parameters) == {*declared, "model", "engine", "progress"}
    for name, field in declared.items():
        default = None if field.default is dataclasses.MISSING else field.default
        assert parameters[name].default == default, name
    documented = inspect.getdoc(edgekit.build) or ""
    assert [name for name in parameters if f"\n    {name}: " not in documented] == []


def literals(of: Any) -> Iterator[Any]:
    """The values of a literal type, or of a union of such."""
    for value in typing.get_args(of):
        yield from literals(value) if typing.get_args(value) else [value]


def test_the_literal_types_of_build_are_the_values_that_exist() -> None:
    types_of = typing.get_type_hints(inspect.unwrap(edgekit.build))
    literals = {name: typing.get_args(types_of[name]) for name in ("precision", "target", "calib_method")}
    flat = {
        name: {v for value in values for v in (typing.get_args(value) or (value,))} for name, values in literals.items()
    }
    options = {found.name: found for group in GROUPS for _, found in option_fields(group)}
    assert flat["precision"] == set(options["precision"].choices or ())
    assert flat["target"] - {type(None)} == set(BACKENDS)
    assert flat["calib_method"] - {type(None)} == set(options["calib_method"].choices or ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyOptions(BackendOptions):
    """The options of a backend that exists in this test alone."""

    glaze: str | None = option(None, "Colour of the glaze.", metavar="COLOUR")


class Toy(Null):
    """The null backend under another name."""

    name = "toy"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registers the toy backend and rebuilds the command line with its options."""
    module = types.ModuleType("toy_backend")
    module.Toy, module.ToyOptions = Toy, ToyOptions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_backend", module)
    # The builder runs in a process of its own, where the module is not: it builds what the toy stands for.
    monkeypatch.setitem(BACKENDS, "toy", Entry("edgekit.engine.null:Null", "toy_backend:ToyOptions"))
    monkeypatch.delitem(sys.modules, "edgekit.cli.build", raising=False)
    yield
    sys.modules.pop("edgekit.cli.build", None)


def test_an_option_is_declared_in_one_place(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build", "--help"]) == 0
    assert "--glaze COLOUR" in capsys.readouterr().out
    command = ["build", "linear-regression", "--fp32", "--target", "toy", "--glaze", "blue", "--no-profile", "-o", "t"]
    assert main(command) == 0
    manifest = read_manifest(tmp_path / "t")
    assert manifest.engine_options == {"glaze": "blue"}
    assert manifest.options["glaze"] == "blue"
    assert shlex.split(manifest.rebuild)[1:] == [
        "build", "linear-regression", "--fp32", "--target", "toy", "--glaze", "blue", "--output", "t", "--no-profile",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"target 'cpu' does not have the option engine\['glaze'\]") as caught:
        edgekit.build("linear-regression", target="cpu", engine={"glaze": "blue"})
    assert caught.value.hint == "add target='toy', or leave it out"
    with pytest.raises(UsageError, match="engine: unknown option 'glase' for target 'toy'") as caught:
        build_config(model="m.onnx", target="toy", engine={"glase": "blue"})
    assert caught.value.hint == "did you mean glaze?"


def test_the_old_spelling_of_graph_only_works_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--graph-only" in shown and "--plan-only" not in shown
    assert asked_by("edgekit build yolov3 --target tensorrt --plan-only", monkeypatch).target.graph_only
