"""Draws charts as SVG, each for a given width; colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgekit.report.html.axes import (
    CHARACTER,
    NARROW,
    Scale,
    label_room,
    round_ticks,
    shortened,
    si_number,
    svg,
    svg_text,
    x_axis,
    y_grid,
)
from edgekit.text import html_text as escape

__all__ = ["Curve", "Line", "Point", "curves", "intervals", "run_line", "scatter"]


class Curve(NamedTuple):
    """A line through points.

    Attributes:
        name: what it is.
        colour: class of the style sheet.
        points: ``(x, y)``.
        tips: tooltips of its points; default: name and values.
        texts: texts beside its points; default: none.
        dashed: it is a reference.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    tips: Sequence[str] = ()
    texts: Sequence[str] = ()
    dashed: bool = False


class Point(NamedTuple):
    """A point of a scatter plot: its place, its radius in px, its colour class and its tooltip."""

    x: float
    y: float
    radius: float
    colour: str
    tip: str


class Line(NamedTuple):
    """A line of a scatter plot through points, with a label at its right end."""

    points: Sequence[tuple[float, float]]
    label: str
    colour: str = ""


def curves(
    lines: Sequence[Curve],
    width: int,
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    zero: bool = True,
    whole: bool = False,
) -> str:
    """Draws lines on common axes.

    Args:
        lines: the lines; an empty one is left out.
        width: width of the chart in px.
        x_label: what the horizontal axis shows, with its unit.
        y_label: what the vertical axis shows, with its unit.
        log_y: the vertical axis is logarithmic; all values must be positive.
        zero: a linear axis begins at zero.
        whole: the horizontal axis counts something: ticks are whole numbers, from the first on.
    """
    lines = [line for line in lines if len(line.points)]
    xs, ys = ([float(point[i]) for line in lines for point in line.points] for i in (0, 1))
    top, bottom = 28, 238
    room = (max(ys) - min(ys)) * 0.06 or abs(max(ys)) * 0.06 or 1.0
    low = min(ys) / 1.15 if log_y else 0.0 if zero and min(ys) >= 0 else min(ys) - room
    y = Scale(low, max(ys) * 1.15 if log_y else max(ys) + room, bottom, top, log=log_y)
    y_ticks = y.ticks(5)
    left, right = label_room(y_ticks), width - 16
    start = 0.0 if zero and not whole and min(xs) >= 0 and min(xs) < max(xs) / 2 else min(xs)
    x = Scale(start, max(xs) if max(xs) > start else start + 1, left + 6, right - 10, log=False)
    x_ticks = [tick for tick in x.ticks(4 if width < NARROW else 8) if not whole or tick == int(tick)]
    parts = [y_grid(y_ticks, y, left, right), x_axis(x, bottom, 0, ticks=x_ticks)]
    for line in lines:
        places = [(x(a), y(b)) for a, b in line.points]
        d = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        style = "curve dashed" if line.dashed else "curve"
        parts.append(f'<path class="{style} {line.colour}" d="{d}"><title>{escape(line.name)}</title></path>')
        if len(places) <= 60 and not line.dashed:
            for (a, b), (vx, vy), words in zip(places, line.points, [*line.tips, *[""] * len(places)], strict=False):
                tip = escape(words or f"{line.name}: {vy:.4g} at {vx:.4g}")
                spot = f'cx="{a:.1f}" cy="{b:.1f}" r="4"'
                parts.append(f'<circle class="{line.colour}" {spot}><title>{tip}</title></circle>')
        for (a, b), words in zip(places, line.texts, strict=False):
            parts.append(svg_text(a, b - 10, words, "small", "end" if a + len(words) * CHARACTER > right else "middle"))
    parts.append(svg_text(left, top - 12, y_label + (", logarithmic" if log_y else ""), "small", "start"))
    parts.append(svg_text(right, bottom + 40, x_label, "small", "end"))
    return svg(width, bottom + 46, f"{y_label} against {x_label}.", parts)


