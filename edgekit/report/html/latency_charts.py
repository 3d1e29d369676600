"""Draws the runs of engines as SVG: how their latencies are distributed, and every run in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgekit.report.html.axes import CHARACTER, NARROW, Scale, label_room, shortened, svg, svg_text, y_grid
from edgekit.report.wording import milliseconds
from edgekit.text import html_text as escape

__all__ = ["Series", "axis_note", "distribution", "time_line"]

MAX_BINS = {False: 64, True: 36}
"""Number of columns of a histogram, on a wide and on a narrow chart."""
LOG_FROM = 12.0
"""If the largest value on an axis is so many times the smallest, the axis is logarithmic."""
BREAK_FROM = 1.25
"""If the slowest run is so many times the end of the bulk, the axis is broken there."""
TAIL_SHARE = 0.2
"""Share of the width for the runs beyond the break."""
MAX_DOTS = 3000
SLOWEST_MARKED = 5


class Series(NamedTuple):
    """The runs of one engine.

    Attributes:
        name: name in the chart; empty for none.
        colour: class of the style sheet.
        samples_ms: durations in the order of the runs.
        marks: vertical lines, as label and ms.
    """

    name: str
    colour: str
    samples_ms: Sequence[float]
    marks: tuple[tuple[str, float], ...] = ()


class _LatencyAxis:
    """The common axis of several distributions: linear or logarithmic, and broken where a few runs are far away.

    Attributes:
        bulk: scale of the larger part.
        tail: logarithmic scale beyond the break; None without one.
        beyond: number of runs beyond the break.
    """

    def __init__(self, samples: Sequence[np.ndarray], start: float, end: float) -> None:
        low = min(float(values.min()) for values in samples)
        top = max(float(values.max()) for values in samples)
        bulk = min(max(map(_bulk_end, samples)), top)
        broken = top > BREAK_FROM * bulk
        high = bulk if broken else top
        middle = start + (end - start) * (1 - TAIL_SHARE) if broken else end
        log = low > 0 and high > LOG_FROM * low
        room = 1.06 if log else 0.0
        margin = max((high - low) * 0.04, high * 0.01, 1e-6)
        first, last = (low / room, high * room) if log else (max(0.0, low - margin), high + margin)
        self.bulk = Scale(first, last, start, middle, log=log)
        self.tail = Scale(last, max(top * 1.05, last * 1.1), middle + 12, end, log=True) if broken else None
        self.beyond = sum(int((values > last).sum()) for values in samples)
        self.break_at = middle + 6

    def __call__(self, value: float) -> float:
        return self.tail(value) if self.tail is not None and value > self.bulk.high else self.bulk(value)

    def edges(self, count: int) -> np.ndarray:
        """Returns the edges of the columns: equally wide on paper."""
        if self.bulk.log:
            inner = np.geomspace(self.bulk.low, self.bulk.high, count + 1)
        else:
            inner = np.linspace(self.bulk.low, self.bulk.high, count + 1)
        if self.tail is None:
            return inner
        return np.concatenate([inner, np.geomspace(self.tail.low, self.tail.high, max(4, count // 5) + 1)[1:]])


def _bulk_end(values: np.ndarray) -> float:
    """Returns where the bulk of the runs ends: five interquartile ranges above the third quartile."""
    quarter, median, three_quarters = np.percentile(values, (25, 50, 75))
    return float(max(three_quarters + 5 * (three_quarters - quarter), 1.1 * median))


def axis_note(samples: Sequence[Sequence[float]]) -> str:
    """Returns a sentence about the axis of `distribution`: whether it is logarithmic, and where it is broken."""
    axis = _LatencyAxis([np.asarray(each, np.float64) for each in samples], 0, 1)
    notes = ["The axis is logarithmic."] if axis.bulk.log else []
    if axis.tail is not None:
        runs = f"{axis.beyond:,} slower run{' is' if axis.beyond == 1 else 's are'}"
        notes.append(f"The axis is broken at {milliseconds(axis.bulk.high)} ms: {runs} on a logarithmic scale.")
    return " ".join(notes) or "The axis is linear and shows every run."


def distribution(series: Sequence[Series], width: int) -> str:
    """Draws the histograms of several engines one above the other, on one scale; every run is counted.

    Args:
        series: the runs of each engine; each has a height of its own.
        width: width of the chart in px.
    """
    samples = [np.asarray(one.samples_ms, np.float64) for one in series]
    left, right = 10, width - 10
    axis = _LatencyAxis(samples, left, right)
    narrow = width < NARROW
    edges = axis.edges(_bins(samples, axis, narrow))
    head = 20 * max(len(one.marks) for one in series) + (22 if any(one.name for one in series) else 4)
    height = (84 if len(series) > 1 else 130) + head
    base = height * len(series)
    parts = [_latency_ticks(axis, base, 5 if narrow else 9)]
    for index, (one, values) in enumerate(zip(series, samples, strict=True)):
        top, floor = height * index, height * (index + 1)
        parts.append(_columns(one, values, edges, axis, floor, height - head - 6))
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{floor}" y2="{floor}"/>')
        if one.name:
            name = f"{one.name}, {len(values):,} run{'' if len(values) == 1 else 's'}"
            parts.append(svg_text(left, top + 16, shortened(name, width - 20), "strong", "start"))
        first = top + (22 if one.name else 0)
        parts += [_mark(mark, axis, first + 16 + 20 * i, floor, width) for i, mark in enumerate(one.marks)]
    if axis.tail is not None:
        zigzag = "".join(f"l{3 if i % 2 else -3} 6" for i in range(base // 6))
        parts.append(f'<path class="break" d="M{axis.break_at:.1f} 0{zigzag}"/>')
    scale = "ms, logarithmic" if axis.bulk.log else "ms"
    parts.append(svg_text(left, base + 40, scale, "small", "start"))
    if axis.tail is not None:
        parts.append(svg_text(right, base + 40, "beyond the break: logarithmic", "small", "end"))
    described = "; ".join(
        f"{one.name or 'latency'}: {len(v):,} runs from {milliseconds(v.min())} to {milliseconds(v.max())} ms"
        for one, v in zip(series, samples, strict=True)
    )
    return svg(width, base + 46, f"Distribution of the latency. {described}.", parts)


def time_line(series: Sequence[Series], width: int, *, steady_from: int | None = None) -> str:
    """Draws every run as a dot, in order, with a line at the median.

    The axis is logarithmic where the slowest run is many times the fastest. Of more than `MAX_DOTS` runs, the fastest,
    the median and the slowest of each of many equal parts are drawn.

    Args:
        series: the runs of each engine.
        width: width of the chart in px.
        steady_from: index of the first run of the steady state; the runs before it are shaded.
    """
    samples = [np.asarray(one.samples_ms, np.float64) for one in series]
    top, bottom = 26, 226
    low, high = min(float(v.min()) for v in samples), max(float(v.max()) for v in samples)
    log = low > 0 and high > LOG_FROM * low
    first = low / 1.1 if log else 0.0 if low < high / 2 else low * 0.98
    y = Scale(first, high * (1.1 if log else 1.02) or 1.0, bottom, top, log=log)
    ticks = y.ticks(5)
    left, right = label_room(ticks), width - 10
    longest = max(map(len, samples))
    x = Scale(0, max(1, longest - 1), left + 4, right - 4, log=False)
    parts = [y_grid(ticks, y, left, right)]
    if steady_from:
        edge = x(steady_from - 0.5)
        parts.append(
            f'<rect class="shade" x="{left}" y="{top}" width="{max(edge - left, 2):.1f}" height="{bottom - top}"/>'
        )
    for one, values in zip(series, samples, strict=True):
        indices = _shown(values)
        radius = 3.2 if longest <= 150 else 2.4 if longest <= 600 else 1.7
        dots = "".join(f"M{x(i):.1f} {y(float(values[i])):.1f}h0" for i in indices)
        parts.append(f'<path class="dots {one.colour}" d="{dots}" stroke-width="{2 * radius}"/>')
        for i in np.argsort(values)[-SLOWEST_MARKED:].tolist():
            tip = f"{one.name + ', ' if one.name else ''}run {i + 1}: {milliseconds(float(values[i]))} ms"
            spot = f'cx="{x(i):.1f}" cy="{y(float(values[i])):.1f}" r="{radius + 1}"'
            parts.append(f'<circle class="slowest {one.colour}" {spot}><title>{escape(tip)}</title></circle>')
        median = y(float(np.median(values)))
        parts.append(f'<line class="median" x1="{left}" x2="{right}" y1="{median:.1f}" y2="{median:.1f}"/>')
    parts.append(svg_text(left, top - 10, "ms, logarithmic" if log else "ms", "small", "start"))
    if steady_from:
        parts.append(svg_text(right, top - 10, f"shaded: warm-up, {steady_from} runs", "small", "end"))
    parts.append(svg_text(left, bottom + 20, "first run", "small", "start"))
    parts.append(svg_text(right, bottom + 20, f"run {longest:,}", "small", "end"))
    medians = "; ".join(f"{s.name}: median {milliseconds(float(np.median(s.samples_ms)))} ms" for s in series)
    return svg(width, bottom + 26, f"Latency of every run in order. {medians}.", parts)


def _bins(samples: Sequence[np.ndarray], axis: _LatencyAxis, narrow: bool) -> int:
    """Returns the number of columns by the rule of Freedman and Diaconis for the densest series, within limits."""
    most = MAX_BINS[narrow]
    if axis.bulk.log:
        return most
    widths = []
    for values in samples:
        quarter, three_quarters = np.percentile(values, (25, 75))
        widths.append(2 * float(three_quarters - quarter) / len(values) ** (1 / 3))
    narrowest = min(widths)
    return most if narrowest <= 0 else int(np.clip((axis.bulk.high - axis.bulk.low) / narrowest, 12, most))


def _columns(
    one: Series, values: np.ndarray, edges: np.ndarray, axis: _LatencyAxis, floor: float, height: float
) -> str:
    counts, _ = np.histogram(values, edges)
    tallest = int(counts.max()) or 1
    drawn = []
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            # A column beyond the break has few runs: it must be seen.
            tall = max(count / tallest * height, 3.0)
            a = axis(low) if low < axis.bulk.high or axis.tail is None else axis.tail(low)
            title = f"{milliseconds(low)} to {milliseconds(high)} ms: {count} of {len(values)} runs"
            drawn.append(
                f'<rect x="{a + 0.5:.1f}" y="{floor - tall:.1f}" width="{max(axis(high) - a - 1, 1):.1f}" '
                f'height="{tall:.1f}"><title>{title}</title></rect>'
            )
    return f'<g class="{one.colour}">{"".join(drawn)}</g>'


def _latency_ticks(axis: _LatencyAxis, base: float, about: int) -> str:
    found = [tick for tick in axis.bulk.ticks(about) if axis.bulk.low <= tick <= axis.bulk.high]
    if axis.tail is not None:
        found.append(float(f"{axis.tail.high / 1.05:.3g}"))
    drawn, last = [], -math.inf
    for tick in found:
        at, text = axis(tick), f"{tick:g}"
        half = len(text) * CHARACTER / 2
        if at - half < last + 6:
            continue
        last = at + half
        drawn.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{base + 4}"/>')
        anchor = "end" if tick == found[-1] and axis.tail is not None else "middle"
        drawn.append(svg_text(at, base + 20, text, "small", anchor))
    return f"<g>{''.join(drawn)}</g>"


def _mark(mark: tuple[str, float], axis: _LatencyAxis, at: float, floor: float, width: int) -> str:
    label, value = mark
    x = axis(value)
    text = f"{label} {milliseconds(value)} ms"
    anchor, shift = ("start", 5) if x + len(text) * CHARACTER + 10 < width else ("end", -5)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{at - 11:.1f}" y2="{floor}"/>'
        f"{svg_text(x + shift, at, text, 'small', anchor)}"
    )


def _shown(values: np.ndarray) -> list[int]:
    if len(values) <= MAX_DOTS:
        return list(range(len(values)))
    shown: list[int] = []
    for part in np.array_split(np.arange(len(values)), MAX_DOTS // 3):
        order = part[np.argsort(values[part])]
        shown += {int(order[0]), int(order[len(order) // 2]), int(order[-1])}
    return shown
