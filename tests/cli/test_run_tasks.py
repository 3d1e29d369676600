"""``edgekit run`` for classifiers and translators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgekit.cli.main import main
from edgekit.data.vocabulary import SPECIAL_TOKENS
from edgekit.recipe.schema import Preprocess
from edgekit.specs import TensorSpec

CLASSIFIER = {
    "task": "classify",
    "inputs": (TensorSpec("images", "float32", (1, 3, 8, 8)),),
    "outputs": (TensorSpec("logits", "float32", (1, 4)),),
    "preprocess": Preprocess(resize="stretch"),
    "labels": ("cat", "dog", "[bold]cow", "hen"),
}
# The null backend answers zeros, so that the likeliest token is the one that pads, everywhere.
TRANSLATOR = {
    "task": "translate",
    "inputs": (TensorSpec("source", "int64", (1, 4)), TensorSpec("target", "int64", (1, 5))),
    "outputs": (TensorSpec("logits", "float32", (1, 5, 6)),),
    "labels": (*SPECIAL_TOKENS, "7", "x"),
}


@pytest.fixture
def classifier(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle("classifier", kind=CLASSIFIER)


@pytest.fixture
def translator(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle("translator", kind=TRANSLATOR)


def test_the_likeliest_classes_of_a_picture_are_shown(
    classifier: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(classifier), str(picture), "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("picture.png: cat, in ")
    rows = [line.split() for line in out.splitlines() if line.endswith("% ")]
    assert rows == [["cat", "25.00", "%"], ["dog", "25.00", "%"], ["[bold]cow", "25.00", "%"]]


def test_a_folder_is_classified_picture_by_picture(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(folder / name)
    (folder / "c.png").write_bytes(b"not a picture")
    assert main(["run", str(classifier), str(folder), "--json", "--top", "2"]) == 0
    captured = capsys.readouterr()
    first, second = json.loads(captured.out)
    assert (first["file_name"], second["file_name"]) == ("a.png", "b.png")
    assert first["classes"] == [
        {"label": "cat", "index": 0, "probability": 0.25},
        {"label": "dog", "index": 1, "probability": 0.25},
    ]
    assert "skipped" in captured.err
    assert "c.png" in captured.err


def test_a_classifier_takes_arrays_too(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    np.save(tmp_path / "input.npy", np.zeros((1, 3, 8, 8), np.float32))
    assert main(["run", str(classifier), str(tmp_path / "input.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logits"]["shape"] == [1, 4]


def test_error_on_saving_what_has_no_boxes(
    classifier: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(classifier), str(picture), "--save", str(tmp_path / "out.png")]) == 2
    expected = "expected an engine for task 'detect' or 'obb' or 'pose' or 'segment', whose results are drawn, got a"
    assert f"{expected} classifier" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_text_on_the_command_line_is_translated(translator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(translator), "--text", "77"]) == 0
    assert capsys.readouterr().out == "\n"


def test_a_file_is_translated_line_by_line(
    translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("7\n77\n", encoding="utf-8")
    saved = tmp_path / "out" / "saved.txt"
    assert main(["run", str(translator), str(texts), "--json", "--save", str(saved)]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"source": "7", "translation": ""},
        {"source": "77", "translation": ""},
    ]
    assert saved.read_text(encoding="utf-8") == "\n\n"


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "no such file"), (b"\xff\xfe7", "UTF-8"), (b"", "an empty file")]
)
def test_error_on_a_file_that_is_no_text(
    translator: Path, tmp_path: Path, content: bytes | None, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["run", str(translator), str(path)]) == 1
    error = capsys.readouterr().err
    assert "texts.txt" in error
    assert expected in error


def test_error_on_a_text_that_is_too_long(translator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(translator), "--text", "7777"]) == 1
    assert "at most 3 tokens, got 4: '7777'" in capsys.readouterr().err


def test_error_on_a_text_and_a_file(translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(translator), str(tmp_path / "texts.txt"), "--text", "7"]) == 2
    assert "got both" in capsys.readouterr().err


def test_error_on_a_text_for_another_engine(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(classifier), "--text", "7"]) == 2
    error = capsys.readouterr().err
    assert "--text: expected a translator, got an engine for task 'classify'" in error
    assert "hint: give it an image or a folder of images" in error


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(CLASSIFIER, "an image or a folder"), (TRANSLATOR, "--text TEXT"), ({**CLASSIFIER, "task": "tensor"}, "arrays")],
)
def test_error_without_anything_to_run_on(
    make_bundle: Callable[..., Path], kind: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(make_bundle(kind=kind))]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "got no input" in error


@pytest.mark.parametrize(
    ("words", "option"),
    [(["--score-threshold", "0.5"], "--score-threshold 0.5"), (["--one-label"], "--one-label")],
)
def test_an_option_of_detectors_is_refused_for_a_classifier(
    classifier: Path, picture: Path, capsys: pytest.CaptureFixture[str], words: list[str], option: str
) -> None:
    assert main(["run", str(classifier), str(picture), *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option}: expected an image and the engine of a detector, got a run of 'classifier'" in said


def test_the_number_of_classes_is_refused_for_texts(
    translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(translator), "--text", "1", "--top", "3"]) == 2
    assert "--top 3: expected an image and the engine of a classifier" in " ".join(capsys.readouterr().err.split())
