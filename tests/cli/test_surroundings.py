"""Folders that are gone, links that lead to each other: one message with a fix, and no traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.cli.main import cli, main
from edgekit.engine.bundle.writing import write_bundle
from edgekit.errors import UsageError


@pytest.fixture
def deleted(tmp_path: Path) -> Iterator[None]:
    """A working directory that was deleted."""
    before, gone = Path.cwd(), tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    yield
    os.chdir(before)


def said(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    assert main(arguments) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.mark.usefixtures("deleted")
def test_a_deleted_working_directory_is_named(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_classifier(tmp_path / "m.onnx"))
    assert "the working directory was deleted" in said(capsys, 2, "build", model, "--fp32")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    assert "the working directory was deleted" in said(capsys, 2, "anchors", str(tmp_path / "data.yaml"))


def test_links_that_lead_to_each_other_are_named(
    tmp_path: Path, write_classifier: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    loop, model = tmp_path / "loop", str(write_classifier(tmp_path / "m.onnx"))
    loop.symlink_to("loop")
    text = said(capsys, 2, "build", model, "--fp32", "-o", str(loop))
    assert f"cannot write an engine to {loop}: Too many levels of symbolic links" in text
    assert "choose another --output" in text
    with pytest.raises(UsageError, match="symbolic links"), write_bundle(loop):
        pass
    for arguments in (["inspect", str(loop)], ["build", str(loop)], ["build", model, "--calib", str(loop)]):
        said(capsys, 2, *arguments)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "the file would be larger than allowed"),
    ],
)
def test_a_place_without_room_is_no_bug(
    number: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**options: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "part.bin"))

    monkeypatch.setattr(cli, "main", full)
    assert f"error: {tmp_path / 'part.bin'}: cannot be written: {why}\nhint: make room" in said(capsys, 2)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_that_may_not_be_written_is_no_bug(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), "model.toml")

    monkeypatch.setattr(cli, "main", lambda **_: refuse())
    text = said(capsys, 2, "recipe", "new", "model.onnx")
    assert f"model.toml: cannot be read or written: {os.strerror(number)}" in text
