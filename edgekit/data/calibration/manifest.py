"""Calibration set manifests (TOML): the images with their licenses, and the views of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from edgekit.errors import CalibrationError
from edgekit.recipe.messages import expect, recipe_error
from edgekit.recipe.toml_data import decoded_toml

__all__ = ["Manifest", "CalibrationImage", "View", "manifest_from_file"]

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class CalibrationImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image and its origin.

    Attributes:
        file: path, relative to the manifest's folder.
        sha256: hash of the file, in hexadecimal.
        license: SPDX identifier, or the text of the license.
        author: author of the image.
        source: origin of the file.
    """

    file: _Text
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    license: _Text
    author: _Text
    source: _Text


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A crop of an image, optionally mirrored.

    Attributes:
        name: name in messages.
        crop: left, top, right and bottom, as fractions of the image's width and height.
        mirror: flip horizontally.
    """

    name: _Text
    crop: tuple[_Fraction, _Fraction, _Fraction, _Fraction] = (0.0, 0.0, 1.0, 1.0)
    mirror: bool = False

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        expect(left < right and top < bottom, "crop", "left < right and top < bottom", list(self.crop))


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A calibration set: every view of every image.

    Attributes:
        title: one-line description.
        images: the images.
        views: views of each image; the whole image by default.
    """

    title: _Text
    images: Annotated[tuple[CalibrationImage, ...], msgspec.Meta(min_length=1)]
    views: Annotated[tuple[View, ...], msgspec.Meta(min_length=1)] = (View("whole"),)


def manifest_from_file(file: Path) -> Manifest:
    """Reads a manifest from a TOML file.

    Raises:
        CalibrationError: the file cannot be read, is not TOML, or has an invalid field; names file, field and value.
    """
    try:
        raw = decoded_toml(file.read_bytes())
    except OSError as e:
        raise CalibrationError(f"calibration set {file}: expected a TOML file, got: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise CalibrationError(f"calibration set {file}: not valid TOML: {e}") from e
    try:
        return msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as e:
        error = recipe_error(file, e, raw, Manifest)
        raise CalibrationError(f"calibration set {error.message.removeprefix('recipe ')}", hint=error.hint) from e
