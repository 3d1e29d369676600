"""Renders pictures with boxes as images that are part of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from edgekit.runtime.draw import draw
from edgekit.runtime.tasks.detect import Detections
from edgekit.text import html_text as escape

__all__ = ["picture", "pictures"]

MAX_SIDE = 416
QUALITY = 72


def picture(pixels: np.ndarray, detections: Detections, caption: str) -> str:
    """Renders a picture with its boxes as a figure; large ones are reduced.

    Args:
        pixels: uint8 RGB, shape ``(H, W, 3)``.
        detections: boxes in px of the picture.
        caption: the line below it.
    """
    notes: list[str] = []
    drawn = draw(pixels, detections, note=notes.append)
    caption = ". ".join([caption, *notes])
    drawn.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=QUALITY, optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return (
        f'<figure><img {size} alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pictures(figures: Iterable[str], *, pairs: bool = True) -> str:
    """Renders figures side by side: in pairs, or as many as fit."""
    return f'<div class="pictures{"" if pairs else " gallery"}">{"".join(figures)}</div>'
