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


@pytest.mark.parametrize("other", [("resnet", "int8", "cpu"), ("lenet", "fp32", "cpu"), ("lenet", "int8", "openvino")])
def test_another_model_precision_or_target_is_replaced_by_force_only(engine: Path, other: tuple[str, str, str]) -> None:
    name, precision, target = other
    with pytest.raises(UsageError, match="lenet in INT8 for cpu\n.*force=True"):
        replaced_engine(engine, name=name, precision=precision, target=target, force=False)
    assert replaced_engine(engine, name=name, precision=precision, target=target, force=True)


@pytest.mark.parametrize("content", [None, "", "[1]"])
def test_without_a_manifest_nothing_is_replaced(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert replaced_engine(tmp_path, name="a", precision="int8", target="cpu", force=False) == ""
