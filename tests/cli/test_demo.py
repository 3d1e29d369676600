from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgekit.cli import demo
from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.errors import ModelError
from edgekit.measure import compare
from edgekit.models.weights import download


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that the demo would run."""
    words: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "_run", lambda *command: words.append(command))
    return words


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> Path:
        raise ModelError("weights https://example.org/w: cannot be downloaded: no network")

    monkeypatch.setattr(download, "fetch_weights", fail)


def test_demo_builds_with_published_weights_and_runs_on_the_shipped_photo(
    started: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "fetch_weights", lambda *arguments, **options: tmp_path / "w")
    assert main(["demo"]) == 0
    assert started == [
        ("build", "yolov3-tiny", "--int8", "--weights", "coco", "-o", "edgekit-demo/tiny"),
        ("run", "edgekit-demo/tiny", "edgekit-demo/photo.jpg", "--save", "edgekit-demo/boxes.jpg"),
    ]
    with Image.open("edgekit-demo/photo.jpg") as photo:
        assert photo.mode == "RGB"


@pytest.mark.usefixtures("offline")
def test_demo_without_a_network_uses_random_weights_and_says_so(
    started: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "d")]) == 0
    assert started[0] == ("build", "yolov3-tiny", "--int8", "-o", str(tmp_path / "d" / "tiny"))
    captured = capsys.readouterr()
    assert "cannot be downloaded: no network" in captured.err
    assert "boxes are meaningless" in captured.err
    assert "edgekit train lenet --data digits" in captured.out


def test_demo_takes_a_file_of_weights(started: list[tuple[str, ...]], tmp_path: Path) -> None:
    weights = tmp_path / "mine.weights"
    weights.write_bytes(b"")
    assert main(["demo", str(tmp_path / "d"), "--weights", str(weights)]) == 0
    assert started[0][3:5] == ("--weights", str(weights))


def test_error_on_weights_that_do_not_exist(
    started: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "d"), "--weights", "cocoo"]) == 2
    assert "did you mean coco?" in capsys.readouterr().err
    assert started == []


@pytest.mark.usefixtures("offline")
def test_demo_shows_each_command_and_leaves_a_photo_an_engine_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compare, "MEASURE_S", 0.05)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "d"]) == 0
    out = capsys.readouterr().out
    assert "$ edgekit build yolov3-tiny --int8 -o d/tiny\n" in out
    assert "$ edgekit run d/tiny d/photo.jpg --save d/boxes.jpg\n" in out
    assert read_manifest(Path("d/tiny")).layers["int8"] > 0
    with Image.open("d/boxes.jpg") as drawn, Image.open("d/photo.jpg") as photo:
        assert drawn.size == photo.size
    assert Path("d/tiny/report.html").is_file()
