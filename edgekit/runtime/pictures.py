"""The picture that a result belongs to, and pictures as parts of HTML pages."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from edgekit.data.frames import Format, frame_size, rgb_frame
from edgekit.data.images import image_size, read_image
from edgekit.device.cuda.arrays import is_on_device
from edgekit.errors import UsageError

__all__ = ["Picture", "data_address", "save_image"]


class Picture(NamedTuple):
    """A picture as it was given: a file, a Pillow image, or an array with its pixel format. Nothing is copied."""

    source: Any
    format: Format = "rgb"

    def rgb(self) -> np.ndarray:
        """Returns the pixels; uint8 RGB, shape ``(H, W, 3)``.

        Raises:
            DataError: the picture cannot be read.
            UsageError: the array is on a GPU.
        """
        if is_on_device(self.source):
            raise UsageError(
                "plot: expected a picture in the memory of the host, got an array on a GPU",
                hint="pass a copy: plot(frame.cpu().numpy())",
            )
        return read_image(rgb_frame(self.source, self.format) if isinstance(self.source, np.ndarray) else self.source)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px; ``(0, 0)`` for an array on a GPU that does not tell its shape."""
        source = self.source
        if isinstance(source, (str, Path)):
            return image_size(Path(source))
        if isinstance(source, Image.Image):
            height, width = read_image(source).shape[:2]  # which EXIF data may have turned
            return width, height
        shape = getattr(source, "shape", None) or getattr(source, "__cuda_array_interface__", {}).get("shape")
        # The type of its elements was checked when it was read.
        return (0, 0) if shape is None else frame_size(tuple(shape), "uint8", self.format)


def data_address(image: Image.Image, *, max_side: int, quality: int) -> tuple[str, tuple[int, int]]:
    """Returns an image as the address of an ``img`` element, and its width and height; large ones are reduced.

    Args:
        image: the image, in RGB.
        max_side: maximum width and height in px.
        quality: of the JPEG, 1 to 95.
    """
    image = image.copy()
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}", image.size


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Writes an image; the suffix is the format. Folders are made.

    Raises:
        UsageError: the suffix is not that of an image format, or the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except (OSError, ValueError) as e:
        raise UsageError(
            f"{path}: expected the name of an image that can be written, got: {getattr(e, 'strerror', None) or e}",
            hint="name it .jpg or .png",
        ) from e
    return path
