"""What a command writes is no file that it reads, writes twice, or that an engine consists of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.runtime.session import session_from_bundle

CAPTURE = pytest.CaptureFixture[str]
RUNS = ("--runs", "2", "--warmup", "0")


@pytest.mark.parametrize("option", ["--json-file", "--html", "--markdown", "--trace"])
def test_a_file_of_the_engine_is_not_replaced(option: str, detector: Path, capsys: CAPTURE) -> None:
    name = {"--json-file": "manifest.json", "--trace": "manifest.json"}.get(option, "engine.json")
    before = {file: (detector / file).read_bytes() for file in ("manifest.json", *read_manifest(detector).files)}
    listed = next(iter(read_manifest(detector).files)) if name == "engine.json" else name
    assert main(["profile", str(detector), *RUNS, option, str(detector / listed)]) == 2
    assert listed in capsys.readouterr().err
    assert {file: (detector / file).read_bytes() for file in before} == before
    session_from_bundle(detector).close()


def test_another_file_in_the_folder_of_an_engine_is_written(detector: Path) -> None:
    assert main(["profile", str(detector), *RUNS, "--json-file", str(detector / "mine.json")]) == 0
    assert json.loads((detector / "mine.json").read_text())["samples_ms"]
    session_from_bundle(detector).close()


def test_a_build_does_not_replace_the_manifest_of_its_engine(
    write_classifier: Callable[..., Path], tmp_path: Path, capsys: CAPTURE
) -> None:
    model, engine = write_classifier(tmp_path / "model.onnx"), tmp_path / "engine"
    words = ["build", str(model), "--fp32", "--target", "null", "--no-profile", "-o", str(engine)]
    assert main([*words, "--json-file", str(engine / "manifest.json")]) == 2
    assert "expected another file than those of the engine" in capsys.readouterr().err
    assert read_manifest(engine).engine


def test_two_outputs_are_two_files(
    detector: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [
        ["profile", str(detector), *RUNS, "--trace", "new.json", "--html", "new.json"],
        ["profile", str(detector), *RUNS, "--html", "new.html", "--markdown", str(tmp_path / "new.html")],
        ["run", str(detector), str(picture), "--save", "new.png", "--json-file", "./new.png"],
        ["inspect", str(detector), "--graph", "new.svg", "--json-file", "new.svg"],
    ]
    for command in commands:
        assert main(command) == 2
        assert "expected two files, got" in capsys.readouterr().err
    assert not list(tmp_path.glob("new*"))


def test_pictures_and_their_text_files_may_be_in_one_folder(detector: Path, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    more = picture.with_name("more.png")
    more.write_bytes(picture.read_bytes())
    words = ["run", str(detector), str(picture), str(more), "--save", str(folder), "--save-txt", str(folder)]
    assert main(words) == 0
    assert {file.suffix for file in folder.iterdir()} == {".png", ".txt"}


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to", None])
def test_a_report_that_is_compared_is_not_replaced(
    link: str | None, detector: Path, tmp_path: Path, capsys: CAPTURE
) -> None:
    report, place = tmp_path / "report.json", tmp_path / "link.json"
    assert main(["profile", str(detector), *RUNS, "--json-file", str(report)]) == 0
    before = report.read_bytes()
    if link is None:
        place = report
    else:
        getattr(place, link)(report)
    assert main(["compare", str(report), str(report), "--json-file", str(place)]) == 2
    assert "which would be replaced" in capsys.readouterr().err
    assert report.read_bytes() == before


def test_outputs_that_are_not_wanted_may_all_be_the_null_device(detector: Path) -> None:
    null = [word for option in ("--json-file", "--html", "--markdown") for word in (option, "/dev/null")]
    assert main(["profile", str(detector), *RUNS, *null]) == 0


@pytest.mark.parametrize("flags", [os.O_TRUNC, os.O_APPEND])
def test_a_stream_that_the_shell_opened_is_written_behind_what_it_has(
    flags: int, detector: Path, tmp_path: Path, capsys: CAPTURE
) -> None:
    (tmp_path / "out.txt").write_text("before\n")
    stream = os.open(tmp_path / "out.txt", os.O_WRONLY | flags)
    kept = "before\n" if flags == os.O_APPEND else ""
    try:
        assert main(["profile", str(detector), *RUNS, "--json-file", f"/dev/fd/{stream}"]) == 0
        assert main(["profile", str(detector), *RUNS, "--markdown", f"/proc/self/fd/{stream}"]) == 0
        os.write(stream, b"after\n")
    finally:
        os.close(stream)
    assert f"wrote /dev/fd/{stream}" in capsys.readouterr().err
    written = (tmp_path / "out.txt").read_text().removeprefix(kept)
    report, end = json.JSONDecoder().raw_decode(written)
    assert report["samples_ms"]
    assert written[end:].startswith("\n### detector: FP32 on null")
    assert written.endswith("after\n")


@pytest.mark.parametrize("is_file", [True, False])
def test_a_json_file_that_is_standard_output_is_json_and_nothing_else(
    is_file: bool, detector: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "edgekit", "profile", str(detector), *RUNS, "--json-file", "/dev/stdout"]
    with (tmp_path / "out.txt").open("wb") as file:
        done = subprocess.run(command, stdout=file if is_file else subprocess.PIPE, check=True)
    written = (tmp_path / "out.txt").read_bytes() if is_file else done.stdout
    assert json.loads(written)["samples_ms"]


def test_a_stream_that_is_not_open_is_refused(detector: Path, capsys: CAPTURE) -> None:
    assert main(["profile", str(detector), *RUNS, "--json-file", "/dev/fd/987654"]) == 2
    assert "/dev/fd/987654: cannot be written: Bad file descriptor" in capsys.readouterr().err
