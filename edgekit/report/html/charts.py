"""Draws charts as SVG: a histogram, a time line, bars; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from edgekit.report.wording import milliseconds

__all__ = ["Bar", "Series", "bars", "histogram", "time_line"]

WIDTH = 720
LEFT = 46
RIGHT = 14
MAX_BINS = 48


class Series(NamedTuple):
    """The runs of one engine.

    Attributes:
        name: name in the legend.
        colour: class of the style sheet: ``one`` or ``two``.
        samples_ms: durations in the order of the runs.
    """

    name: str
    colour: str
    samples_ms: Sequence[float]


class Bar(NamedTuple):
    """One bar: a label, and parts, each with a name, a colour class and a length in ms."""

    label: str
    parts: tuple[tuple[str, str, float], ...]


def histogram(one: Series, marks: Iterable[tuple[str, float]] = ()) -> str:
    """Draws the histogram of the latency of one engine.

    The axis ends at 1.5 times the 99th percentile at most, so that outliers do not flatten the rest. Slower runs are
    counted in the last bin.

    Args:
        one: the runs of one engine.
        marks: vertical lines, as label and ms.
    """
    values = np.asarray(one.samples_ms, dtype=np.float64)
    top, base = 26, 166
    ceiling = min(float(values.max()), _beyond(values))
    axis = _Axis(float(values.min()), ceiling)
    edges = np.linspace(axis.low, axis.high, _bins(values, axis) + 1)
    parts = [_x_axis(axis, base, top), _columns(one, edges, axis, base, base - top - 14)]
    parts.extend(_mark(label, value, axis, top, base) for label, value in marks if axis.low <= value <= axis.high)
    if values.max() > ceiling:
        parts.append(_text(WIDTH - RIGHT, base - 10, f"slowest {milliseconds(values.max())} ms ▸", "small", "end"))
    described = f"{len(values)} runs from {milliseconds(values.min())} to {milliseconds(values.max())} ms"
    return _svg(base + 30, f"Histogram of the latency of {one.name}: {described}.", parts)


def time_line(series: Sequence[Series]) -> str:
    """Draws every run as a dot, in order, with a line at the median.

    The axis starts at zero, unless all runs are so close together that their differences would be invisible. Runs
    beyond 1.5 times the 99th percentile are drawn at the upper edge.
    """
    top, bottom = 14, 204
    values = np.concatenate([np.asarray(s.samples_ms, dtype=np.float64) for s in series])
    ceiling = min(float(values.max()), _beyond(values)) * 1.02
    low = 0.0 if values.min() < ceiling / 2 else float(values.min()) * 0.98
    ticks = _ticks(low, ceiling, 5)
    scale = (bottom - top) / (ceiling - low)

    def y(value: float) -> float:
        return bottom - (min(value, ceiling) - low) * scale

    longest = max(len(s.samples_ms) for s in series)
    step = (WIDTH - LEFT - RIGHT) / max(1, longest - 1)
    radius = 3.0 if longest <= 120 else 2.2 if longest <= 400 else 1.5
    parts = [_y_grid([(tick, y(tick)) for tick in ticks])]
    for one in series:
        dots = "".join(
            f'<circle cx="{LEFT + i * step:.1f}" cy="{y(value):.1f}" r="{radius}">'
            f"<title>run {i + 1}: {milliseconds(value)} ms</title></circle>"
            for i, value in enumerate(one.samples_ms)
        )
        median = y(float(np.median(one.samples_ms)))
        parts.append(f'<g class="dots {one.colour}">{dots}</g>')
        parts.append(f'<line class="median" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{median:.1f}" y2="{median:.1f}"/>')
    parts.append(_text(LEFT, bottom + 20, "first run", "small", "start"))
    parts.append(_text(WIDTH - RIGHT, bottom + 20, f"run {longest}", "small", "end"))
    parts.append(_text(LEFT - 8, top - 4, "ms", "small", "end"))
    medians = "; ".join(f"{s.name}: median {milliseconds(float(np.median(s.samples_ms)))} ms" for s in series)
    return _svg(bottom + 26, f"Latency of every run in order. {medians}.", parts)


def bars(rows: Sequence[Bar]) -> str:
    """Draws horizontal bars of stacked parts; each part that is wide enough is labelled with its length."""
    label_width, thick, gap, top = 108, 34, 14, 6
    longest = max(sum(length for _, _, length in row.parts) for row in rows) or 1.0
    scale = (WIDTH - label_width - 92) / longest
    parts = []
    for i, row in enumerate(rows):
        y, x = top + i * (thick + gap), float(label_width)
        parts.append(_text(label_width - 12, y + thick / 2 + 5, row.label, "label", "end"))
        for name, colour, length in row.parts:
            width = max(1.5, length * scale)
            parts.append(
                f'<rect class="{colour}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{thick}" rx="3">'
                f"<title>{escape(name)}: {milliseconds(length)} ms</title></rect>"
            )
            if width > 58 and len(row.parts) > 1:
                parts.append(_text(x + width / 2, y + thick / 2 + 5, milliseconds(length), "inside", "middle"))
            x += width + 2
        total = sum(length for _, _, length in row.parts)
        parts.append(_text(x + 8, y + thick / 2 + 5, f"{milliseconds(total)} ms", "label strong", "start"))
    described = "; ".join(
        f"{row.label}: " + ", ".join(f"{name} {milliseconds(length)} ms" for name, _, length in row.parts)
        for row in rows
    )
    return _svg(top * 2 + len(rows) * (thick + gap) - gap, f"Median durations. {described}.", parts)


class _Axis:
    """A horizontal axis in ms with a margin on both sides."""

    def __init__(self, low: float, high: float) -> None:
        room = max((high - low) * 0.04, high * 0.01, 1e-6)
        self.low, self.high = max(0.0, low - room), high + room

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)


def _bins(values: np.ndarray, axis: _Axis) -> int:
    """Returns the number of bins by the rule of Freedman and Diaconis, limited to `MAX_BINS`."""
    quarter, three_quarters = np.percentile(values, (25, 75))
    width = 2 * float(three_quarters - quarter) / len(values) ** (1 / 3)
    return MAX_BINS if width <= 0 else int(np.clip((axis.high - axis.low) / width, 12, MAX_BINS))


def _beyond(values: np.ndarray) -> float:
    return 1.5 * float(np.percentile(values, 99))


def _columns(one: Series, edges: np.ndarray, axis: _Axis, base: int, height: int) -> str:
    samples = np.clip(np.asarray(one.samples_ms), None, np.nextafter(edges[-1], 0))
    counts, _ = np.histogram(samples, edges)
    tallest = int(counts.max())
    drawn = []
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            x, tall = axis.x(left), count / tallest * height
            title = f"{milliseconds(left)} to {milliseconds(right)} ms: {count} of {len(samples)} runs"
            drawn.append(
                f'<rect x="{x + 0.75:.1f}" y="{base - tall:.1f}" width="{axis.x(right) - x - 1.5:.1f}" '
                f'height="{tall:.1f}" rx="1.5"><title>{title}</title></rect>'
            )
    numbers = _text(LEFT - 8, base - height + 5, str(tallest), "small", "end") + _text(
        LEFT - 8, base, "0", "small", "end"
    )
    line = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
    return f'<g class="{one.colour}">{"".join(drawn)}</g>{line}{numbers}'


def _x_axis(axis: _Axis, bottom: int, top: int) -> str:
    ticks = [tick for tick in _ticks(axis.low, axis.high, 7) if axis.low <= tick <= axis.high]
    lines = "".join(
        f'<line class="grid" x1="{axis.x(t):.1f}" x2="{axis.x(t):.1f}" y1="{top}" y2="{bottom + 4}"/>'
        f"{_text(axis.x(t), bottom + 20, f'{t:g}', 'small', 'middle')}"
        for t in ticks
    )
    return f"<g>{lines}{_text(LEFT - 8, bottom + 20, 'ms', 'small', 'end')}</g>"


def _y_grid(ticks: Iterable[tuple[float, float]]) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f"{_text(LEFT - 8, y + 4, f'{tick:g}', 'small', 'end')}"
        for tick, y in ticks
    )


def _mark(label: str, value: float, axis: _Axis, top: int, bottom: int) -> str:
    x = axis.x(value)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{bottom}"/>'
        f"{_text(x, top - 10, label, 'small', 'middle')}"
    )


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Returns round numbers from ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, described: str, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(described)}">{"".join(parts)}</svg>'
