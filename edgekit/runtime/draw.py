"""Pictures with what was found in them."""

from __future__ import annotations

import colorsys

from PIL import Image, ImageDraw, ImageFont

from edgekit.data.images import ImageSource, read_image
from edgekit.runtime.tasks import Detection, Detections

__all__ = ["class_color", "draw"]

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# The fractional part of the golden ratio: its multiples spread over the circle of hues, however many are taken.
_HUE_STEP = 0.61803398875


def draw(image: ImageSource, detections: Detections) -> Image.Image:
    """A copy of the picture with a box, a label and a score for each object.

    Lines and letters grow with the picture. Better boxes lie on top. Labels stand above their boxes, or inside
    them where there is no room above, and always within the picture.

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
    for kind, found in reversed(list(zip(detections.classes.tolist(), detections, strict=True))):
        color = class_color(kind)
        x1, y1, x2, y2 = _edges(found.box, picture.size)
        canvas.rectangle((x1, y1, x2, y2), outline=color, width=line_width)
        _draw_label(canvas, (x1, y1), _text(found, font), font, color, picture.size)
    return picture


def class_color(kind: int) -> Color:
    """A class's color: far in hue from those of its neighbours, and the same in every picture."""
    hue = kind * _HUE_STEP % 1
    lightness = (0.5, 0.62, 0.4)[kind % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _edges(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
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


def _draw_label(
    canvas: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font: Font, color: Color, size: tuple[int, int]
) -> None:
    _, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    # Heights of capitals and descenders, so that labels side by side are equally high.
    _, top, _, bottom = canvas.textbbox((0, 0), "Ag", font=font)
    margin = max(2, round((bottom - top) / 5))
    width, height = round(right) + 2 * margin, round(bottom - top) + 2 * margin
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else min(corner[1], max(0, size[1] - height))
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    canvas.text((x + margin, y + margin - top), text, font=font, fill=_readable_on(color))


def _readable_on(background: Color) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2.1, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"
