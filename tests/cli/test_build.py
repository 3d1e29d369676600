from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.cli.main import main
from edgekit.engine.backend import backend
from edgekit.engine.bundle.manifest import Verification, read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.errors import BackendUnavailable, BuildError
from edgekit.measure.profile import profile_bundle
from edgekit.progress import Progress
from edgekit.report.html.build import write_build_report


class Pipeline:
    """Replaces `edgekit.pipeline.build` and records the arguments of `build`."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.model = ""
        self.options: dict[str, Any] = {}

    def build(self, model: str, *, progress: Progress, **options: Any) -> Path:
        self.model, self.options = model, options
        with progress.stage("Calibrate", total=2, unit="images") as advance:
            advance(2)
        progress.note("The weights are random.")
        return self.bundle


@pytest.fixture
def pipeline(detector: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    stand_in = Pipeline(detector)
    module = types.ModuleType("edgekit.pipeline.build")
    module.build = stand_in.build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgekit.pipeline.build", module)
    return stand_in


def test_int8_is_the_default(pipeline: Pipeline) -> None:
    assert main(["build", "yolov3"]) == 0
    assert pipeline.model == "yolov3"
    assert pipeline.options["precision"] == "int8"
    assert main(["build", "yolov3", "--fp32"]) == 0
    assert pipeline.options["precision"] == "fp32"


def test_options_that_are_not_given_are_left_to_the_pipeline(pipeline: Pipeline) -> None:
    main(["build", "yolov3"])
    given = {name: value for name, value in pipeline.options.items() if value is not None}
    assert given == {
        "precision": "int8",
        "keep_float": (),
        "quantize_heads": False,
        "noise_budget": 10,
        "seed": 0,
        "threads": 0,
        "allow_noise": False,
        "require_faster": False,
        "force": False,
        "profile": True,
        "graph_only": False,
        "attention": "auto",
        "half_io": False,
        "dynamic": False,
        "static": False,
        "weights_only": False,
        "no_head": False,
        "engine": {},
    }


def test_every_option_reaches_the_pipeline(pipeline: Pipeline) -> None:
    line = (
        "build tiny.onnx --int8 --target cpu -o out/t --weights w.weights --calib photos --calib-method mse "
        "--calib-images 8 --calib-column y --keep-float head* --keep-float /stem --quantize-heads --noise-budget 5 "
        "--shape 320x320 --input images:1x3x320x320 "
        "--preprocess color=bgr --preprocess mean=1,2,3 --opset 19 --seed 7 --threads 2 "
        "--no-profile --batch 1:4:16 --graph-only --half-io "
        "--dynamic --static --weights-only --sm 86,8.9,120 --workspace 512 --timing-cache t.cache "
        "--dla 1 --version-compatible --hardware-compatible --refittable --strip-weights --attention off --allow-noise "
        "--labels names.txt --head yolov8 --head-option extras=32 --head-option masks=protos --require-faster"
    )
    assert main(line.split()) == 0
    assert pipeline.model == "tiny.onnx"
    assert pipeline.options == {
        "precision": "int8",
        "target": "cpu",
        "output": Path("out/t"),
        "weights": "w.weights",
        "calib": "photos",
        "calib_method": "mse",
        "calib_images": 8,
        "calib_column": "y",
        "keep_float": ("head*", "/stem"),
        "quantize_heads": True,
        "noise_budget": 5,
        "shape": (320, 320),
        "input": {"images": (1, 3, 320, 320)},
        "preprocess": {"color": "bgr", "mean": (1.0, 2.0, 3.0)},
        "opset": 19,
        "seed": 7,
        "threads": 2,
        "profile": False,
        "batch": (1, 4, 16),
        "graph_only": True,
        "allow_noise": True,
        "require_faster": True,
        "labels": Path("names.txt"),
        "head": "yolov8",
        "head_option": {"extras": "32", "masks": "protos"},
        "no_head": False,
        "force": False,
        "attention": "off",
        "half_io": True,
        "dynamic": True,
        "static": True,
        "weights_only": True,
        "engine": {
            "sm": (86, 89, 120),
            "workspace_mib": 512,
            "timing_cache": "t.cache",
            "dla": 1,
            "version_compatible": True,
            "hardware_compatible": True,
            "refittable": True,
            "strip_weights": True,
        },
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch", "1:4"], "expected a number, or MIN:OPT:MAX such as 1:4:16, got '1:4'"),
        (["--batch", "0"], "got '0'"),
        (["--sm", "8x"], "expected compute capabilities, such as 86,89,120, got '8x'"),
    ],
)
def test_error_on_an_invalid_batch_or_gpu(
    pipeline: Pipeline, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "yolov3", *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["1x3x224x224"], {"": (1, 3, 224, 224)}),
        (["1"], {"": (1,)}),
        (["a:1x2", "b:3"], {"a": (1, 2), "b": (3,)}),
        (["serving_default:0:1x2"], {"serving_default:0": (1, 2)}),
        (["1x3x48x32:320:2048"], {"": (1, 3, 48, (32, 320, 2048))}),
        (["1:4:16x8"], {"": ((1, 4, 16), 8)}),
        (["1:4:16"], {"": ((1, 4, 16),)}),
        (["x:1:1:8x3"], {"x": ((1, 1, 8), 3)}),
        (["input:1:1:1:8x3:4:5"], {"input:1": ((1, 1, 8), (3, 4, 5))}),
        (["ids:int64:1x16:128:512", "a:3"], {"ids:int64": (1, (16, 128, 512)), "a": (3,)}),
    ],
)
def test_inputs_are_shapes_by_name(pipeline: Pipeline, given: list[str], expected: dict[str, tuple[int, ...]]) -> None:
    assert main(["build", "m.onnx", *(word for shape in given for word in ("--input", shape))]) == 0
    assert pipeline.options["input"] == expected


@pytest.mark.parametrize("given", ["320:416:640x416", "1x3x320:416:640x416"])
def test_an_image_input_may_have_a_range_of_sizes(pipeline: Pipeline, given: str) -> None:
    assert main(["build", "m.onnx", "--shape", given]) == 0
    assert pipeline.options["shape"][-2:] == ((320, 416, 640), 416)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--shape", "416"], "such as 416x416"),
        (["--shape", "0x416"], "such as 416x416"),
        (["--shape", "416x"], "such as 416x416"),
        (["--shape", "-1x416"], "such as 416x416"),
        (["--shape", "320:416x416"], "or a range MIN:OPT:MAX"),
        (["--input", "a:"], "such as images:1x3x224x224"),
        (["--input", "x:1x3x32:320"], "ranges MIN:OPT:MAX"),
        (["--input", "x:1x3x0:0:320"], "ranges MIN:OPT:MAX"),
        (["--input", "1x3:4"], "ranges MIN:OPT:MAX"),
        (["--input", "1x2", "--input", "3x4"], "a different name"),
        (["--input", "a:1x2", "--input", "a:3x4"], "a different name"),
        (["--preprocess", "color"], "FIELD=VALUE"),
        (["--preprocess", "colr=bgr"], "did you mean color?"),
        (["--preprocess", "color=blue"], "one of bgr, gray, rgb"),
        (["--preprocess", "mean=a,b,c"], "expected a number, got 'a'"),
        (["--preprocess", "mean=1,2"], "--preprocess: mean: expected 3 numbers"),
        (["--preprocess", "color=gray", "--preprocess", "mean=1,2,3"], "--preprocess: mean: expected 1 numbers"),
        (["--preprocess", "std=0,1,1"], "expected a number > 0, got 0.0"),
        (["--calib-images", "0"], "--calib-images"),
        (["--opset", "x"], "--opset"),
    ],
)
def test_error_on_an_invalid_value(
    pipeline: Pipeline, wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "yolov3", *wrong]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert pipeline.model == ""


def test_the_report_the_folder_and_the_next_commands_are_printed(
    pipeline: Pipeline, make_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    measured = profile_bundle(pipeline.bundle, runs=20)
    write_build_report(pipeline.bundle, {"fp32": measured, "int8": measured}, {"calibration_images": 2})
    assert main(["build", "yolov3"]) == 0
    captured = capsys.readouterr()
    assert all(word in captured.out for word in ("FP32", "INT8", "gain", "calibration inputs", "please note"))
    assert f"engine: {pipeline.bundle}" in captured.out
    assert f"edgekit run {pipeline.bundle} PHOTO.jpg" in captured.out
    assert "note: The weights are random." in captured.err
    assert "Calibrate ..." in captured.err


@pytest.mark.parametrize("built", [True, False])
def test_commands_that_cannot_run_here_are_suggested_for_the_target_machine(
    built: bool, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(pipeline.bundle)
    other = {"backend": "tensorrt", "compute_capabilities": ("8.7",), "engine": manifest.engine if built else ""}
    seal(pipeline.bundle, msgspec.structs.replace(manifest, **other))

    def no_device(self: object, compute_capabilities: object) -> None:
        raise BackendUnavailable("target 'tensorrt' needs a GPU")

    monkeypatch.setattr(backend("tensorrt").__class__, "require_device", no_device)
    assert main(["build", "yolov3", "--no-profile"]) == 0
    here, there = capsys.readouterr().out.split("next, on the target machine:")
    assert f"edgekit inspect {pipeline.bundle}" in here
    assert "edgekit run" not in here
    assert ("edgekit compile" in there) is not built
    assert there.index("edgekit run") < there.index("edgekit profile")


def test_the_noise_is_printed_even_without_a_measurement(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Verification(
        reference="PyTorch", inputs=2, sqnr_db={"INT8 engine for cpu": 31.25}, agreement={"INT8 engine for cpu": 0.5}
    )
    seal(pipeline.bundle, msgspec.structs.replace(read_manifest(pipeline.bundle), verification=found))
    assert main(["build", "yolov3", "--no-profile"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"signal to noise by stage +INT8 engine for cpu 31.2 dB", out)
    assert re.search(r"agreement by stage +INT8 engine for cpu 50.0 %", out)


def test_notes_are_printed_even_without_a_measurement(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "yolov3", "--no-profile"]) == 0
    out = capsys.readouterr().out
    assert "please note" in out
    assert "latency is real, detections are not" in out


def test_a_build_that_fails_says_so_and_prints_no_result(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(model: str, **options: Any) -> Path:
        with options["progress"].stage("Compile"):
            raise BuildError("the builder died", hint="give it memory")

    monkeypatch.setattr(sys.modules["edgekit.pipeline.build"], "build", fail)
    assert main(["build", "yolov3"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "failed after" in captured.err
    assert captured.err.endswith("error: the builder died\nhint: give it memory\n")
