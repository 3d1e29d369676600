"""Draws detections into images."""

from __future__ import annotations

import colorsys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from edgekit.data.coco import COCO_SKELETON
from edgekit.data.images import ImageSource, read_image
from edgekit.errors import EdgeKitWarning
from edgekit.kernels.masks.masks import Crop
from edgekit.runtime.fonts import INSTALL_FONT, Font, label_font

if TYPE_CHECKING:  # results draw themselves
    from edgekit.runtime.detections import Detections

__all__ = ["LEAST_VISIBILITY", "class_color", "draw"]

Box = tuple[int, int, int, int]
Color = tuple[int, int, int]

# The fractional part of the golden ratio: its multiples spread evenly over the hues, for any number of classes.
_HUE_STEP = 0.61803398875

# How much of a masked pixel is the color of its class.
_MASK_OPACITY = 0.45
LEAST_VISIBILITY = 0.25
"""Key points that are less visible are not drawn, as in Ultralytics."""


def _warn(text: str) -> None:
    warnings.warn(text, EdgeKitWarning, stacklevel=3)


def draw(image: ImageSource, detections: Detections, *, note: Callable[[str], object] = _warn) -> Image.Image:
    """Returns a copy of an image with a box, a label and a score for each object.

    Lines and text scale with the image. Boxes with higher scores are drawn on top. A label is placed above its box if
    there is room, else at another edge, inside the image and not over the labels of boxes with higher scores. A
    label in letters that no font here has is drawn as the number of its class.

    Masks are translucent. Key points are dots, which are joined to a skeleton if they are COCO's 17 of a person. Of a
    rotated box, the box itself is drawn, not the upright rectangle around it.

    Args:
        image: the image of the detections; a file, Pillow image or array, as in `read_image`.
        detections: the objects to draw.
        note: receives a message if labels are drawn as numbers.

    Raises:
        DataError: the image cannot be read.
    """
    pixels = read_image(image).copy()
    kinds = detections.classes.tolist()
    # Objects that are followed keep their color from frame to frame.
    numbers = (detections.classes if detections.tracks is None else detections.tracks).tolist()
    tracks = [""] * len(kinds) if detections.tracks is None else [f"{number} " for number in numbers]
    colors = [class_color(number) for number in numbers]
    masks = getattr(detections, "crops", ())
    for crop, color in reversed(list(zip(masks, colors, strict=False))):
        _blend(pixels, crop, color)
    drawn = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(drawn)
    size = min(drawn.size)
    line_width = max(1, round(size / 200))
    boxes = [_edges(box, drawn.size) for box in detections.boxes.tolist()]
    rotated = getattr(detections, "corners", None)
    for i in reversed(range(len(detections))):
        if rotated is None:
            canvas.rectangle(boxes[i], outline=colors[i], width=line_width)
        else:
            _draw_outline(canvas, rotated[i], colors[i], line_width)
    for keypoints in reversed(getattr(detections, "keypoints", ())):
        _draw_keypoints(canvas, keypoints, line_width)
    taken: list[Box] = []
    without_font: dict[str, int] = {}
    rows = zip(detections.labels, detections.scores.tolist(), kinds, tracks, boxes, colors, strict=True)
    for label, score, kind, track, box, color in rows:
        text, font = _text_and_font(label, score, kind, max(10, size / 32), without_font)
        _draw_label(canvas, track + text, font, color, box, taken)
    if without_font:
        shown = ", ".join(f"'{label}' is #{kind}" for label, kind in without_font.items())
        note(f"no font here has the letters of these labels, so they are drawn as numbers: {shown}; {INSTALL_FONT}")
    return drawn


