"""Options, commands and checks that every command shares."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.cli.main import cli, main

CAPTURE = pytest.CaptureFixture[str]


@pytest.mark.parametrize("words", [["version"], ["--version"], ["-V"]])
def test_the_version_is_an_option_and_a_command(words: list[str], capsys: CAPTURE) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == f"edgekit {edgekit.__version__}\n"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["help"], ["--help"]),
        (["help", "build"], ["build", "--help"]),
        (["help", "export", "triton"], ["export", "triton", "--help"]),
    ],
)
def test_help_is_an_option_and_a_command(words: list[str], same: list[str], capsys: CAPTURE) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert main(same) == 0
    assert out == capsys.readouterr().out


def test_help_of_a_mistyped_command_says_what_was_meant(capsys: CAPTURE) -> None:
    assert main(["help", "bild"]) == 2
    assert "did you mean build?" in capsys.readouterr().err
    assert main(["help", "build", "x"]) == 2
    assert "'edgekit build' has no command 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-v", "run", "nothing", "x.png"], ["run", "nothing", "x.png", "-v"]])
def test_verbose_goes_before_and_after_the_command(words: list[str], tmp_path: Path, capsys: CAPTURE) -> None:
    assert main([*words, "--save", "y.png"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["run", "nothing", "x.png", "--save", "y.png"]) == 2  # it does not outlast its command
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [["-q"], ["--quiet"]])
def test_quiet_leaves_results_and_errors(
    quiet: list[str], tmp_path: Path, write_classifier: Callable[..., Path], capsys: CAPTURE
) -> None:
    words = ["build", str(write_classifier(tmp_path / "net.onnx")), "--target", "null", "--no-profile"]
    assert main([*words, "-o", str(tmp_path / "out"), *quiet]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "engine:" in captured.out and "next" not in captured.out
    assert main([*words, "--fp32", "--calib-method", "mse", *quiet]) == 2
    assert capsys.readouterr().err.startswith("error: --calib-method does not go with --fp32")


def test_two_precisions_exclude_each_other(capsys: CAPTURE) -> None:
    for words in (["build", "lenet"], ["estimate", "lenet", "--board", "nano"]):
        assert main([*words, "--int8", "--fp32"]) == 2
        assert "expected one precision, got --int8 and --fp32" in capsys.readouterr().err
        assert main([*words, "--fp32", "--fp16", "--int8"]) == 2
        capsys.readouterr()


def test_a_path_is_checked_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE
) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("edgekit.pipeline.load_model.load_model", load)
    for words, message, hint in (
        (["--calib", "potos"], "--calib potos: expected a folder", "did you mean photos?"),
        (["--calib", "coco:none.json"], "--calib coco:none.json: expected a folder", ""),
        (["--weights", "nofile"], "--weights: expected a file", ""),
        (["--calib", "file"], "--calib file: expected a folder", "give their folder"),
        (["--labels", "nolabels"], "nolabels: expected a text file", ""),
        (["--labels", "file"], "file: expected class names, got none", ""),
        (["--json-file", "file/x.json"], "file is a file", "choose another folder"),
        (["-o", "file"], "it is a file", "choose another --output"),
    ):
        assert main(["build", "lenet", "--target", "cpu", *words]) == (1 if "--labels" in words else 2), words
        error = capsys.readouterr().err
        assert message in error and hint in error


def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path, capsys: CAPTURE) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"precious")
    for option in ("--html", "--markdown", "--json-file", "--trace"):
        assert main(["profile", "nothing", option, str(model)]) == 2
        assert f"got '{model}', which exists" in capsys.readouterr().err
    assert model.read_bytes() == b"precious"


def test_a_file_that_is_replaced_is_named(tmp_path: Path, capsys: CAPTURE) -> None:
    file = tmp_path / "models.json"
    assert main(["models", "--json-file", str(file)]) == 0
    assert f"wrote {file}" in capsys.readouterr().err
    assert main(["models", "--json-file", str(file)]) == 0
    assert f"replaced {file}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.jpg", "ends in .npz or .npy, since arrays are written"), ("x", "got 'no suffix'"), ("x.npz.gz", "'.gz'")],
)
def test_the_suffix_of_arrays_is_theirs(
    name: str, message: str, arrays_engine: Path, tmp_path: Path, capsys: CAPTURE
) -> None:
    np.save(tmp_path / "in.npy", np.ones((2, 8), np.float32))
    assert main(["run", str(arrays_engine), str(tmp_path / "in.npy"), "--save", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_one_output_can_be_saved_as_npy(arrays_engine: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones((2, 8), np.float32))
    assert main(["run", str(arrays_engine), str(tmp_path / "in.npy"), "--save", str(tmp_path / "out.npy")]) == 0
    assert np.load(tmp_path / "out.npy").shape == (2, 4)


def test_the_source_is_replaced_by_force_only(detector: Path, picture: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    photo = tmp_path / "photos" / "photo.png"
    photo.parent.mkdir()
    shutil.copy(picture, photo)
    before = photo.read_bytes()
    for source, save in ((photo, photo), (photo.parent, photo.parent)):
        assert main(["run", str(detector), str(source), "--save", str(save)]) == 2
        error = capsys.readouterr().err
        assert "expected another file than the source" in error and "--force" in error
        assert photo.read_bytes() == before
    assert main(["run", str(detector), str(photo), "--save", str(photo), "--force", "--score-threshold", "0"]) == 0
    assert photo.read_bytes() != before
    with Image.open(photo) as drawn, Image.open(picture) as source_image:
        assert drawn.size == source_image.size


def test_several_images_are_saved_in_a_folder(detector: Path, picture: Path, tmp_path: Path, capsys: CAPTURE) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(picture, tmp_path / "photos" / "a.png")
    shutil.copy(picture, tmp_path / "photos" / "b.png")
    assert main(["run", str(detector), str(tmp_path / "photos"), "--save", str(tmp_path / "out.jpg")]) == 2
    assert "expected a folder, since there are 2 images" in capsys.readouterr().err


def test_an_engine_of_another_model_needs_force(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: CAPTURE
) -> None:
    place = str(tmp_path / "engine")
    words = ["build", str(write_classifier(tmp_path / "net.onnx")), "--target", "null", "--no-profile", "-o", place]
    assert main([*words, "--fp32"]) == 0
    capsys.readouterr()
    assert main([*words, "--int8"]) == 0
    assert "net in FP32 for null, was replaced by net in INT8 for null" in " ".join(capsys.readouterr().err.split())
    words[1] = str(shutil.copy(words[1], tmp_path / "other.onnx"))
    assert main([*words, "--fp32"]) == 2
    error = capsys.readouterr().err
    assert "expected no engine, or one of other, got one of net" in error
    assert "replace it with --force" in error
    assert main([*words, "--fp32", "--force"]) == 0


def test_weights_need_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lenet.safetensors").write_bytes(b"precious")
    assert main(["train", "lenet", "--data", "digits"]) == 2
    assert "replace them with --force" in capsys.readouterr().err
    assert Path("lenet.safetensors").read_bytes() == b"precious"


def test_the_demo_does_not_replace_a_photo(tmp_path: Path, capsys: CAPTURE) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    assert main(["demo", str(tmp_path)]) == 2
    assert "got another" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["build", "lenet", "--calib-method", "mnmax"], "did you mean minmax?"),
        (["build", "detector.onn"], "did you mean detector.onnx?"),
        (["build", "detector.onnx", "--head", "yolo8"], "did you mean yolov8"),
        (["train", "lenet", "--optimizer", "adm"], "did you mean adam or adamw?"),
        (["eval", "x", "--data", "digits", "--split", "tran"], "did you mean train?"),
        (["run", "engine", "phto.png"], "did you mean photo.png?"),
    ],
)
def test_a_mistyped_value_says_what_was_meant(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").touch()
    (tmp_path / "detector.onnx").touch()
    assert main(words) in (1, 2)
    assert f"hint: {hint}" in capsys.readouterr().err


def in_terminal(words: list[str], environment: dict[str, str]) -> str:
    """What a command writes to a terminal, standard output and standard error."""
    script = f"import pty, sys; sys.exit(pty.spawn({[sys.executable, '-m', 'edgekit', *words]!r}) >> 8)"
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**kept, **environment}, stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_left_out_on_request(environment: dict[str, str], coloured: bool) -> None:
    for words in (["models"], ["zzz"]):
        assert ("\x1b[" in in_terminal(words, environment)) == coloured


def completed(words: str) -> list[str]:
    """The completions of the last word, as bash gets them."""
    environment = {**os.environ, "_EDGEKIT_COMPLETE": "bash_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    code = "import sys; from edgekit.cli.main import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("edgekit bu", ["plain,build"]),
        ("edgekit help es", ["plain,estimate"]),
        ("edgekit build yolov3-t", ["file,yolov3-t", "plain,yolov3-tiny", "plain,yolov3-tiny-scenes"]),
        ("edgekit build lenet --target op", ["plain,openvino"]),
        ("edgekit build yolov3 --weights co", ["file,co", "plain,coco"]),
        ("edgekit build lenet --calib-method per", ["plain,percentile"]),
        ("edgekit train lenet --data dig", ["file,dig", "plain,digits"]),
        ("edgekit estimate lenet --board this", ["plain,this-machine"]),
        ("edgekit run engine pho", ["file,pho"]),
    ],
)
def test_the_shell_completes_names_and_files(words: str, expected: list[str]) -> None:
    assert completed(words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for_each_shell(shell: str) -> None:
    environment = {**os.environ, "_EDGEKIT_COMPLETE": f"{shell}_source"}
    code = "import sys; from edgekit.cli.main import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "_EDGEKIT_COMPLETE" in done.stdout


def test_the_help_of_build_is_grouped_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["build", "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    headings = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    groups = ["Model", "Calibration", "Precision", "Target", "TensorRT options", "Output", "Other options"]
    assert headings == [*groups, "Environment variables"]
    assert "EDGEKIT_CACHE" in out and "Examples:" in out
    text = " ".join(out.split())
    for default in (
        "random weights",
        "the recipe's, or minmax, or what keeps more",
        "engines/NAME-PRECISION-TARGET",
        "--profile",
    ):
        assert f"[default: {default}]" in text


def test_every_command_takes_quiet_and_verbose() -> None:
    import click

    context = click.Context(cli)
    for name in cli.commands_on_use:
        command = cli.get_command(context, name)
        assert command is not None
        spellings = [spelling for parameter in command.params for spelling in parameter.opts]
        assert {"-q", "--quiet", "-v", "--verbose"} <= set(spellings)
        assert len(spellings) == len(set(spellings))
