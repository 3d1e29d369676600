"""Replacing an engine while others read it, write it, or were killed while they wrote it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.engine.bundle import reading, staging
from edgekit.engine.bundle.manifest import MANIFEST, read_engine, read_manifest
from edgekit.engine.bundle.reading import OpenFolder, read_whole
from edgekit.engine.bundle.staging import staged_folder
from edgekit.engine.bundle.writing import write_bundle
from edgekit.errors import EdgeKitError, EngineMismatch, UsageError
from edgekit.storage import atomic_file, exchange, staging_place, write_atomic

SECONDS = 1.5
"""Duration of a stress test; EDGEKIT_STRESS_SECONDS sets another."""

# Writes a folder whose files all hold one number, as fast as it can, until it is killed.
WRITER = """
import hashlib, sys
from pathlib import Path
from edgekit.engine.bundle import staging
if sys.argv[3] == "two":
    staging.exchange = lambda one, other: False
output, number = Path(sys.argv[1]), int(sys.argv[2])
while True:
    with staging.staged_folder(output) as folder:
        text = str(number) * 50_000
        (folder / "a").write_text(text)
        (folder / "b").write_text(text)
        (folder / "manifest.json").write_text(hashlib.sha256(text.encode()).hexdigest())
    number += 2
    print(number, flush=True)
