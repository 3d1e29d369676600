from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.engine.bundle.manifest import read_manifest
from edgekit.engine.bundle.writing import seal


@pytest.fixture
def engine(tmp_path: Path, write_classifier: Callable[..., Path]) -> Path:
    pytest.importorskip("onnxruntime")
    model = write_classifier(tmp_path / "net.onnx")
    return edgekit.build(model, target="cpu", precision="fp32", profile=False, output=tmp_path / "engine")


def test_an_engine_becomes_a_model_repository(engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "triton", str(engine), str(tmp_path / "models"), "--name", "small"]) == 0
    out = capsys.readouterr().out
    assert f"model: {tmp_path / 'models' / 'small'}" in out
    assert f"tritonserver --model-repository {tmp_path / 'models'}" in out
    assert (tmp_path / "models/small/1/model.onnx").read_bytes() == (engine / "engine.onnx").read_bytes()
    assert 'name: "small"' in (tmp_path / "models/small/config.pbtxt").read_text()


def test_the_exported_engine_is_what_onnx_runtime_loads(engine: Path, tmp_path: Path) -> None:
    import onnxruntime

    assert main(["export", "triton", str(engine), str(tmp_path / "models")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "models/net/1/model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["x"]


def test_a_note_says_that_an_export_was_replaced(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "triton", str(engine), str(tmp_path / "models")]
    assert main(command) == 0
    assert "replaced" not in capsys.readouterr().err
    assert main(command) == 0
    assert (
        f"the model that was exported to {tmp_path / 'models' / 'net'} before was replaced" in capsys.readouterr().err
    )


def test_error_on_a_target_that_triton_cannot_serve(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "triton", str(detector), str(tmp_path / "models")]) == 2
    assert "got one for 'null'" in capsys.readouterr().err


def test_an_engine_becomes_a_configuration_of_deepstream(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seal(detector, msgspec.structs.replace(read_manifest(detector), backend="tensorrt"))
    assert main(["export", "deepstream", str(detector), str(tmp_path / "camera")]) == 0
    shown = capsys.readouterr()
    assert f"config: {tmp_path / 'camera' / 'config_infer_primary.txt'}" in shown.out
    assert "no parser fits: no parser decodes raw feature maps" in shown.err
    assert "replaced" not in shown.err
    assert main(["export", "deepstream", str(detector), str(tmp_path / "camera")]) == 0
    assert "before was replaced" in capsys.readouterr().err
    assert (tmp_path / "camera" / "model.engine").read_bytes() == (detector / "engine.json").read_bytes()


def test_error_on_a_program_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tritn", "a", "b"]) == 2
    assert "tritn" in capsys.readouterr().err
