"""Renders pictures with boxes as images that are part of the page."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgekit.runtime.detections import Detections
from edgekit.runtime.draw import draw
from edgekit.runtime.pictures import data_address
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
    address, (width, height) = data_address(drawn, max_side=MAX_SIDE, quality=QUALITY)
    return (
        f'<figure><img width="{width}" height="{height}" alt="{escape(caption)}" src="{address}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pictures(figures: Iterable[str], *, pairs: bool = True) -> str:
    """Renders figures side by side: in pairs, or as many as fit."""
    return f'<div class="pictures{"" if pairs else " gallery"}">{"".join(figures)}</div>'
