"""Lists a data set's files and finds the files that its lists and annotations name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from edgekit.errors import DataError
from edgekit.storage import is_there

__all__ = [
    "AnyCase",
    "Finder",
    "child",
    "files_below",
    "files_in",
    "folded",
    "folders_in",
    "is_hidden",
    "leads_to_nothing",
    "require_no_pointer",
]

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def is_hidden(name: str) -> bool:
    """Whether a name is hidden or an operating system's own: ``._a.xml``, ``.DS_Store``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def files_in(folder: Path, *suffixes: str, dead_links: bool = False) -> list[Path]:
    """Returns the visible files of a folder, sorted; with ``suffixes`` (lower case), only those, in any case.

    Args:
        folder: the folder.
        suffixes: suffixes in lower case; all files if there are none.
        dead_links: return links to nothing too, so that they are not left out in silence: reading one is an error.

    Raises:
        DataError: the folder cannot be read.
    """
    found = (path for path in _entries(folder) if _has_suffix(path, suffixes))
    return [path for path in found if path.is_file() or (dead_links and leads_to_nothing(path))]


def leads_to_nothing(path: Path) -> bool:
    """Whether a path is a link to a file that does not exist, or one of links that lead to each other."""
    return os.path.islink(path) and not is_there(path)


def folders_in(folder: Path) -> list[Path]:
    """Returns the visible subfolders, sorted, and links to folders; without ``__pycache__`` and the like.

    Raises:
        DataError: the folder cannot be read.
    """
    return [path for path in _entries(folder) if not path.name.startswith("__") and path.is_dir()]


def require_no_pointer(start: bytes, path: Path) -> None:
    """Raises a `DataError` if a file with this start is a pointer of Git LFS, in place of a file not fetched yet."""
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: expected the file itself, got a pointer of Git LFS", hint="run: git lfs pull")


def files_below(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Yields the visible files of a folder and its subfolders, sorted; follows links to folders.

    A link to one of its own parent folders is not followed.

    Raises:
        DataError: a folder cannot be read.
    """
    yield from _below(folder, suffixes, frozenset())


def child(folder: Path, *names: str) -> Path | None:
    """Returns the entry of a folder with one of these lower-case names, in any case; None if there is none."""
    if not folder.is_dir():
        return None
    found = {path.name.lower(): path for path in _entries(folder)}
    return next((found[name] for name in names if name in found), None)


class AnyCase:
    """Finds files by names in any case and form; the entries of a folder are listed once.

    macOS writes ü as two characters, u and ¨ (NFD), as do archives that are made there; other programs write one.
    """

    def __init__(self) -> None:
        self._entries: dict[Path, dict[str, Path]] = {}

    def path(self, folder: Path, *parts: str) -> Path | None:
        """Returns the visible file or folder at ``parts`` below a folder, or None."""
        found: Path | None = folder
        for part in parts:
            if found is None:
                return None
            found = found.parent if part == ".." else self._listed(found).get(folded(part))
        return found

    def _listed(self, folder: Path) -> dict[str, Path]:
        if folder not in self._entries:
            try:
                listed = {folded(path.name): path for path in reversed(_entries(folder))}
            except DataError:  # a file, or a folder of other users
                listed = {}
            self._entries[folder] = listed
        return self._entries[folder]


def folded(name: str) -> str:
    """Returns a name as it is compared with others: in small letters, and in one form; see `AnyCase`."""
    return unicodedata.normalize("NFC", name).lower()


class Finder:
    r"""Finds files by the paths in lists and annotations, which are often relative to another folder or machine.

    A path is tried as it is if it is absolute, then relative to each folder. Then its first folders are dropped, one
    after the other, because ``/home/a/set/images/1.jpg`` and ``C:\set\images\1.jpg`` are ``images/1.jpg`` here. If
    nothing is found, all is tried again in any case and form, see `AnyCase`.

    Attributes:
        moved: number of paths that were found without their first folders.
    """

    def __init__(
        self, folders: Sequence[Path], *, nearest: int | None = None, accept: Callable[[Path], bool] = Path.is_file
    ) -> None:
        """Sets the folders to search.

        Args:
            folders: the folders, in order of preference.
            nearest: search paths without their first folders in the first so many folders only.
            accept: whether a path that exists is one that is searched for.
        """
        self.moved = 0
        self._folders = list(dict.fromkeys(folders))
        self._nearest = self._folders[:nearest]
        self._accept = accept
        self._in_any_case = AnyCase()
        self._last: tuple[Path, int] | None = None

    def find(self, text: str) -> Path | None:
        """Returns the file with this path, or None."""
        text = text.strip()
        absolute = Path(text)
        if absolute.is_absolute() and self._is_found(absolute):
            return absolute
        for resolve in (Path.joinpath, self._in_any_case.path):
            for written in dict.fromkeys((text, unquote(text))):
                found = self._relative(_parts(written), resolve)
                if found is not None:
                    return found
        return None

    def _relative(self, parts: tuple[str, ...], resolve: Callable[..., Path | None]) -> Path | None:
        if not parts:
            return None
        for folder, dropped in self._places(len(parts)):
            path = resolve(folder, *parts[dropped:])
            if path is not None and self._is_found(path):
                self._last = (folder, dropped)
                self.moved += dropped > 0
                return path
        return None

    def _places(self, length: int) -> Iterator[tuple[Path, int]]:
        # The lines of a list are alike, so that the place of the last file is nearly always that of the next one.
        if self._last is not None and self._last[1] < length:
            yield self._last
        for folder in self._folders:
            yield folder, 0
        for dropped in range(1, length):
            for folder in self._nearest:
                yield folder, dropped

    def _is_found(self, path: Path) -> bool:
        return is_there(path) and self._accept(path)


def _parts(text: str) -> tuple[str, ...]:
    """Splits a path of any operating system at its slashes; drops a drive, a root and ``.``."""
    text = re.sub(r"^[A-Za-z]:(?=[\\/])", "", text.replace("file://", ""))
    return tuple(part for part in re.split(r"[\\/]+", text) if part not in ("", "."))


def _has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    return not suffixes or path.name.lower().endswith(tuple(suffixes))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if not is_hidden(name))
    except OSError as e:
        raise DataError(f"{folder}: expected a readable folder, got: {e.strerror}") from e


def _below(folder: Path, suffixes: Sequence[str], above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _below(path, suffixes, above | {real})
        elif _has_suffix(path, suffixes):
            yield path
