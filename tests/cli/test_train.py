from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from edgekit.cli import train as command
from edgekit.cli.main import main
from edgekit.data.augment import AUGMENTATIONS
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.recipe.schema import Train, load_recipe, recipe_names


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_choices_are_those_of_recipes() -> None:
    fields = get_type_hints(Train)
    assert get_args(fields["optimizer"]) == command.OPTIMIZERS
    assert get_args(fields["schedule"]) == command.SCHEDULES
    assert get_args(get_args(fields["augment"])[0]) == command.AUGMENTATIONS
    assert set(AUGMENTATIONS) == set(command.AUGMENTATIONS)


def test_train_prints_each_epoch_and_writes_weights_that_build_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    options = ["--epochs", "2", "--batch", "128", "--optimizer", "momentum", "--lr", "0.05", "--threads", "1"]
    options += ["--html", "page.html"]
    try:
        assert main(["train", "lenet", "--data", "digits", *options]) == 0
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert out.count("accuracy ") == 2
    assert "epoch 2/2" in out
    assert "edgekit build lenet --weights lenet.safetensors --calib digits" in out
    assert "The loss went from " in (tmp_path / "page.html").read_text()
    weights = tmp_path / "lenet.safetensors"
    build = ["build", "lenet", "--fp32", "--target", "null", "--no-profile", "--weights", str(weights)]
    assert main([*build, "-o", str(tmp_path / "engine")]) == 0
    assert "the weights are random" not in capsys.readouterr().out


def test_weights_are_fine_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["--epochs", "1", "--batch", "64", "--optimizer", "adam", "--lr", "0.003", "--json"]
    assert main(["train", "lenet", "--data", "digits", *fast]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["weights"] == "lenet.safetensors"
    assert main(["train", "lenet", "--data", "digits", *fast, "--weights", "lenet.safetensors", "--force"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["epochs"][0]["loss"] < first["epochs"][0]["loss"] / 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["lenett"], 2, "unknown recipe 'lenett'"),
        (["net.onnx", "--data", "digits"], 2, "got an ONNX file, which does not define a training task"),
        (["net.cfg", "--data", "digits"], 2, "expected a Darknet cfg file, got: No such file"),
        (["lenet", "--data", "digits", "--augment", "mosaic"], 2, "--augment: expected no mosaic for lenet"),
        (["lenet", "--data", "digits", "--warmup", "5"], 2, "--warmup: expected 0 with the schedule 'onecycle'"),
        (["lenet", "--data", "digits", "--lr", "1e9"], 2, "1000000000.0 is not in the range 0<x<=1000000.0"),
        (["lenet", "--data", "digits", "--column", "price"], 2, "expected a CSV table"),
        (["lenet", "--data", "digits", "--resume", "--weights", "x.pt"], 2, "--weights: expected none with --resume"),
        (["lenet", "--data", "digitz"], 2, "unknown data set 'digitz'"),
        (["alexnet"], 2, "training alexnet: expected a data set, got none"),
        (["lenet", "--data", "scenes"], 1, "expected one for the task 'classify'"),
        (["lenet", "--data", "digits", "--lr", "0"], 2, "is not in the range 0<x<=1000000.0"),
        (["lenet", "--data", "digits", "--lr", "nan"], 2, "nan"),
        (["lenet", "--data", "digits", "--augment", "spin"], 2, "expected any of flip, crop"),
        (
            ["lenet", "--data", "digits", "--weights", "nowhere.pt"],
            2,
            "expected a file that exists (lenet has no published weights), got 'nowhere.pt'",
        ),
        (["lenet", "--data", "digits", "--resume"], 1, "expected a checkpoint to resume from, got no such file"),
        (["lenet", "--data", "digits", "-o", "x.pt"], 2, "expected a name that ends in .safetensors, got '.pt'"),
        (["transformer-tiny", "--data", "spelling", "--augment", "flip"], 2, "which has no image input"),
    ],
)
def test_bad_input_has_a_message_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["train", *arguments]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_target_column_is_left_out_of_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["y", *(f"x{i}" for i in range(10))]
    rows = [",".join(str((i * 7 + j * 3) % 10 / 10) for j in range(11)) for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    words = ["train", "linear-regression", "--data", "t.csv", "--column", "y", "--epochs", "1"]
    assert main(words) == 0
    advice = capsys.readouterr().out.splitlines()[-1].split()
    assert advice[-4:] == ["--calib", "t.csv", "--calib-column", "y"]
    assert main([*advice[1:], "--no-profile", "-o", "built"]) == 0
    assert read_manifest(Path("built")).calibration is not None
    capsys.readouterr()
    assert main([*words, "--json", "--force"]) == 0
    assert json.loads(capsys.readouterr().out)["column"] == "y"
    assert main([*words[:-3], "z", "--force"]) == 2
    assert "expected a column 'z'" in capsys.readouterr().err


def test_a_model_with_a_data_set_needs_no_option() -> None:
    own = {name: load_recipe(name).train.data for name in recipe_names()}
    assert {name for name, data in own.items() if data} >= {"lenet", "transformer-tiny", "yolov3-tiny-scenes"}
