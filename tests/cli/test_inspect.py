from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.recipe import load_recipe


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


def test_a_picture_of_another_shape_takes_other_macs(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_an_engine_is_told_with_what_it_is_and_is_for(
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
        "2 images, by minmax",
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
