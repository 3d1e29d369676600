from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import scratch
from edgekit.errors import UsageError
from edgekit.scratch import scratch_folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch._remove_abandoned.cache_clear()
    return tmp_path


def test_the_folder_is_for_its_user_only_and_goes_with_its_content(place: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder() as folder:
        assert folder.parent == place and folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("content")
        raise KeyboardInterrupt
    assert list(place.iterdir()) == []


KILLED = """
import os, signal
from edgekit.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").write_text("content")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(place: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(place)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = place.iterdir()
    (place / "edgekit-scratch-of-somebody").mkdir()
    with scratch_folder() as first:
        scratch._remove_abandoned.cache_clear()
        with scratch_folder() as second:
            assert first.is_dir() and second.is_dir() and not left.exists()
    assert [path.name for path in place.iterdir()] == ["edgekit-scratch-of-somebody"]


def test_error_when_no_temporary_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nowhere/a", "/nowhere/b"])
    with pytest.raises(UsageError, match="got none that can be written: .*/nowhere/a") as error, scratch_folder():
        pass
    assert "TMPDIR" in error.value.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_an_error_of_a_write_without_room_names_the_folder(number: int, place: Path) -> None:
    with pytest.raises(OSError) as caught, scratch_folder() as folder:
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == str(folder)
