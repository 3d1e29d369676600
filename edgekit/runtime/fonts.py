"""Finds a font that has the letters of a label, in any script."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from PIL import ImageFont

from edgekit.data.files import files_below
from edgekit.errors import DataError

__all__ = ["Font", "INSTALL_FONT", "label_font"]

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

INSTALL_FONT = "install a font that has them, such as Noto Sans CJK (Debian: apt install fonts-noto-cjk)"

_SUFFIXES = (".ttf", ".otf", ".ttc")
# Families with many scripts, the most legible first.
_WIDE = (
    "notosanscjk", "notosans", "sourcehansans", "dejavusans", "arialunicode", "arial unicode", "pingfang", "msyh",
    "malgun", "segoeui", "droidsansfallback", "wqy", "unifont",
)  # fmt: skip
_STYLED = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "narrow", "mono", "serif")
_TESTED_SIZE = 20
# No font has this character, so that its image is that of a missing glyph (Unicode, noncharacters).
_MISSING = "\uffff"


def label_font(text: str, size: float) -> Font | None:
    """Returns Pillow's own font if it has all letters of a text, else one of the system or of a package that does.

    Args:
        text: the text.
        size: height of the font in px.

    Returns:
        The font, or None if no font here has all letters.
    """
    letters = frozenset(letter for letter in text if unicodedata.category(letter)[0] not in "MZC")
    if _own_has(letters):
        return _own_font(size)
    file = _file_with(letters)
    return None if file is None else _font_in(file, max(1, round(size)))


# Kept, because a video has the same labels in every frame, and reading a font takes longer than drawing a label.
@functools.lru_cache(maxsize=32)
def _own_font(size: float) -> Font:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=32)
def _font_in(file: Path, size: int) -> Font:
    return ImageFont.truetype(file, size)


@functools.lru_cache(maxsize=1024)
def _own_has(letters: frozenset[str]) -> bool:
    return _has_all(_own_font(_TESTED_SIZE), letters)


@functools.lru_cache(maxsize=1024)
def _file_with(letters: frozenset[str]) -> Path | None:
    for file in _font_files():
        try:
            font = ImageFont.truetype(file, _TESTED_SIZE)
        except OSError:  # damaged, or a bitmap font
            continue
        if _has_all(font, letters):
            return file
    return None


def _has_all(font: Font, letters: frozenset[str]) -> bool:
    if isinstance(font, ImageFont.ImageFont):  # without FreeType, Pillow has Latin-1 only
        return all(ord(letter) < 256 for letter in letters)
    try:
        missing = _image(font, _MISSING)
        return all(_image(font, letter) != missing for letter in letters)
    except OSError:  # FreeType cannot draw a damaged glyph
        return False


def _image(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.cache
def _font_files() -> tuple[Path, ...]:
    """Returns the font files of Python packages and of the system, those with many scripts first."""
    found = [*_packaged(), *(file for folder in _font_folders() for file in _below(folder))]
    return tuple(sorted(dict.fromkeys(found), key=_preference))


def _preference(file: Path) -> tuple[int, int, str]:
    name = file.name.lower().replace("-", "").replace("_", "")
    family = next((i for i, wide in enumerate(_WIDE) if name.startswith(wide)), len(_WIDE))
    return family, sum(word in name for word in _STYLED), str(file)


def _packaged() -> Iterator[Path]:
    for distribution in importlib.metadata.distributions():
        if str(distribution.metadata["Name"]).lower().startswith(("font-", "fonts-", "fontpkg-")):
            for file in distribution.files or ():
                if file.suffix.lower() in _SUFFIXES:
                    yield Path(str(file.locate()))


def _below(folder: Path) -> list[Path]:
    try:
        return list(files_below(folder, *_SUFFIXES)) if folder.is_dir() else []
    except DataError:  # a folder that may not be read has no fonts for this user
        return []


def _font_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        own = Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local"))
        return [own / "Microsoft/Windows/Fonts", Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local/share"))
    return [data / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]
