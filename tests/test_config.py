from __future__ import annotations

import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.config import EngineOptions, Order, command_from_order, given_fields, kind_of, merged, name_of
from edgekit.errors import UsageError
from edgekit.recipe.schema import Preprocess
from edgekit.specs import Precision, SizeRange

ORDERS = [
    Order(model="yolov3", precision=Precision.INT8, target="cpu"),
    Order(model="yolov3", precision=Precision.FP32, target="openvino", profile=False),
    Order(
        model="a model.onnx",
        precision=Precision.INT8,
        target="cpu",
        calib="my photos",
        calib_method="mse",
        calib_images=7,
        keep_float=("head*", "/stem"),
        output=Path("out/t"),
        inputs={"x:0": (1, 3, 8, 8), "ids": (1, 4)},
        preprocess={"color": "bgr", "mean": (0.5, 0.25, 0.125), "pad": 0},
        threads=2,
    ),
    Order(model="m:f", precision=Precision.INT8, target="null", inputs={"": (1, 8)}, opset=19, seed=3),
    Order(model="yolov3", precision=Precision.INT8, target="cpu", weights="w.weights", shape=(320, 416)),
    Order(model="cfg/net.cfg", precision=Precision.INT8, target="cpu", weights="net.weights", shape=(320, 416)),
    Order(model="yolov3", precision=Precision.FP16, target="tensorrt-rtx", batch=SizeRange(1, 4, 16), half_io=True),
    Order(
        model="yolov3",
        precision=Precision.BF16,
        target="tensorrt",
        batch=8,
        plan_only=True,
        engine=EngineOptions(
            sm=(86, 120),
            workspace_mib=512,
            timing_cache="t.cache",
            dla=0,
            version_compatible=True,
            hardware_compatible=True,
            refittable=True,
            strip_weights=True,
        ),
    ),
    Order(model="yolov3", precision=Precision.INT8, target="cpu", preprocess=given_fields(Preprocess())),
    Order(
        model="m.onnx",
        precision=Precision.FP32,
        target="cpu",
        shape=(SizeRange(320, 416, 640), 416),
        inputs={"ids:1": (SizeRange(1, 1, 8), SizeRange(16, 128, 512)), "x": (SizeRange(1, 1, 8), 4)},
    ),
    Order(
        model="m.onnx",
        precision=Precision.INT8,
        target="cpu",
        preprocess={"color": "gray", "mean": (0.5,), "resize": "crop"},
    ),
]


@pytest.mark.parametrize("order", ORDERS, ids=range(len(ORDERS)))
def test_the_command_asks_for_the_same_order(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def build(model: str, **options: Any) -> Path:
        asked.update(options, model=model)
        raise UsageError("seen")

    module = types.ModuleType("edgekit.pipeline.build")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgekit.pipeline.build", module)
    assert main(shlex.split(command_from_order(order))[1:]) == 2
    asked["inputs"] = asked.pop("input") or {}
    assert {name: asked[name] for name in asked if name != "progress"} == vars(order)


def test_the_command_names_the_given_fields_and_no_others() -> None:
    order = Order(model="yolov3", precision=Precision.INT8, target="cpu", preprocess={"pad": 128, "mean": (0.0,) * 3})
    words = shlex.split(command_from_order(order))
    given = [words[i + 1] for i, word in enumerate(words) if word == "--preprocess"]
    assert given == ["pad=128", "mean=0.0,0.0,0.0"]


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"color": "gray"}, {"color": "gray"}),
        ({"mean": [1]}, {"mean": (1.0,)}),
        ({"std": (1, 2, 3), "divisor": 1}, {"std": (1.0, 2.0, 3.0), "divisor": 1.0}),
        (types.MappingProxyType({"pad": 0}), {"pad": 0}),
        ({}, {}),
        (Preprocess(color="gray", mean=(0.5,), std=(2.0,)), {
            "resize": "stretch", "resize_to": 0, "color": "gray", "layout": "nchw", "pad": 128, "divisor": 255.0,
            "mean": (0.5,), "std": (2.0,),
        }),
    ],
)  # fmt: skip
def test_given_fields_are_those_and_no_others(given: Any, plain: dict[str, Any]) -> None:
    assert given_fields(given) == plain


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colr": "bgr"}, "preprocess: colr: unknown field\ndid you mean color?"),
        ({"pad": "0"}, "preprocess: pad: expected a whole number, got '0'"),
        ({"mean": 0.5}, "preprocess: mean: expected a list, got 0.5"),
        ({"mean": (0.0,), "std": (1.0, 1.0, 1.0)}, "preprocess: std: expected 1 numbers"),
        (["color=bgr"], "preprocess: expected a Preprocess or a mapping of its fields"),
    ],
)
def test_error_on_fields_that_no_preprocessing_can_have(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        given_fields(given)
    assert message in str(caught.value)


def test_a_merge_replaces_what_is_given_and_keeps_the_rest() -> None:
    base = Preprocess(resize="letterbox", mean=(0.5, 0.25, 0.125))
    assert merged(base, {"color": "bgr"}) == Preprocess(resize="letterbox", color="bgr", mean=(0.5, 0.25, 0.125))
    with pytest.raises(UsageError, match="--preprocess: mean: expected 1 numbers, one a channel of 'gray'") as caught:
        merged(base, {"color": "gray"})
    assert "--preprocess mean=0 and --preprocess std=1" in caught.value.hint


def test_a_module_has_no_command() -> None:
    assert command_from_order(Order(model=object(), precision=Precision.INT8, target="cpu")) == ""


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        ("yolov3-tiny", "recipe", "yolov3-tiny"),
        ("package.module:factory", "factory", "factory"),
        ("package.module:Class.method", "factory", "method"),
        (["an object"], "module", "list"),
    ],
)
def test_a_model_is_known_by_how_it_is_written(model: object, kind: str, name: str) -> None:
    assert kind_of(model) == kind
    assert name_of(model) == name


@pytest.mark.parametrize("name", ["some model.onnx", "model", "model.bin", "with:colon.onnx"])
def test_a_file_that_holds_no_weights_is_taken_for_onnx(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"")
    assert kind_of(file) == kind_of(str(file)) == "onnx"
    assert name_of(file) == file.stem


def test_a_file_that_ends_in_cfg_is_a_darknet_network(tmp_path: Path) -> None:
    file = tmp_path / "Some Net.cfg"
    file.write_bytes(b"")
    assert kind_of(file) == kind_of(str(file)) == "cfg"
    assert name_of(file) == "Some Net"


@pytest.mark.parametrize(
    ("model", "message", "hint"),
    [
        ("yolov3-tny", "unknown model 'yolov3-tny'", "did you mean yolov3-tiny"),
        ("xyzzy", "a name that `edgekit models` lists, an ONNX file or a Darknet cfg file", "known: "),
        ("my.pt", "expected a model, got a file of weights", "edgekit build yolov3 --weights my.pt"),
        ("detectr.onnx", "expected an ONNX file, got no such file", "did you mean detector.onnx?"),
        ("detectr.cfg", "expected a Darknet cfg file, got no such file", "did you mean detector.cfg"),
        ("folder.cfg", "expected a model, got a folder", ""),
        ("engine", "expected a model, got a folder", "it is an engine already: edgekit run engine"),
        (".", "expected a model, got a folder", ""),
    ],
)
def test_what_is_no_model_gets_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str, hint: str
) -> None:
    (tmp_path / "detector.onnx").write_bytes(b"")
    (tmp_path / "detector.cfg").write_bytes(b"")
    (tmp_path / "folder.cfg").mkdir()
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        kind_of(model)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert bool(hint) == bool(caught.value.hint)
