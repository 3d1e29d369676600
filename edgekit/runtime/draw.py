"""Pictures with what was found in them."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from edgekit.data.images import ImageSource, read_image

if TYPE_CHECKING:
    from edgekit.runtime.tasks.detect import Detection, Detections

__all__ = ["class_color", "draw"]

Box = tuple[int, int, int, int]
Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# The fractional part of the golden ratio: its multiples spread over the circle of hues, however many are taken.
_HUE_STEP = 0.61803398875


def draw(image: ImageSource, detections: Detections) -> Image.Image:
    """A copy of the picture with a box, a label and a score for each object.

    Lines and letters grow with the picture. Better boxes lie on top. A label stands above its box where there is
    room, else at another edge, within the picture and beside the labels of better boxes.

    Args:
        image: the picture the objects were found in; whatever `read_image` takes.
        detections: what was found in it.

    Raises:
        DataError: the picture cannot be read.
    """
    picture = Image.fromarray(read_image(image).copy())
    canvas = ImageDraw.Draw(picture)
    size = min(picture.size)
    line_width = max(1, round(size / 200))
    font = ImageFont.load_default(max(10, size / 32))
    boxes = [_edges(found.box, picture.size) for found in detections]
    colors = [class_color(kind) for kind in detections.classes.tolist()]
    for box, color in reversed(list(zip(boxes, colors, strict=True))):
        canvas.rectangle(box, outline=color, width=line_width)
    taken: list[Box] = []
    for found, box, color in zip(detections, boxes, colors, strict=True):
        _draw_label(canvas, _text(found, font), font, color, box, taken)
    return picture


def class_color(kind: int) -> Color:
    """A class's color: far in hue from those of its neighbours, and the same in every picture."""
    hue = kind * _HUE_STEP % 1
    lightness = (0.5, 0.62, 0.4)[kind % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _edges(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The box in whole px that exist: its right edge may lie at the picture's width, where there is no px."""
    x1, y1, x2, y2 = (round(corner) for corner in box)
    x1, y1 = min(x1, size[0] - 1), min(y1, size[1] - 1)
    return x1, y1, min(max(x1, x2), size[0] - 1), min(max(y1, y2), size[1] - 1)


def _text(found: Detection, font: Font) -> str:
    score = f"{found.score:.0%}"
    try:
        font.getlength(found.label)
    except UnicodeEncodeError:  # the bitmap font of a Pillow without FreeType has Latin-1 letters only
        return f"{found.label.encode('latin-1', 'replace').decode('latin-1')} {score}"
    return f"{found.label} {score}"


def _draw_label(canvas: ImageDraw.ImageDraw, text: str, font: Font, color: Color, box: Box, taken: list[Box]) -> None:
    """Draws the label of a box and adds its place to those that are taken."""
    # A capital's height and a descender's depth, so that all labels are equally high.
    _, top, _, bottom = canvas.textbbox((0, 0), "Ag", font=font)
    margin = max(2, round((bottom - top) / 5))
    size = (round(canvas.textlength(text, font=font)) + 2 * margin, round(bottom - top) + 2 * margin)
    place = _free_place(box, size, canvas.im.size, taken)
    taken.append(place)
    canvas.rectangle(place, fill=color)
    canvas.text((place[0] + margin, place[1] + margin - top), text, font=font, fill=_readable_on(color))


def _free_place(box: Box, size: tuple[int, int], picture: tuple[int, int], taken: list[Box]) -> Box:
    """Where a label of that size stands: the first place at its box's edges that overlaps no label, if there is one."""
    (x1, y1, x2, y2), (width, height) = box, size
    places = []
    for y in (y1 - height, y1, y2 + 1 - height, y2 + 1):
        for x in (x1, x2 + 1 - width):
            inside = min(max(0, x), max(0, picture[0] - width)), min(max(0, y), max(0, picture[1] - height))
            places.append((inside[0], inside[1], inside[0] + width - 1, inside[1] + height - 1))
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _readable_on(background: Color) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2.1, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"
