"""Converts images of 16 and 32 bits per sample to 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from edgekit.data.image_notes import note_on_image
from edgekit.errors import DataError

__all__ = ["is_deep", "with_8_bits"]

# Pillow opens 16 bits of these formats as 32-bit integers, and scales PPM's samples of fewer bits up to 16.
_16_BIT_FORMATS = frozenset({"PPM", "PNG", "JPEG2000"})
_DARK = 1 << 14
"""Images of 16 bits whose values stay below are dark as a whole; cameras of 10, 12 and 14 bits write such ones."""
_SCALE_HINT = "scale the values to 0 to 255 and save the image with 8 bits per sample"


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one channel of 16-bit or 32-bit integers, or of 32-bit floats."""
    return image.mode.startswith("I") or image.mode == "F"


def with_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Returns an image for which `is_deep` is true as RGB with 8 bits per sample.

    16-bit samples lose their lower byte, as in OpenCV. 32-bit samples have no standard range. Integers are read as
    8-bit values up to 255, as Pillow does, and as 16-bit values above; floats as values from 0 to 1 if they are in
    this range, as in scikit-image and torchvision, else as 8-bit values.

    Raises:
        DataError: values are in none of these ranges, or are not finite.
    """
    samples = np.asarray(image)
    low, high = samples.min(), samples.max()
    if image.mode == "F":
        samples = _from_floats(samples, float(low), float(high), name)
    else:
        samples = _from_integers(samples, int(low), int(high), name, is_16_bit=_is_16_bit(image))
    return Image.fromarray(samples).convert("RGB")


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode != "I" or image.format in _16_BIT_FORMATS


def _from_integers(samples: np.ndarray, low: int, high: int, name: str, *, is_16_bit: bool) -> np.ndarray:
    if low < 0 or high > 0xFFFF:
        raise DataError(f"{name}: expected 8 or 16 bits per sample, got values from {low} to {high}", hint=_SCALE_HINT)
    if not is_16_bit and high <= 0xFF:
        note_on_image("integers", f"{name}: 32-bit integers up to {high} are read as 8-bit values")
        return samples.astype(np.uint8)
    if 0 < high < _DARK:
        note_on_image(
            "dark",
            f"{name}: its 16-bit values reach {high} of 65535, so the image is dark or black with 8 bits; "
            f"if it should not be, {_SCALE_HINT}",
        )
    return (samples >> 8).astype(np.uint8)


def _from_floats(samples: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    if not (low >= 0 and high <= 0xFF):  # false for NaN too
        got = f"values from {low:.6g} to {high:.6g}" if np.isfinite(samples).all() else "values that are not finite"
        raise DataError(f"{name}: expected 32-bit floats from 0 to 1 or from 0 to 255, got {got}", hint=_SCALE_HINT)
    whole = 1 if high <= 1 else 0xFF
    note_on_image(f"floats to {whole}", f"{name}: 32-bit floats up to {high:.6g} are read as values from 0 to {whole}")
    return np.rint(samples * np.float32(0xFF / whole)).astype(np.uint8)
