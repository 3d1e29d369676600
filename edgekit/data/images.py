"""Reads images as 8-bit RGB and preprocesses them into model inputs."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekit.errors import DataError, RecipeError
from edgekit.recipe.schema import Preprocess
from edgekit.storage import first_file, is_there

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "Placement", "images_in", "preprocess", "read_image"]

ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray"

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

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

# Warning filters are global to the process: two threads that change them at once could leave them changed.
_warning_filters = threading.Lock()


@dataclass(frozen=True)
class Placement:
    """Maps image coordinates to model input coordinates: ``input = image * scale + offset``, for each axis.

    Boxes are corners ``(x1, y1, x2, y2)``.

    Attributes:
        scale: input px per image px, ``(x, y)``; the two differ if sizes were rounded to whole px.
        offset: position of the image's upper left corner in input px, ``(x, y)``; negative after a crop.
        size: width and height of the image in px.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Converts corners in input px, shape ``(N, 4)``, to float32 corners in image px, clipped to the image."""
        corners = (boxes.astype(np.float64).reshape(-1, 2, 2) - self.offset) / self.scale
        return np.clip(corners, 0, self.size).reshape(-1, 4).astype(np.float32)

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Converts corners in image px, shape ``(N, 4)``, to float32 corners in input px."""
        corners = boxes.astype(np.float64).reshape(-1, 2, 2) * self.scale + self.offset
        return corners.reshape(-1, 4).astype(np.float32)


def read_image(source: ImageSource) -> np.ndarray:
    """Reads an image as 8-bit RGB.

    EXIF orientation is applied; an animation gives its first frame; 16-bit samples lose their lower byte.
    Transparent pixels are blended onto white, because images that have them (cut-outs, diagrams, screenshots) are
    drawn for a white page, and the color stored under a transparent pixel is arbitrary.

    Args:
        source: a file, a Pillow image of any mode, or a uint8 RGB array of shape ``(H, W, 3)``.

    Returns:
        uint8 RGB, shape ``(H, W, 3)``; read-only if it was decoded; an array passed in is returned as is.

    Raises:
        DataError: the file is missing, broken or not an image, or has more pixels than Pillow accepts; or the array
            is not uint8 ``(H, W, 3)``.
    """
    if isinstance(source, np.ndarray):
        _check_array(source)
        return source
    return np.asarray(_rgb_image(source))


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
    files = sorted(path for path in folder.iterdir() if is_image(path))
    if files:
        return files
    below = sorted(path for path in folder.iterdir() if path.is_dir() and any(map(is_image, path.iterdir())))
    raise DataError(
        f"{folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), got none",
        hint=f"subfolders are not searched; pass one of them, such as {below[0]}" if below else "",
    )


