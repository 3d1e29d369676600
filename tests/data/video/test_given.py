from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgekit.data.video.given import Given, given_sources, is_one_picture, shown_address
from edgekit.data.video.stdin import Encoded, Joined
from edgekit.errors import DataError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for name in ("b.jpg", "a.png", "inner/c.jpg"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "d.mp4").write_bytes(b"")
    (folder / "notes.md").write_text("x")
    return folder


def named(given: list[Given]) -> list[tuple[str, str]]:
    return [(each.kind, each.place) for each in given]


def test_a_folder_has_its_pictures_and_videos_by_name(photos: Path) -> None:
    pytest.importorskip("av")
    expected = [("picture", "photos/a.png"), ("picture", "photos/b.jpg"), ("video", "photos/d.mp4")]
    given = given_sources(["photos"])
    assert named(given) == expected
    assert {each.within for each in given} == {Path("photos")}


def test_subfolders_are_searched_on_request(photos: Path) -> None:
    assert ("picture", "photos/inner/c.jpg") in named(given_sources(["photos"], recursive=True))


def test_without_pyav_videos_of_a_folder_are_left_out_with_a_note(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    notes: list[str] = []
    assert [each.kind for each in given_sources(["photos"], note=notes.append)] == ["picture", "picture"]
    assert "1 videos are left out" in notes[0] and "pip install" in notes[0]


def test_a_glob_that_no_shell_has_expanded(photos: Path) -> None:
    assert named(given_sources(["photos/*.jpg"])) == [("picture", "photos/b.jpg")]
    assert len(given_sources(["photos/**/*.jpg"])) == 2
    with pytest.raises(DataError, match=r"photos/\*.bmp: expected files whose names match, got none"):
        given_sources(["photos/*.bmp"])


def test_a_list_names_a_source_a_line_relative_to_itself(photos: Path) -> None:
    lines = "# mine\na.png\n\nphotos/b.jpg\nrtsp://host/cam\ninner/*.jpg\n"
    (photos / "list.txt").write_text(lines, encoding="utf-8")
    assert named(given_sources(["photos/list.txt"])) == [
        ("picture", "photos/a.png"),
        ("picture", "photos/b.jpg"),
        ("network", "rtsp://host/cam"),
        ("picture", "photos/inner/c.jpg"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "one source per line"),
        (b"# nothing\n", "one source"),
        (b"\xff\xfe", "one source"),
        (b"\0\1", "no text"),
        (b"list.txt", "another"),
    ],
)
def test_error_on_a_list_that_is_none(content: bytes, message: str, photos: Path) -> None:
    (photos / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        given_sources(["photos/list.txt"])


def test_cameras_addresses_and_pipelines_are_no_files(photos: Path) -> None:
    texts = ["camera:0", "camera:csi0", "gst:videotestsrc ! appsink", "nvdec:a.mp4", "RTSP://h/x", "http://h/v.mp4"]
    given = given_sources(texts)
    assert [each.kind for each in given] == ["camera", "camera", "pipeline", "pipeline", "network", "network"]
    assert [each.place for each in given] == texts
    assert all(each.is_live for each in given)


def test_error_on_a_file_that_is_not_there_names_the_one_that_is(photos: Path) -> None:
    with pytest.raises(DataError) as error:
        given_sources(["photos/a.pgn"])
    assert "got no such file" in error.value.message and error.value.hint.startswith("did you mean photos/a.png")


def test_error_on_a_folder_without_pictures_names_the_subfolder_that_has_some(photos: Path) -> None:
    for path in photos.iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(DataError) as error:
        given_sources(["photos"])
    assert "photos/inner" in error.value.hint


def test_passwords_are_not_shown() -> None:
    assert shown_address("rtsp://me:secret@host:554/cam") == "rtsp://me:***@host:554/cam"
    assert shown_address("rtsp://host:554/cam") == "rtsp://host:554/cam"
    (given,) = given_sources(["rtsp://me:secret@host/cam"])
    assert given.place == "rtsp://me:secret@host/cam" and "secret" not in given.key


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def feed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return feed


def test_standard_input_is_a_picture(photos: Path, standard_input: Callable[[bytes], None]) -> None:
    content = (photos / "b.jpg").read_bytes()
    standard_input(content)
    (given,) = given_sources(["-"])
    assert given.content == Encoded(content) and is_one_picture(given)


def test_standard_input_is_a_list(photos: Path, standard_input: Callable[[bytes], None]) -> None:
    lines = ["photos/a.png"] * 500
    standard_input("\n".join(lines).encode())
    assert [each.place for each in given_sources(["-"])] == lines


def test_standard_input_is_a_video(standard_input: Callable[[bytes], None], write_video: Callable[..., Path]) -> None:
    content = write_video(frames=3).read_bytes()
    standard_input(content)
    (given,) = given_sources(["-"])
    assert isinstance(given.content, Joined) and not is_one_picture(given)
    assert given.content.read(7) + given.content.read() == content


def test_error_on_an_empty_standard_input(standard_input: Callable[[bytes], None]) -> None:
    standard_input(b"")
    with pytest.raises(DataError, match="got nothing"):
        given_sources(["-"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_windows_have_backslashes_and_its_encodings(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "set [1]"
    for name in ("sub/é.jpg", "sub/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "list.txt").write_bytes("sub\\é.jpg\r\n.\\sub\\b*.jpg\r\n".encode(encoding))
    found = [Path(given.place) for given in given_sources([str(folder / "list.txt")])]
    assert [path.resolve() for path in found] == [folder / "sub" / "é.jpg", folder / "sub" / "b.jpg"]


def test_a_list_may_have_names_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    assert [given.path for given in given_sources([str(tmp_path / "list.txt")])] == [tmp_path / name]


@pytest.mark.parametrize("content", ["photos\\a.png\r\n".encode("utf-16"), b"photos\\a.png\r\n"])
def test_a_list_on_standard_input_may_be_of_windows(
    content: bytes, photos: Path, standard_input: Callable[[bytes], None]
) -> None:
    standard_input(content)
    assert [each.path for each in given_sources(["-"])] == [Path("photos/a.png")]


def test_a_list_on_standard_input_may_have_names_of_any_bytes(
    photos: Path, standard_input: Callable[[bytes], None]
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (photos / "a.png").rename(photos / name)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    standard_input(b"photos/caf\xe9.png\n")
    assert [each.path for each in given_sources(["-"])] == [Path("photos") / name]


def test_links_to_nothing_in_a_folder_are_named_when_they_are_read(photos: Path) -> None:
    (photos / "d.mp4").unlink()
    (photos / "z.jpg").symlink_to("nowhere.jpg")
    assert named(given_sources(["photos"]))[-1] == ("picture", "photos/z.jpg")
