from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.engine.bundle.replacing import replaced_engine
from edgekit.errors import UsageError


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    fields = {"name": "lenet", "precision": "int8", "backend": "cpu", "created": "2026-01-02T03:04:05+00:00"}
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    return tmp_path


def test_the_same_model_precision_and_target_is_replaced_with_a_note(engine: Path) -> None:
    note = replaced_engine(engine, name="lenet", precision="int8", target="cpu", force=False)
    assert note == f"the engine at {engine} of 2026-01-02T03:04:05+00:00, lenet in INT8 for cpu, was replaced"


@pytest.mark.parametrize(("precision", "target"), [("fp32", "cpu"), ("int8", "openvino")])
def test_another_precision_or_target_replaces_with_a_note_of_both(engine: Path, precision: str, target: str) -> None:
    note = replaced_engine(engine, name="lenet", precision=precision, target=target, force=False)
    assert note.endswith(f"lenet in INT8 for cpu, was replaced by lenet in {precision.upper()} for {target}")


def test_another_model_is_replaced_by_force_only(engine: Path) -> None:
    with pytest.raises(UsageError, match="one of resnet, got one of lenet\n.*force=True"):
        replaced_engine(engine, name="resnet", precision="int8", target="cpu", force=False)
    assert replaced_engine(engine, name="resnet", precision="int8", target="cpu", force=True)


@pytest.mark.parametrize("content", [None, "", "[1]"])
def test_without_a_manifest_nothing_is_replaced(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert replaced_engine(tmp_path, name="a", precision="int8", target="cpu", force=False) == ""
