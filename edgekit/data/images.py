"""Reads images as 8-bit RGB and preprocesses them into model inputs."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekit.data.files import files_below, files_in, is_hidden, leads_to_nothing, require_no_pointer
from edgekit.data.image_notes import note_on_image
from edgekit.data.image_samples import is_deep, with_8_bits
from edgekit.errors import DataError, RecipeError
from edgekit.kernels.preprocess.geometry import Placement, placement
from edgekit.kernels.preprocess.resample import normalize, resample
from edgekit.recipe.schema import Preprocess
from edgekit.storage import first_file, is_there

__all__ = [
    "NOT_DECODED",
    "ImageSource",
    "Placement",
    "image_size",
    "image_suffixes",
    "images_below",
    "images_in",
    "is_image",
    "note_other_frames",
    "preprocess",
    "read_image",
]

ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray"

NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Pillow only identifies these, needs another program to decode them (Ghostscript runs code), or only decodes them on
Windows."""

_HOW_TO_CONVERT = {
    "Tensor": "convert it with image.numpy(), after permute(1, 2, 0) if its channels come first",
    "bytes": "use PIL.Image.open(io.BytesIO(data))",
    "BytesIO": "use PIL.Image.open(file)",
    "BufferedReader": "use PIL.Image.open(file)",
    "generator": "use stream() for many images, or a list",
}
# Not MPO, the photos of phones: the further images are previews and data for screens.
_WITH_FRAMES = frozenset({"AVIF", "GIF", "PNG", "TIFF", "WEBP"})
_EXIF_ORIENTATION = 0x0112
_TURN_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_INVERSE: dict[int | None, int | None] = {6: 8, 8: 6}
"""Orientations that undo others; any other one undoes itself."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257

# Warning filters are global to the process: two threads that change them at once could leave them changed.
_warning_filters = threading.Lock()


def read_image(source: ImageSource, *, upright: bool = True) -> np.ndarray:
    """Reads an image as 8-bit RGB.

    EXIF orientation is applied. A file with several frames or pages gives the first, with a note. 16-bit samples lose
    their lower byte; for 32-bit samples see `edgekit.data.image_samples.with_8_bits`.
    Transparent pixels are blended onto white, because images that have them (cut-outs, diagrams, screenshots) are
    drawn for a white page, and the color stored under a transparent pixel is arbitrary.

    Args:
        source: a file, a Pillow image of any mode, or a uint8 RGB array of shape ``(H, W, 3)``.
        upright: apply EXIF orientation; else the image is as it is stored.

    Returns:
        uint8 RGB, shape ``(H, W, 3)``; read-only if it was decoded; an array passed in is returned as is.

    Raises:
        DataError: the file is missing, broken or not an image, or has more pixels than Pillow accepts; or the array
            is not uint8 ``(H, W, 3)``.
    """
    if isinstance(source, np.ndarray):
        _check_array(source)
        return source
    return np.asarray(_rgb_image(source, upright=upright))


def images_in(folder: str | Path) -> list[Path]:
    """Lists the image files in a folder, sorted by name; subfolders and hidden files are ignored.

    Raises:
        DataError: the folder does not exist or contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder of images, got {'a file' if folder.exists() else 'no such folder'}"
        )
    files = files_in(folder, *image_suffixes(), dead_links=True)
    if files:
        return files
    below = next(images_below(folder), None)
    raise DataError(
        f"{folder}: expected images (.jpg, .png and the other suffixes that Pillow reads), got none",
        hint=f"subfolders are not searched; pass one of them, such as {below.parent}" if below else "",
    )


def images_below(folder: Path) -> Iterator[Path]:
    """Yields the image files in a folder and its subfolders, sorted; follows links to folders, skips hidden files.

    Raises:
        DataError: a folder cannot be read.
    """
    yield from files_below(folder, *image_suffixes())


