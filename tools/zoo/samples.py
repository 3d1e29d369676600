"""Writes calibration data for models that photos do not suit: images of text, and the bytes of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["write_bytes", "write_texts"]

LINES = (
    "All human beings are born free and equal",
    "in dignity and rights. They are endowed",
    "with reason and conscience and should",
    "act towards one another in a spirit",
    "of brotherhood.",
    "0123456789 +-*/=",
    "TOTAL 42.50 EUR",
    "Platform 7, 08:15",
)


def write_texts(folder: Path, *, width: int, height: int) -> None:
    """Writes one image per line of text, which fills the image's width or height."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate(LINES):
        shade = 255 - 16 * i
        image = Image.new("RGB", (width, height), (shade, shade, 255 - 8 * i))
        draw = ImageDraw.Draw(image)
        font = ImageFont.load_default(size=min(int(0.7 * height), int(1.9 * width / len(line))))
        rows = max(1, int(height // (1.5 * font.size)))
        for row in range(rows):
            place = (width // 2, int((row + 0.5) * height / rows))
            draw.text(place, LINES[(i + row) % len(LINES)] if rows > 1 else line, (16 * i, 0, 0), font, anchor="mm")
        image.save(folder / f"{i}.png")


def write_bytes(folder: Path) -> None:
    """Writes the first and last 1024 bytes of files in this folder, in Magika's input format; 256 is padding."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(sorted(Path(__file__).parent.glob("*.py"))):
        content = np.frombuffer(file.read_bytes(), np.uint8).astype(np.int32)
        sample = np.full((1, 2048), 256, np.int32)
        first, last = content[:1024], content[-1024:]
        sample[0, : len(first)] = first
        sample[0, 2048 - len(last) :] = last
        np.save(folder / f"{i}.npy", sample)