def scatter(
    points: Sequence[Point], lines: Sequence[Line], width: int, *, x_label: str, y_label: str, described: str
) -> str:
    """Draws points and lines on two logarithmic axes; each point has a tooltip.

    Args:
        points: the points, which must be positive.
        lines: limits; their labels stand at their right ends, or above them.
        width: width of the chart in px.
        x_label: what the horizontal axis shows.
        y_label: what the vertical axis shows.
        described: what is to be seen, for screen readers.
    """
    spots = [(p.x, p.y) for p in points] + [spot for line in lines for spot in line.points]
    xs, ys = ([spot[i] for spot in spots] for i in (0, 1))
    top, bottom = 28, 320 if width < NARROW else 340
    left, right = 54, width - 12
    x = Scale(min(xs) / 1.3, max(xs) * 1.3, left, right, log=True)
    y = Scale(min(ys) / 1.5, max(ys) * 1.8, bottom, top, log=True)
    parts = [y_grid(y.ticks(6), y, left, right, si_number), x_axis(x, bottom, 4 if width < NARROW else 8, si_number)]
    used: list[float] = []
    labels = []
    for line in lines:
        places = [(x(a), y(b)) for a, b in line.points]
        d = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        parts.append(f'<path class="limit {line.colour}" d="{d}"/>')
        at = places[-1][1] - 6
        while any(abs(at - other) < 15 for other in used):
            at += 15
        used.append(at)
        labels.append(svg_text(right - 4, at, line.label, "small", "end"))
    for point in sorted(points, key=lambda p: -p.radius):
        spot = f'cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="{point.radius:.1f}"'
        circle = f'<circle class="layer {point.colour}" tabindex="0" {spot}>'
        parts.append(f"{circle}<title>{escape(point.tip)}</title></circle>")
    parts += labels  # above the points, which may be large
    parts.append(svg_text(left, top - 12, y_label, "small", "start"))
    parts.append(svg_text(right, bottom + 40, x_label, "small", "end"))
    return svg(width, bottom + 46, described, parts)


def run_line(rows: Sequence[tuple[str, Sequence[tuple[str, str, float, float]]]], width: int) -> str:
    """Draws the time line of one run.

    Args:
        rows: a name for each row, and its slices: tooltip, colour class, start and duration in ms.
        width: width of the chart in px.
    """
    end = max(start + length for _, slices in rows for _, _, start, length in slices)
    left, right, thick = 10, width - 10, 30
    x = Scale(0, end or 1.0, left, right, log=False)
    bottom = len(rows) * (thick + 26)
    parts = [x_axis(x, bottom + 4, 5 if width < NARROW else 9)]
    for index, (name, slices) in enumerate(rows):
        top = index * (thick + 26) + 20
        parts.append(svg_text(left, top - 5, name, "small", "start"))
        for tip, colour, start, length in slices:
            wide = max(x(start + length) - x(start) - 0.5, 0.6)
            box = f'x="{x(start):.1f}" y="{top}" width="{wide:.1f}" height="{thick}"'
            parts.append(f'<rect class="slice {colour}" {box}><title>{escape(tip)}</title></rect>')
    parts.append(svg_text(right, bottom + 44, "ms since the start of the run", "small", "end"))
    names = ", ".join(name for name, _ in rows)
    return svg(width, bottom + 50, f"Time line of one run: {names}.", parts)


def intervals(rows: Sequence[tuple[str, float, float | None, float | None, str]], width: int) -> str:
    """Draws ratios with their confidence intervals beside the line at 1, on a logarithmic axis.

    Args:
        rows: label, ratio, the ends of its interval or None, and a colour class.
        width: width of the chart in px.
    """
    values = [1.0, *(float(v) for _, *ends, _ in rows for v in ends if v)]
    left, right, step = 10, width - 10, 44
    x = Scale(min(values) / 1.15, max(values) * 1.15, left, right, log=True)
    bottom = step * len(rows) + 8
    ticks = round_ticks(x.low, x.high, 4 if width < NARROW else 8)
    parts = [x_axis(x, bottom, 9, ticks=[tick for tick in ticks if tick > 0])]
    for index, (label, value, low, high, colour) in enumerate(rows):
        at = index * step + 32
        # Below the label, which may be as wide as the chart.
        parts.append(f'<line class="mark" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{at - 9}" y2="{at + 12}"/>')
        spread = f" ({low:.3g} to {high:.3g})" if low and high else " (no interval)"
        parts.append(
            svg_text(left, at - 14, shortened(f"{label}: {value:.3g} ×{spread}", width - 20), "small", "start")
        )
        if low and high:
            parts.append(f'<path class="curve {colour}" d="M{x(low):.1f} {at}H{x(high):.1f}" stroke-linecap="round"/>')
        parts.append(f'<circle class="{colour}" cx="{x(value):.1f}" cy="{at}" r="5"/>')
    parts.append(svg_text(right, bottom + 40, "ratio of medians; below 1 is faster", "small", "end"))
    described = "; ".join(f"{label} {value:.3g}" for label, value, *_ in rows)
    return svg(width, bottom + 46, f"Ratios: {described}.", parts)
