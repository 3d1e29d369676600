from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.pipeline.model_kind import kind_of, name_of


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
        ("my.pt", "expected a model, got a weights file", "edgekit.build('yolov3', weights='my.pt')"),
        ("detectr.onnx", "expected an ONNX file, got no such file", "did you mean detector.onnx?"),
        ("detectr.cfg", "expected a Darknet cfg file, got no such file", "did you mean detector.cfg"),
        ("folder.cfg", "expected a model, got a folder", ""),
        ("engine", "expected a model, got a folder", "the folder is an engine; run it: edgekit.load('engine')"),
        (".", "expected a model, got a folder", ""),
    ],
)
def test_the_error_on_something_that_is_not_a_model_has_a_hint(
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
