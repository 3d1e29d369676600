"""Finds the sources that a user names: files, globs, folders, lists, standard input, cameras, addresses, pipelines."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from edgekit.arguments import either
from edgekit.data.files import files_below, files_in
from edgekit.data.formats.text_lines import utf8_bytes
from edgekit.data.images import image_suffixes
from edgekit.data.missing import hint_on_missing
from edgekit.data.video.files import VIDEO_SUFFIXES
from edgekit.data.video.source import Note, ignored
from edgekit.data.video.stdin import Encoded, Joined, content_of_stdin
from edgekit.errors import DataError
from edgekit.extras import install_command

__all__ = [
    "Given",
    "given_sources",
    "is_address",
    "is_one_picture",
    "is_picture_address",
    "is_special",
    "shown_address",
]

Kind = Literal["picture", "video", "camera", "network", "pipeline", "stdin"]

LISTS = (".list", ".lst", ".txt")
"""Suffixes of text files with one source per line."""

_PREFIXES: dict[str, Kind] = {"camera:": "camera", "gst:": "pipeline", "nvdec:": "pipeline"}
_ADDRESS = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt)://", re.IGNORECASE)
_MAX_LIST_BYTES = 64 << 20


class Given(NamedTuple):
    """One source.

    Attributes:
        kind: ``picture`` and ``video`` are files.
        place: a path, an address, or what the user wrote, such as ``camera:0``.
        within: the folder that was given, if the file was found in one.
        content: of standard input: the bytes of a picture, or a file object of a video.
    """

    kind: Kind
    place: str
    within: Path | None = None
    content: Encoded | Joined | None = None

    @property
    def path(self) -> Path:
        """The file of a picture or a video."""
        return Path(self.place)

    @property
    def key(self) -> str:
        """The `Frame.source` of its frames."""
        if self.kind == "picture":
            return str(self.path)
        return shown_address(self.place) if self.kind == "network" else self.place

    @property
    def is_live(self) -> bool:
        """Whether the source may have no end; of an address, it is known when it is opened."""
        return self.kind in ("camera", "network", "pipeline")


def given_sources(texts: Iterable[str], *, recursive: bool = False, note: Note = ignored) -> list[Given]:
    """Returns the sources that the user names, in order; those of a folder or a glob are sorted by name.

    Args:
        texts: each is a file, a glob such as ``photos/*.jpg``, a folder of pictures and videos, a text file with one
            source per line, ``-`` for standard input (a picture, a video, or a list), ``camera:0``, ``camera:csi0``,
            an address (``rtsp://``, ``http://``), ``gst:PIPELINE`` or ``nvdec:FILE_OR_ADDRESS``.
        recursive: search the subfolders of folders too.
        note: receives a message if videos of a folder are left out because PyAV is not installed.

    Raises:
        DataError: a file does not exist, a folder has no pictures or videos, or a list cannot be read.
    """
    return [found for text in texts for found in _given(text, None, recursive, note)]


def is_address(text: str) -> bool:
    """Whether a text is a network address that FFmpeg reads."""
    return _ADDRESS.match(text) is not None


def is_special(text: str) -> bool:
    """Whether a text names a source that is no file: a camera, an address or a pipeline."""
    return is_address(text) or text.startswith(tuple(_PREFIXES))


def is_one_picture(given: Given) -> bool:
    """Whether a source is one picture: a file, an address of one, or one on standard input."""
    if given.kind == "stdin":
        return isinstance(given.content, Encoded)
    if given.kind == "network":
        return is_picture_address(given.place)
    return given.kind == "picture"


def is_picture_address(address: str) -> bool:
    """Whether an address on a web server has the name of a picture."""
    parts = urlsplit(address)
    return parts.scheme.lower() in ("http", "https") and Path(parts.path).suffix.lower() in image_suffixes()


def shown_address(address: str) -> str:
    """Returns an address for messages and results: without its password."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", address)


def _given(text: str, base: Path | None, recursive: bool, note: Note) -> Iterator[Given]:
    """Yields the sources that a text names; ``base`` is the folder of the list that has it."""
    prefix = next((each for each in _PREFIXES if text.startswith(each)), None)
    if prefix is not None:
        yield Given(_PREFIXES[prefix], text)
    elif is_address(text):
        yield Given("network", text)
    elif text == "-" and base is None:
        yield from _from_stdin(recursive, note)
    else:
        yield from _from_path(_beside_list(text, base), recursive, note)


def _beside_list(text: str, base: Path | None) -> str:
    """Returns a path in a list: relative to the list's folder if it is there, else to the working folder.

    Lists of Windows have backslashes.
    """
    if base is None:
        return text
    for written in dict.fromkeys((text, text.replace("\\", "/"))):
        pattern = os.path.join(glob.escape(str(base)), written)
        for place in (str(base / written), written):
            if os.path.exists(place):
                return place
        if glob.glob(pattern, recursive=True):
            return pattern
        if glob.glob(written, recursive=True):
            return written
    return text


def _from_path(text: str, recursive: bool, note: Note) -> Iterator[Given]:
    path = Path(text)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        if not glob.has_magic(text):
            raise DataError(f"{text}: expected a file or a folder, got no such file", hint=hint_on_missing(text)) from e
        yield from _from_glob(text, recursive, note)
        return
    except (OSError, ValueError):
        yield Given("picture", text)  # without access, or no valid name: reading it raises the reason
        return
    if path.is_dir():
        yield from _from_folder(path, recursive, note)
    elif path.suffix.lower() in LISTS:
        yield from _from_list(_list_text(path), path.parent, str(path), recursive, note)
    else:
        yield Given(_kind_of(path), text)


def _from_glob(pattern: str, recursive: bool, note: Note) -> Iterator[Given]:
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise DataError(f"{pattern}: expected files whose names match, got none")
    for path in paths:
        yield from _from_path(path, recursive, note)


def _from_folder(folder: Path, recursive: bool, note: Note) -> Iterator[Given]:
    suffixes = (*image_suffixes(), *VIDEO_SUFFIXES)
    files = list(files_below(folder, *suffixes)) if recursive else files_in(folder, *suffixes, dead_links=True)
    if not files:
        below = None if recursive else next(files_below(folder, *suffixes), None)
        search = either("--recursive", "recursive=True")
        raise DataError(
            f"{folder}: expected pictures or videos, got none",
            hint=f"subfolders are searched with {search}; or pass one of them, such as {below.parent}" if below else "",
        )
    given = [Given(_kind_of(path), str(path), folder) for path in files]
    videos = [each for each in given if each.kind == "video"]
    if videos and len(videos) < len(given) and importlib.util.find_spec("av") is None:
        # Pictures have always been read without PyAV, also where a telephone has put videos beside them.
        note(f"{folder}: {len(videos)} videos are left out, since PyAV is not installed: {install_command('video')}")
        given = [each for each in given if each.kind != "video"]
    yield from given


def _from_stdin(recursive: bool, note: Note) -> Iterator[Given]:
    found = content_of_stdin()
    if isinstance(found, str):
        yield from _from_list(found, Path(), "-", recursive, note)
    else:
        yield Given("stdin", "-", content=found)


def _from_list(text: str, base: Path, name: str, recursive: bool, note: Note) -> Iterator[Given]:
    lines = [line.strip() for line in text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise DataError(f"{name}: expected one source per line, got none")
    for line in wanted:
        if Path(line).suffix.lower() in LISTS and not is_address(line):
            raise DataError(f"{name}: expected pictures and videos, got another list: {line}")
        yield from _given(line, base, recursive, note)


def _list_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise DataError(f"{path}: expected a list of at most {_MAX_LIST_BYTES:,} bytes, got a larger file")
        text = utf8_bytes(path.read_bytes()).decode("utf-8", "surrogateescape")  # names may be any bytes
    except OSError as e:
        raise DataError(f"{path}: expected a list of sources, got: {e.strerror}") from e
    if "\0" in text:
        raise DataError(f"{path}: expected a list with one source per line, got a file that is no text")
    return text


def _kind_of(path: Path) -> Kind:
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else "picture"
