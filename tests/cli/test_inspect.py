from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.recipe.schema import load_recipe


def test_yolov3_has_the_parameters_of_its_paper_and_the_macs_of_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "yolov3-tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recipe = load_recipe("yolov3-tiny")
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"]) == recipe.model.parameters
    assert found["macs"] == sum(layer["macs"] for layer in found["layers"]) == recipe.macs
    assert found["manifest"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov3", "yolov3-spp"])
def test_large_models_have_the_parameters_of_their_papers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recipe = load_recipe(name)
    assert (found["parameters"], found["macs"]) == (recipe.model.parameters, recipe.macs)


def test_an_input_of_another_shape_has_other_macs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "yolov3-tiny", "--shape", "832x832", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == load_recipe("yolov3-tiny").macs * 4


def test_an_engine_keeps_what_its_model_has(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    assert main(["inspect", str(model), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    engine = edgekit.build(model, target="null", calib_images=2, profile=False, output=tmp_path / "engine")
    assert main(["inspect", str(engine), "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert (built["parameters"], built["macs"]) == (plain["parameters"], plain["macs"])
    assert built["weight_bytes"] < plain["weight_bytes"] / 3
    assert {layer["precision"] for layer in built["layers"] if layer["macs"]} >= {"int8"}
    assert built["manifest"]["backend"] == "null"


def test_an_engine_is_shown_with_its_origin_and_target(
    tmp_path: Path,
    write_classifier: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = write_classifier(tmp_path / "net.onnx")
    engine = edgekit.build(model, target="null", calib_images=2, profile=False, output=tmp_path / "engine")
    assert main(["inspect", str(engine)]) == 0
    out = capsys.readouterr().out
    for text in (
        "net, INT8 for null",
        "calibration",
        "2 inputs, method minmax",
        "graph.onnx",
        "onnx net.onnx",
        "GlobalAve",
    ):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80


def test_error_on_an_unknown_model_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "yolov3-tyni"]) == 2
    assert "yolov3-tiny" in capsys.readouterr().err


def test_error_on_a_folder_that_is_no_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is no engine" in capsys.readouterr().err


def test_error_on_a_shape_for_an_engine(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(detector), "--shape", "32x32"]) == 2
    assert "go with models" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lenet", pytest.param("transformer-tiny", marks=pytest.mark.slow)])
def test_a_file_of_a_model_has_the_parameters_and_macs_of_the_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx
    import torch

    from edgekit.models.factory import module_from_recipe

    recipe = load_recipe(name)
    inputs = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in recipe.inputs)
    module = module_from_recipe(recipe, seed=0).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, optimize=False, verbose=False)
    assert program is not None
    onnx.save(program.model_proto, tmp_path / "net.onnx")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "net.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found)[:3] == ["name", "parameters", "macs"]
    assert found["macs"] == recipe.macs
    # A file does not tell a table of positions from an embedding.
    assert found["parameters"] >= recipe.model.parameters
    assert name != "lenet" or found["parameters"] == recipe.model.parameters


@pytest.mark.parametrize("precision", ["--fp32", "--int8"])
def test_an_engine_of_a_model_has_its_parameters_and_macs(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("transformer-tiny")
    command = ["build", "transformer-tiny", precision, "--target", "null", "--no-profile", "-o", str(tmp_path / "e")]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "e"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], found["macs"]) == (recipe.model.parameters, recipe.macs)


def test_bytes_are_those_of_the_requested_precision(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    bytes_of: dict[str, int] = {}
    for precision in ("fp32", "fp16", "int8"):
        assert main(["inspect", str(model), "--precision", precision, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        bytes_of[precision] = found["activation_bytes"]
        assert found["precision_from"] == "option"
    assert bytes_of["fp32"] == 2 * bytes_of["fp16"] == 4 * bytes_of["int8"]
    assert main(["inspect", str(model), "--precision", "int8"]) == 0
    assert "as requested: 4 in int8" in capsys.readouterr().out


def test_error_on_a_precision_for_quantized_models_and_engines(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    engine = edgekit.build(model, target="null", calib_images=2, profile=False, output=tmp_path / "engine")
    for quantized in (engine, engine / "graph.onnx"):
        assert main(["inspect", str(quantized), "--precision", "fp16"]) == 2
        assert "--precision" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_a_graph_is_drawn_of_a_model_and_of_its_engine(
    suffix: str, tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    engine = edgekit.build(model, target="null", calib_images=2, profile=False, output=tmp_path / "engine")
    for source, legend in ((model, "convolution"), (engine, "INT8")):
        file = tmp_path / "drawn" / f"graph{suffix}"
        assert main(["inspect", str(source), "--graph", str(file)]) == 0
        done = "wrote" if source is model else "replaced"
        assert capsys.readouterr().err == f"{done} {file}\n"
        text = file.read_text(encoding="utf-8")
        assert "Conv 3×3 /2" in text and f">{legend}<" in text
        if suffix == ".svg":
            assert ElementTree.fromstring(text).tag.endswith("svg")


def test_json_and_a_drawing_can_be_combined(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "net.onnx")
    assert main(["inspect", str(model), "--json", "--graph", str(tmp_path / "g.svg"), "--depth", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "net"
    assert (tmp_path / "g.svg").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--graph", "graph.png"], "ends in .svg or .html, got 'graph.png'"),
        (["--depth", "2"], "--depth goes with --graph"),
        (["--times", "r.json"], "expected a file, got no such path: r.json"),
        (["--graph", "graph.svg", "--depth", "0"], "1<=x<="),
        (["--precision", "int4"], "int4"),
    ],
)
def test_error_on_invalid_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "lenet", *options]) == 2
    assert message in capsys.readouterr().err


def test_error_on_a_drawing_that_cannot_be_written(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "g.svg").mkdir()
    assert main(["inspect", str(write_classifier(tmp_path / "net.onnx")), "--graph", str(tmp_path / "g.svg")]) == 2
    assert "is a directory" in capsys.readouterr().err


def test_error_on_times_that_are_none(
    write_classifier: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, report = str(write_classifier(tmp_path / "net.onnx")), tmp_path / "r.json"
    draw = ["inspect", model, "--graph", str(tmp_path / "g.html"), "--times", str(report)]
    assert main(draw) != 0
    assert "expected a file, got no such path" in capsys.readouterr().err
    report.write_text('{"layer_times": null}')
    assert main(draw) != 0
    assert "expected the JSON of a report with times of layers" in capsys.readouterr().err