def class_color(kind: int) -> Color:
    """Returns the color of a class: the same in every image, and different in hue from those of adjacent classes."""
    hue = kind * _HUE_STEP % 1
    lightness = (0.5, 0.62, 0.4)[kind % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _edges(box: list[float], size: tuple[int, int]) -> Box:
    """Rounds a box to pixels inside the image."""
    # A right edge may equal the image's width, where there is no pixel; the rectangle around a rotated box may be
    # beyond the image on any side.
    x1, y1, x2, y2 = (round(corner) for corner in box)
    x1, y1 = min(max(0, x1), size[0] - 1), min(max(0, y1), size[1] - 1)
    return x1, y1, min(max(x1, x2), size[0] - 1), min(max(y1, y2), size[1] - 1)


def _blend(pixels: np.ndarray, crop: Crop, color: Color) -> None:
    """Mixes a color into the pixels of a mask."""
    part = pixels[crop.top : crop.top + crop.mask.shape[0], crop.left : crop.left + crop.mask.shape[1]]
    mask = crop.mask[: part.shape[0], : part.shape[1]]
    part[mask] = (part[mask] * (1 - _MASK_OPACITY) + np.array(color) * _MASK_OPACITY).round().astype(np.uint8)


def _draw_outline(canvas: ImageDraw.ImageDraw, corners: np.ndarray, color: Color, width: int) -> None:
    points = [(x, y) for x, y in corners.tolist()]
    # The first side is drawn again, so that the last corner is joined like the others.
    canvas.line([*points, *points[:2]], fill=color, width=width, joint="curve")


def _draw_keypoints(canvas: ImageDraw.ImageDraw, keypoints: np.ndarray, width: int) -> None:
    """Draws the visible key points, each in a color of its own, and the bones between them in that of their ends."""
    shown = (keypoints[:, 2] >= LEAST_VISIBILITY).tolist()
    places = [(x, y) for x, y, _ in keypoints.tolist()]
    if len(places) == 17:
        for start, end in COCO_SKELETON:
            if shown[start] and shown[end]:
                canvas.line([places[start], places[end]], fill=class_color(end), width=width)
    radius = 1.5 * width
    for i, (x, y) in enumerate(places):
        if shown[i]:
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=class_color(i))


def _text_and_font(label: str, score: float, kind: int, size: float, without_font: dict[str, int]) -> tuple[str, Font]:
    """Returns the text of a label and its font; adds a label that no font has to ``without_font``."""
    percent = f" {score:.0%}"
    label = " ".join(label.split())  # a label is drawn on one line
    font = label_font(label + percent, size)
    if font is not None:
        return label + percent, font
    without_font[label] = kind
    plain = label_font(percent, size)
    assert plain is not None  # every font has digits
    return f"#{kind}{percent}", plain


def _draw_label(canvas: ImageDraw.ImageDraw, text: str, font: Font, color: Color, box: Box, taken: list[Box]) -> None:
    """Draws the label of a box and adds its area to ``taken``."""
    # A capital letter and a descender, so that all labels have the same height.
    _, top, _, bottom = canvas.textbbox((0, 0), "Ag", font=font)
    _, own_top, _, own_bottom = canvas.textbbox((0, 0), text, font=font)  # other scripts are higher
    top, bottom = min(top, own_top), max(bottom, own_bottom)
    margin = max(2, round((bottom - top) / 5))
    size = (round(canvas.textlength(text, font=font)) + 2 * margin, round(bottom - top) + 2 * margin)
    place = _free_place(box, size, canvas.im.size, taken)
    taken.append(place)
    canvas.rectangle(place, fill=color)
    canvas.text((place[0] + margin, place[1] + margin - top), text, font=font, fill=_readable_on(color))


def _free_place(box: Box, size: tuple[int, int], image: tuple[int, int], taken: list[Box]) -> Box:
    """Returns the first area at the box's edges that overlaps no label, or the first area if all overlap one."""
    (x1, y1, x2, y2), (width, height) = box, size
    places = []
    for y in (y1 - height, y1, y2 + 1 - height, y2 + 1):
        for x in (x1, x2 + 1 - width):
            inside = min(max(0, x), max(0, image[0] - width)), min(max(0, y), max(0, image[1] - height))
            places.append((inside[0], inside[1], inside[0] + width - 1, inside[1] + height - 1))
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _readable_on(background: Color) -> str:
    """Returns black or white, whichever has the higher contrast (WCAG 2.1, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"