"""


def stress_seconds() -> float:
    return float(os.environ.get("EDGEKIT_STRESS_SECONDS", SECONDS))


class Notes:
    """A `Progress` that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
        yield lambda amount: None

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def writers(output: Path, steps: str, count: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-c", WRITER, str(output)]
    environment = os.environ | {"PYTHONPATH": str(Path(edgekit.__file__).parents[1])}
    started = [
        subprocess.Popen(
            [*command, str(number), steps], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for number in range(count)
    ]
    try:
        for process in started:
            assert process.stdout and process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def checked(folder: OpenFolder) -> str:
    """Reads a folder that a writer made; raises if its files are not of one version."""
    try:
        expected = (folder.at / MANIFEST).read_text()
        texts = [(folder.at / name).read_text() for name in ("a", "b")]
    except OSError as e:
        raise EngineMismatch(f"{folder.at}: {e}") from e
    if any(hashlib.sha256(text.encode()).hexdigest() != expected for text in texts):
        raise EngineMismatch(f"{folder.at}: two versions")
    return texts[0]


@pytest.mark.parametrize("steps", ["one", "two"])
def test_readers_never_miss_a_file_or_mix_versions_while_two_processes_write(steps: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    seen: set[str] = set()
    with writers(output, steps) as running:
        deadline = time.monotonic() + stress_seconds()
        while time.monotonic() < deadline:
            seen.add(read_engine(output, checked))
        assert [process.poll() for process in running] == [None, None]
    assert len(seen) > 5


def test_the_name_is_never_missing_where_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with writers(output, "one", count=1):
        deadline, looks = time.monotonic() + stress_seconds(), 0
        while time.monotonic() < deadline:
            os.stat(output)
            looks += 1
    assert looks > 1000


@pytest.mark.parametrize("steps", ["one", "two"])
def test_what_killed_writers_left_is_removed_by_the_next(steps: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for pause in (0.0, 0.003, 0.01):
        with writers(output, steps):
            time.sleep(pause)
    (tmp_path / ".out.partial-1").mkdir()
    with staged_folder(output) as folder:
        (folder / "new").write_text("")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(output) == ["new"]


def test_a_folder_is_locked_as_soon_as_another_process_can_see_it(tmp_path: Path) -> None:
    # A second process removes the folder between its creation and its lock: it is created again.
    removed: list[Path] = []
    mkdir = Path.mkdir

    def removed_at_first(path: Path, *args: object, **kwargs: object) -> None:
        mkdir(path, *args, **kwargs)  # type: ignore[arg-type]
        if ".partial-" in path.name and not removed:
            removed.append(path)
            path.rmdir()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", removed_at_first)
        with staged_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("")
    assert removed and os.listdir(tmp_path / "out") == ["file"]


def test_a_lock_of_another_program_on_the_parent_folder_does_not_block(tmp_path: Path) -> None:
    # As in `flock FOLDER edgekit build ... -o FOLDER/out`.
    code = f"import sys; sys.argv[1:] = [{str(tmp_path / 'out')!r}, '0', 'one']\n{WRITER}"
    command = ["flock", str(tmp_path), sys.executable, "-c", code.replace("    number += 2", "    break")]
    environment = os.environ | {"PYTHONPATH": str(Path(edgekit.__file__).parents[1])}
    subprocess.run(command, check=True, timeout=60, env=environment)
    assert (tmp_path / "out" / MANIFEST).is_file()


def test_a_file_system_without_an_exchange_gets_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    told = Notes()
    for text in ("old", "new"):
        with staged_folder(tmp_path / "out", told) as folder:
            (folder / "file").write_text(text)
    assert (tmp_path / "out/file").read_text() == "new"
    assert len(told.notes) == 1 and "cannot exchange two folders" in told.notes[0]
    assert os.listdir(tmp_path) == ["out"]


def test_one_of_two_renames_is_undone_unless_another_process_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    output = tmp_path / "out"
    rename, raced = Path.rename, []

    def raced_once(path: Path, target: Path) -> Path:
        if ".partial-" in path.name and not raced and not output.exists():
            raced.append(path)
            output.mkdir()
            (output / "of another process").write_text("")
        return rename(path, target)

    with staged_folder(output) as folder:
        (folder / "old").write_text("")
    monkeypatch.setattr(Path, "rename", raced_once)
    with staged_folder(output) as folder:
        (folder / "new").write_text("")
    assert raced and os.listdir(output) == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_what_the_user_put_there_during_a_build_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing in it was touched"), write_bundle(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.txt").write_text("years of work")
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]
    assert os.listdir(tmp_path) == ["out"]


def test_exchange_swaps_two_folders_and_names_what_is_missing(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert exchange(tmp_path / "one", tmp_path / "other")
    assert os.listdir(tmp_path / "one") == ["other"]
    with pytest.raises(FileNotFoundError) as caught:
        exchange(tmp_path / "one", tmp_path / "absent")
    assert caught.value.filename2 == str(tmp_path / "absent")


def test_a_reader_goes_on_with_the_version_that_it_opened(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with staged_folder(output) as folder:
        (folder / "file").write_text("old")
    opened = OpenFolder(output)
    kept = (opened.at / "file").open()
    with staged_folder(output) as folder:
        (folder / "file").write_text("new")
    assert opened.is_replaced()
    assert kept.read() == "old"
    assert not (opened.at / "file").exists()
    kept.close()
    opened.close()
    opened.close()


def test_a_reader_without_descriptors_as_paths_starts_again_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "DESCRIPTORS", tmp_path / "absent")
    output, attempts = tmp_path / "out", []
    (output).mkdir()
    (output / "file").write_text("old")

    def read(folder: OpenFolder) -> str:
        attempts.append(folder.at)
        text = (folder.at / "file").read_text()
        if len(attempts) == 1:
            with staged_folder(output) as new:
                (new / "file").write_text("new")
        return text

    assert read_whole(output, read) == "new"
    assert attempts == [output, output]


def test_an_error_of_a_folder_that_was_not_replaced_is_raised_at_once_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "my out").mkdir()
    attempts = []

    def read(folder: OpenFolder) -> None:
        attempts.append(folder)
        raise EngineMismatch(f"{folder.at / 'file'} is damaged", hint=f"edgekit compile {folder.at}")

    with pytest.raises(EngineMismatch) as caught:
        read_whole(tmp_path / "my out", read)
    assert caught.value.message == f"{tmp_path}/my out/file is damaged"
    assert caught.value.hint == f"edgekit compile '{tmp_path}/my out'"
    assert len(attempts) == 1


def test_a_folder_that_is_replaced_all_the_time_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DEADLINE_S", 0.0)
    (tmp_path / "out").mkdir()

    def read(folder: OpenFolder) -> None:
        with staged_folder(tmp_path / "out") as new:
            (new / "file").write_text("")
        raise EngineMismatch("a file is missing")

    with pytest.raises(EngineMismatch, match="replaced all the time"):
        read_whole(tmp_path / "out", read)


def test_a_session_outlives_its_bundle_and_closes_the_folder(make_bundle: Callable[..., Path]) -> None:
    place = make_bundle()
    before = len(os.listdir("/proc/self/fd"))
    with edgekit.load(place) as session:
        manifest = session.manifest
        with staged_folder(place) as folder:
            (folder / "other").write_text("")
        spec = session.inputs[0]
        session.run({spec.name: np.zeros([int(size) for size in spec.shape], spec.dtype)})
        assert session.manifest == manifest
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["é" * 100 + "x" * 50, "n" * 250, "字" * 83])
def test_names_as_long_as_the_file_system_allows(name: str, tmp_path: Path) -> None:
    for text in ("old", "new"):
        with staged_folder(tmp_path / name) as folder:
            (folder / "file").write_text(text)
    (staging_place(tmp_path / name).with_suffix(".partial-1")).mkdir()
    with staged_folder(tmp_path / name):
        pass
    assert os.listdir(tmp_path) == [name]


CHECKPOINT = """
import os, signal, sys
from pathlib import Path
from edgekit.storage import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_files_of_killed_processes_are_removed_by_the_next_that_writes_there(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(edgekit.__file__).parents[1])}
    for name in ("one.ckpt", "other.json"):
        done = subprocess.run([sys.executable, "-c", CHECKPOINT, tmp_path / name], env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
    assert [name[:24] for name in os.listdir(tmp_path)] == [".other.json.edgekit-part"]  # the first is removed
    (tmp_path / ".notes.part-1-1").write_text("the user's own")
    with atomic_file(tmp_path / "one.ckpt") as file:  # a file that is being written stays
        write_atomic(tmp_path / "other.json", b"new")
        assert file.exists()
        file.write_bytes(b"whole")
    assert sorted(os.listdir(tmp_path)) == [".notes.part-1-1", "one.ckpt", "other.json"]
    assert (tmp_path / "one.ckpt").read_bytes() == b"whole"


def test_threads_that_write_and_read_one_bundle_end_well_or_with_an_edgekit_error(
    make_bundle: Callable[..., Path],
) -> None:
    place, errors = make_bundle(), []
    source = json.loads((place / MANIFEST).read_text())

    def write() -> None:
        for _ in range(20):
            try:
                make_bundle()
            except EdgeKitError as e:
                errors.append(e)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert read_manifest(place).name == source["name"]
        with edgekit.load(place):
            pass
    for thread in threads:
        thread.join()
    assert all("another thread" in str(error) for error in errors)


def test_an_interrupted_replacement_is_named_in_the_error(
    make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MISSING_S", 0.01)
    place = make_bundle()
    aside = place.rename(place.with_name(f".{place.name}.replaced-1-1"))
    with pytest.raises(UsageError, match="got no such folder") as caught:
        edgekit.load(place)
    assert caught.value.hint == f"its replacement was interrupted: mv {aside} {place}"
