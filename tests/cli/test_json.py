"""``--json`` means the same on every command: JSON on standard output, and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.cli.main import cli, main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal
from edgekit.measure.reports import LatencyReport, json_from_report
from edgekit.specs import TensorSpec
from tools.docs.commands import commands_of

# The first runs other commands and shows what they print, the others print a text.
WITHOUT = {"edgekit demo", "edgekit help", "edgekit version"}
COMMANDS = {name: command for name, command in commands_of(cli) if name not in WITHOUT}
Arguments = Callable[[], list[str]]


def write_boxes(folder: Path) -> str:
    """A data set in YOLO format, of one image per split with two boxes."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        Image.new("RGB", (100, 100)).save(folder / "images" / split / "0.png")
        (folder / "labels" / split / "0.txt").write_text("0 0.5 0.5 0.2 0.3\n0 0.5 0.5 0.6 0.5\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    return f"yolo:{folder / 'data.yaml'}"


@pytest.fixture
def arguments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    detector: Path,
    make_bundle: Callable[..., Path],
    picture: Path,
    make_report: Callable[..., LatencyReport],
    write_classifier: Callable[..., Path],
) -> dict[str, Arguments]:
    """Arguments with which each command succeeds in a second or two."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def compare() -> list[str]:
        for name in ("a", "b"):
            (tmp_path / f"{name}.json").write_bytes(json_from_report(make_report()))
        return ["a.json", "b.json"]

    def compile_() -> list[str]:
        # Compiling needs a GPU; what is printed does not.
        monkeypatch.setattr("edgekit.pipeline.compile_bundle.compile_bundle", lambda bundle, **options: bundle)
        return [str(detector)]

    def table(columns: int) -> str:
        rows = np.random.default_rng(0).random((60, columns))
        names = [f"x{i}" for i in range(columns)]
        (tmp_path / "t.csv").write_text(
            "\n".join([",".join(names), *(",".join(f"{x:.4f}" for x in row) for row in rows)])
        )
        return "t.csv"

    def regression() -> Path:
        inputs = (TensorSpec("features", "float32", (1, 10)),)
        outputs = (TensorSpec("prediction", "float32", (1, 1)),)
        return make_bundle("table", kind={"task": "regress", "inputs": inputs, "outputs": outputs})

    def build() -> list[str]:
        write_classifier(tmp_path / "net.onnx")
        return ["net.onnx", "--fp32", "--target", "null", "--no-profile", "-o", "built"]

    def export() -> list[str]:
        write_classifier(tmp_path / "net.onnx")
        assert main(["build", "net.onnx", "--fp32", "--target", "cpu", "--no-profile", "-o", "to-export"]) == 0
        return ["to-export", "repository"]

    def deepstream() -> list[str]:
        manifest = read_manifest(detector)
        seal(detector, msgspec.structs.replace(manifest, backend="tensorrt"))
        return [str(detector), "camera"]

    return {
        "edgekit anchors": lambda: [write_boxes(tmp_path / "set"), "--count", "2"],
        "edgekit build": build,
        "edgekit compare": compare,
        "edgekit compile": compile_,
        "edgekit debug": lambda: [str(write_classifier(tmp_path / "net.onnx")), "--fp32", "--target", "cpu"],
        "edgekit doctor": list,
        "edgekit estimate": lambda: [str(write_classifier(tmp_path / "net.onnx")), "--board", "orin-nano"],
        "edgekit eval": lambda: [str(regression()), "--data", table(11)],
        "edgekit export deepstream": deepstream,
        "edgekit export triton": export,
        "edgekit inspect": lambda: [str(write_classifier(tmp_path / "net.onnx")), "--graph", "graph.svg"],
        "edgekit models": list,
        "edgekit profile": lambda: [str(detector), "--runs", "3", "--html", "r.html", "--markdown", "r.md"],
        "edgekit recipe new": lambda: [str(write_classifier(tmp_path / "net.onnx"))],
        "edgekit run": lambda: [str(detector), str(picture), "--save", "boxes.png"],
        "edgekit train": lambda: ["linear-regression", "--data", table(11), "--epochs", "1", "--threads", "1"],
    }


def option(command: click.Command, name: str) -> click.Option:
    return next(each for each in command.params if isinstance(each, click.Option) and name in each.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_are_the_same_on_every_command(name: str) -> None:
    printed, written = option(COMMANDS[name], "--json"), option(COMMANDS[name], "--json-file")
    assert printed.is_flag and printed.help and printed.help.endswith("and nothing else, to standard output.")
    assert not written.is_flag and written.metavar == "F"


@pytest.mark.parametrize("name", COMMANDS)
def test_json_alone_is_on_standard_output_and_the_same_in_the_file(
    name: str, arguments: dict[str, Arguments], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*name.split()[1:], *arguments[name]()]
    capsys.readouterr()
    file = tmp_path / "folder" / "result.json"
    assert main([*words, "--json", "--json-file", str(file)]) == 0
    out = capsys.readouterr().out
    json.loads(out)
    assert file.read_text() == out


@pytest.mark.parametrize("name", ["edgekit models", "edgekit profile", "edgekit compare", "edgekit estimate"])
def test_a_file_alone_leaves_the_table_on_standard_output(
    name: str, arguments: dict[str, Arguments], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*name.split()[1:], *arguments[name]()]
    assert main([*words, "--json-file", str(tmp_path / "result.json")]) == 0
    captured = capsys.readouterr()
    assert captured.out and not captured.out.startswith(("{", "["))
    assert f"wrote {tmp_path / 'result.json'}" in captured.err
    json.loads((tmp_path / "result.json").read_text())


@pytest.mark.parametrize("words", [["{}", "--json", "report.json"], ["--json", "report.json", "{}"]])
def test_the_old_way_to_name_a_file_is_corrected(
    words: list[str], arrays_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *(word.replace("{}", str(arrays_engine)) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hint: --json prints to standard output; to write a file: --json-file report.json" in captured.err
