from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

from edgekit import storage
from edgekit.errors import BuildError
from edgekit.storage import (
    atomic_file,
    cache_folder,
    folder_bytes,
    free_bytes,
    is_storage,
    lacks_room,
    named_place,
    path_for_library,
    remove_abandoned,
    remove_folder,
    require_room,
    sha256_of,
    staging_place,
    storage_error,
    write_atomic,
)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"EDGEKIT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/edgekit"),
        ({"HOME": "/c"}, "/c/.cache/edgekit"),
        ({"EDGEKIT_CACHE": "~/d", "HOME": "/c"}, "/c/d"),
    ],
)
def test_the_cache_is_where_the_environment_says(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDGEKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_file_is_written_with_its_parent_folders(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b", memoryview(b"content"))
    assert (tmp_path / "a" / "b").read_bytes() == b"content"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_the_old_content_stands_until_the_new_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")
    with atomic_file(place) as file:
        file.write_bytes(b"new")
        assert file.parent == tmp_path and place.read_bytes() == b"old"
    assert place.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("a library's"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, error: BaseException, old: bytes | None) -> None:
    place = tmp_path / "file"
    if old is not None:
        place.write_bytes(old)
    with pytest.raises(type(error)), atomic_file(place) as file:
        file.write_bytes(b"half")
        raise error
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if old is None else [old])


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "file", b"content")
    assert caught.value.filename == str(tmp_path / "file")


def test_an_error_of_a_write_names_the_file_too(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "a.json"):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    assert caught.value.filename == str(tmp_path / "a.json")


def test_threads_that_write_one_file_leave_the_content_of_one(tmp_path: Path) -> None:
    place, contents = tmp_path / "file", [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write_atomic, args=(place, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_permissions_are_those_of_the_process_or_of_the_file_before(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "new", b"")
    finally:
        os.umask(mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o600)
    write_atomic(tmp_path / "new", b"content")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_atomic(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"content"


def test_a_name_that_is_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    place = tmp_path / ("ä" * 127)
    write_atomic(place, b"content")
    assert place.read_bytes() == b"content"


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"content")
    reader.join()
    assert got == [b"content"] and pipe.is_fifo()


def test_error_on_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomic(tmp_path / "folder", b"content")
    assert caught.value.filename == str(tmp_path / "folder")


def test_error_on_a_file_that_is_write_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write every file
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 5])
def test_the_hash_is_that_of_the_whole_content(tmp_path: Path, length: int) -> None:
    content = bytes(index % 251 for index in range(length))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_room_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there") > 0


def test_the_length_of_a_folder_is_that_of_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = folder_bytes(tmp_path)  # a folder has a length of its own
    (tmp_path / "a" / "b").write_bytes(b"12345")
    assert folder_bytes(tmp_path) - before == 5


def test_too_little_room_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    require_room(tmp_path / "out", 1)
    with pytest.raises(BuildError) as caught:
        require_room(tmp_path / "out", 2**60)
    assert caught.value.message.startswith(
        f"cannot write {tmp_path / 'out'}: the disk is full; {2**60:,} bytes needed, "
    )
    assert caught.value.hint == "make room or choose another place with output"


@pytest.mark.parametrize(
    ("number", "room", "place"),
    [
        (errno.ENOSPC, True, True),
        (errno.EDQUOT, True, True),
        (errno.EFBIG, True, True),
        (errno.EROFS, False, True),
        (errno.EACCES, False, True),
        (errno.EISDIR, False, True),
        (errno.ECONNREFUSED, False, False),
        (errno.EIO, False, False),
    ],
)
def test_errors_are_told_apart_by_their_number(number: int, room: bool, place: bool) -> None:
    error = OSError(number, os.strerror(number))
    assert (lacks_room(error), is_storage(error)) == (room, place)


def test_a_staging_folder_is_named_after_its_output(tmp_path: Path) -> None:
    staging = staging_place(tmp_path / "out")
    assert staging.parent == tmp_path and staging != tmp_path / "out"
    assert named_place(staging) == named_place(staging / "scratch" / "file") == tmp_path / "out"
    assert named_place(tmp_path / "folder" / "file") == tmp_path / "folder" / "file"


def test_the_message_names_the_output_the_file_and_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda place: 10)
    staging = staging_place(tmp_path / "out")
    staging.mkdir()
    (staging / "graph.onnx").write_bytes(b"12345")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging / "graph.onnx"))
    # What lies in the staging folder is deleted with it, so it counts as free.
    assert storage_error(full, staging).message == (
        f"cannot write {tmp_path / 'out'} (graph.onnx): the disk is full; more than 5 bytes needed, 15 bytes free"
    )
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "out"))
    refused = storage_error(denied, tmp_path / "out", written_bytes=3)
    assert refused.message == (
        f"cannot write {tmp_path / 'out'}: no permission to write there; more than 3 bytes needed, 10 bytes free"
    )
    assert refused.hint == "choose another place with output"


def test_a_folder_that_takes_the_name_of_an_abandoned_one_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out.partial-1"
    place.mkdir()
    flock = fcntl.flock

    def flock_after_another_process(descriptor: int, operation: int) -> None:
        if not (place / "new").exists():
            place.rename(tmp_path / "old")  # the number of a removed folder could be that of the next one
            place.mkdir()
            (place / "new").touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_another_process)
    remove_abandoned(tmp_path, re.compile(r"out\.partial-\d+"))
    assert (place / "new").exists()


def test_a_folder_is_removed_after_another_process_has_done_so(tmp_path: Path) -> None:
    place = tmp_path / "out.partial-1"
    place.mkdir()
    (place / "file").touch()
    descriptor = os.open(place, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ours = threading.Thread(target=remove_folder, args=[place])
    ours.start()
    ours.join(0.05)
    assert ours.is_alive() and place.exists()
    shutil.rmtree(place)
    os.close(descriptor)
    ours.join(5)
    assert not ours.is_alive() and not place.exists()


def test_a_lock_of_the_caller_s_program_delays_a_removal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LONGEST_REMOVAL_S", 0.01)
    place = tmp_path / "out"
    place.mkdir()
    descriptor = os.open(place, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remove_folder(place)
    os.close(descriptor)
    assert not place.exists()


@pytest.mark.parametrize("name", [b"a", b"\xff/a", b"\xff"])
def test_a_library_that_takes_only_utf8_gets_a_path_that_it_can_open(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text("content")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with path_for_library(path) as given:
        assert Path(given.encode("utf-8").decode()).read_text() == "content"