def is_image(path: Path) -> bool:
    """Whether ``path`` is a visible file with an image suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def preprocess(source: ImageSource, how: Preprocess, shape: tuple[int | str, ...]) -> tuple[np.ndarray, Placement]:
    """Converts an image to a model's input.

    Args:
        source: any source that `read_image` accepts.
        how: resizing, channel order, layout, normalization.
        shape: the input's shape in ``how.layout``; its first entry, the batch, is ignored.

    Returns:
        float32, contiguous, of ``shape`` with a batch of 1, and the placement of the image in it.

    Raises:
        DataError: as `read_image`.
        RecipeError: ``shape`` does not match ``how``.
    """
    height, width = _height_width(how, shape)
    image = _rgb_image(source)
    if how.color == "gray":
        image = image.convert("L")
    image, placement = _resized(image, how, (width, height))
    planes = image.split()
    if how.color == "bgr":
        planes = planes[::-1]

    batch = np.empty(
        (1, how.channels, height, width) if how.layout == "nchw" else (1, height, width, how.channels), np.float32
    )
    targets = batch[0] if how.layout == "nchw" else batch[0].transpose(2, 0, 1)
    left, top = (max(0, int(offset)) for offset in placement.offset)
    for plane, target, mean, std in zip(planes, targets, how.mean, how.std, strict=True):
        if image.size != (width, height):
            target[...] = how.pad
        target[top : top + image.height, left : left + image.width] = np.asarray(plane)
        # Pixels are integers up to here and the quotient is rounded once, so quantizing the input with the scale
        # 1/divisor and zero point 0 is lossless.
        target /= np.float32(how.divisor)
        if mean != 0:
            target -= np.float32(mean)
        if std != 1:
            target /= np.float32(std)
    return batch, placement


def _resized(image: Image.Image, how: Preprocess, size: tuple[int, int]) -> tuple[Image.Image, Placement]:
    """Resizes the image for an input of ``size``; returns it with its placement."""
    if how.resize == "letterbox":
        return _letterboxed(image, size)
    if how.resize == "crop":
        return _cropped(image, size, how.resize_to)
    scale = (size[0] / image.width, size[1] / image.height)
    return _scaled(image, size), Placement(scale, (0.0, 0.0), image.size)


def _letterboxed(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, Placement]:
    """Letterboxes like Darknet's ``letterbox_image``: aspect kept, sizes and offsets rounded down, image centered."""
    (width, height), (out_width, out_height) = image.size, size
    if out_width * height < out_height * width:
        inner = (out_width, max(1, height * out_width // width))
    else:
        inner = (max(1, width * out_height // height), out_height)
    offset = ((out_width - inner[0]) // 2, (out_height - inner[1]) // 2)
    placement = Placement((inner[0] / width, inner[1] / height), (float(offset[0]), float(offset[1])), image.size)
    return _scaled(image, inner), placement


def _cropped(image: Image.Image, size: tuple[int, int], short_side: int) -> tuple[Image.Image, Placement]:
    """Crops like torchvision's ``Resize(short_side)`` and ``CenterCrop(size)``, with the same rounding."""
    (width, height), (out_width, out_height) = image.size, size
    if 0 < short_side < max(size):
        raise RecipeError(
            f"preprocess.resize_to: expected 0 or at least {max(size)}, the input's size, got {short_side}"
        )
    if short_side:
        inner = (max(short_side, short_side * width // height), max(short_side, short_side * height // width))
    else:
        inner = (max(out_width, out_height * width // height), max(out_height, out_width * height // width))
    left, top = round((inner[0] - out_width) / 2), round((inner[1] - out_height) / 2)
    scale = (inner[0] / width, inner[1] / height)
    # Only the part that is kept is computed: otherwise an image of 1 x 10,000 px would be resized to gigabytes first.
    part = (left / scale[0], top / scale[1], (left + out_width) / scale[0], (top + out_height) / scale[1])
    part = (part[0], part[1], min(part[2], width), min(part[3], height))  # rounding may exceed the edge
    return _scaled(image, size, part), Placement(scale, (float(-left), float(-top)), image.size)


def _scaled(
    image: Image.Image, size: tuple[int, int], part: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # With a gap of 3, Pillow averages whole blocks first if an image shrinks more than six-fold: the difference is
    # invisible, and 20 megapixels take a fraction of the time.
    return image.resize(size, Image.Resampling.BILINEAR, box=part, reducing_gap=3.0)


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


def _rgb_image(source: ImageSource) -> Image.Image:
    if isinstance(source, np.ndarray):
        _check_array(source)
        return Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _decoded(source, "image")
    path = Path(source)
    if first_file([path]) is None:
        raise DataError(f"{path}: expected an image, got {'a folder' if is_there(path) else 'no such file'}")
    with _opened(path) as image:
        return _decoded(image, str(path))


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
        raise DataError(f"{path}: expected an image, got a file format that Pillow cannot read") from e
    except Exception as e:  # on a broken file, Pillow's parsers may raise any exception
        raise _broken(str(path), e) from e


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        if 0 in image.size:
            raise DataError(f"{name}: expected at least one pixel, got {image.width} x {image.height}")
        orientation = _orientation(image)
        image = _rgb(image, name)
        return image.transpose(_TURN_UPRIGHT[orientation]) if orientation in _TURN_UPRIGHT else image
    except DataError:
        raise
    except Exception as e:  # as above: struct.error, IndexError, SyntaxError and others, besides OSError
        raise _broken(name, e) from e


def _orientation(image: Image.Image) -> int | None:
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # like image viewers, ignore damaged EXIF data
        return None
    return orientation if isinstance(orientation, int) else None


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        return _from_16_bit(image, name)
    if image.mode == "F":
        raise DataError(f"{name}: expected 8 or 16 bits per sample, got 32-bit floats, which have no standard range")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(image, mask=image.getchannel("A"))
    return on_white


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    samples = np.asarray(image)
    low, high = int(samples.min()), int(samples.max())
    if low < 0 or high > 0xFFFF:
        raise DataError(f"{name}: expected 8 or 16 bits per sample, got values from {low} to {high}")
    return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")


def _broken(name: str, reason: Exception) -> DataError:
    text = str(reason) or type(reason).__name__
    return DataError(f"{name}: broken image: {text}")