def is_image(path: Path) -> bool:
    """Whether ``path`` is a visible file with an image suffix."""
    return path.suffix.lower() in image_suffixes() and not is_hidden(path.name) and path.is_file()


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of all image formats that this Pillow decodes, in lower case, sorted."""
    found = Image.registered_extensions()
    # Pillow opens MPO, which 3D cameras and phones write, as JPEG, and has no reader by its name.
    readable = Image.OPEN.keys() - NOT_DECODED | {"MPO"}
    return tuple(sorted(suffix for suffix, name in found.items() if name in readable))


def note_other_frames(image: Image.Image, name: str) -> None:
    """Notes that an image file just opened has more frames or pages than the first, which `read_image` reads."""
    try:
        several = image.format in _WITH_FRAMES and image.is_animated  # type: ignore[attr-defined]
    except Exception:  # damage behind the first frame, by which Pillow's parsers may raise any exception
        several = True
    if several:
        what = "page" if image.format == "TIFF" else "frame"
        note_on_image(what, f"{name} has several {what}s: the first is used")


def image_size(path: Path) -> tuple[int, int]:
    """Reads the width and height of an image file in px, as `read_image` turns it, without decoding the pixels.

    Raises:
        DataError: as `read_image`.
    """
    if first_file([path]) is None:
        raise _no_file(path)
    with _opened(path) as image:
        width, height = image.size
        if image.format == "TIFF":  # whose size newer versions of Pillow turn when they open it
            width, height = (int(image.tag_v2[tag]) for tag in (_TIFF_WIDTH, _TIFF_HEIGHT))  # type: ignore[attr-defined]
        if 0 in image.size:
            raise DataError(f"{path}: expected at least one pixel, got {width} x {height}")
        # Orientations 5 to 8 swap the axes.
        return (height, width) if (_orientation(image) or 1) in range(5, 9) else (width, height)


def preprocess(
    source: ImageSource, how: Preprocess, shape: tuple[int | str, ...], dtype: str = "float32"
) -> tuple[np.ndarray, Placement]:
    """Converts an image to a model's input.

    Args:
        source: any source that `read_image` accepts.
        how: resizing, channel order, layout, normalization.
        shape: the input's shape in ``how.layout``; its first entry, the batch, is ignored.
        dtype: element type of the input; for ``uint8``, ``how`` keeps pixels as they are.

    Returns:
        An array of ``dtype``, contiguous, of ``shape`` with a batch of 1, and the placement of the image in it.

    Raises:
        DataError: as `read_image`.
        RecipeError: ``shape`` does not match ``how``.
    """
    height, width = _height_width(how, shape)
    image: np.ndarray | Image.Image
    if how.color == "gray":
        image = _rgb_image(source).convert("L")
    elif how.interpolation == "bilinear" and how.antialias:
        image = _rgb_image(source)
    else:
        image = read_image(source)
    size = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
    where = placement(how, size, (width, height))
    batch = normalize(resample(image, how, where), how, where, (width, height))
    return np.asarray(batch, dtype), where.placement


def _height_width(how: Preprocess, shape: tuple[int | str, ...]) -> tuple[int, int]:
    sides = shape[2:] if how.layout == "nchw" else shape[1:3]
    channels = shape[1:2] if how.layout == "nchw" else shape[3:]
    if len(shape) == 4 and channels == (how.channels,):
        height, width = sides
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    axes = f"N, {how.channels}, H, W" if how.layout == "nchw" else f"N, H, W, {how.channels}"
    raise RecipeError(
        f"input shape: expected ({axes}) with fixed H and W for preprocess.color = '{how.color}' and "
        f"preprocess.layout = '{how.layout}', got ({', '.join(map(str, shape))})"
    )


def _check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise DataError(
            f"image: expected an RGB array, uint8 (H, W, 3), got {array.dtype} {array.shape}",
            hint="convert other arrays with PIL.Image.fromarray",
        )


def _rgb_image(source: ImageSource, *, upright: bool = True) -> Image.Image:
    if isinstance(source, np.ndarray):
        _check_array(source)
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _decoded(source, "image", upright)
    if not isinstance(source, (str, Path)):
        raise DataError(
            f"image: expected a path, a Pillow image or a uint8 array (H, W, 3), got {type(source).__name__}",
            hint=_HOW_TO_CONVERT.get(type(source).__name__, ""),
        )
    path = Path(source)
    if first_file([path]) is None:
        raise _no_file(path)
    with _opened(path) as image:
        note_other_frames(image, str(path))
        return _decoded(image, str(path), upright)


def _opened(path: Path) -> Image.Image:
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise DataError(
            f"{path}: expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more",
            hint="shrink the image, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file",
        ) from e
    except UnidentifiedImageError as e:
        with path.open("rb") as file:
            require_no_pointer(file.read(64), path)
        got = "a file format that Pillow cannot read" if path.stat().st_size else "an empty file"
        raise DataError(f"{path}: expected an image, got {got}") from e
    except Exception as e:  # on a broken file, Pillow's parsers may raise any exception
        raise _broken(str(path), e) from e


def _decoded(image: Image.Image, name: str, upright: bool) -> Image.Image:
    try:
        if 0 in image.size:
            raise DataError(f"{name}: expected at least one pixel, got {image.width} x {image.height}")
        stored = _orientation(image)
        image.load()
        orientation = _orientation(image)
        if not upright:  # Pillow has turned a TIFF file while it was loaded
            orientation = _INVERSE.get(stored, stored) if stored != orientation else None
        rgb = None if is_deep(image) else _rgb(image)
    except DataError:
        raise
    except Exception as e:  # as above: struct.error, IndexError, SyntaxError and others, besides OSError
        raise _broken(name, e) from e
    image = with_8_bits(image, name) if rgb is None else rgb
    return image.transpose(_TURN_UPRIGHT[orientation]) if orientation in _TURN_UPRIGHT else image


def _orientation(image: Image.Image) -> int | None:
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # like image viewers, ignore damaged EXIF data
        return None
    return orientation if isinstance(orientation, int) else None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(image, mask=image.getchannel("A"))
    return on_white


def _no_file(path: Path) -> DataError:
    if leads_to_nothing(path):
        return DataError(f"{path}: expected an image, got a link to {os.readlink(path)}, which does not exist")
    return DataError(f"{path}: expected an image, got {'a folder' if is_there(path) else 'no such file'}")


def _broken(name: str, reason: Exception) -> DataError:
    text = str(reason) or type(reason).__name__
    return DataError(f"{name}: broken image: {text}")
