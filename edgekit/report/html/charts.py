"""Draws charts as SVG, each for a given width; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.report.wording import milliseconds
from edgekit.text import html_text as escape

__all__ = [
    "Curve",
    "Line",
    "Point",
    "Series",
    "axis_note",
    "curves",
    "distribution",
    "intervals",
    "run_line",
    "scatter",
    "time_line",
]

MAX_BINS = {False: 64, True: 36}
"""Number of columns of a histogram, on a wide and on a narrow chart."""
NARROW = 500
"""Charts below this width have fewer ticks and columns."""
LOG_FROM = 12.0
"""If the largest value on an axis is so many times the smallest, the axis is logarithmic."""
BREAK_FROM = 1.25
"""If the slowest run is so many times the end of the bulk, the axis is broken there."""
TAIL_SHARE = 0.2
"""Share of the width for the runs beyond the break."""
MAX_DOTS = 3000
SLOWEST_MARKED = 5
CHARACTER = 7.4
"""Width of a character in px, on average, at the size of text in charts."""


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


class _Scale:
    """Maps values to pixels, linearly or logarithmically."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self.low, self.high, self.log = low, high, log
        self._start, self._end = start, end
        self._from, self._to = (math.log10(low), math.log10(high)) if log else (low, high)

    def __call__(self, value: float) -> float:
        place = math.log10(max(value, self.low * 1e-3)) if self.log else value
        share = (place - self._from) / ((self._to - self._from) or 1.0)
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)

    def ticks(self, about: int) -> list[float]:
        found = _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high, about)
        while len(found) > about + 1:
            found = found[::2]
        return found


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
        self.bulk = _Scale(first, last, start, middle, log=log)
        self.tail = _Scale(last, max(top * 1.05, last * 1.1), middle + 12, end, log=True) if broken else None
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
            parts.append(_text(left, top + 16, _cut(name, width - 20), "strong", "start"))
        first = top + (22 if one.name else 0)
        parts += [_mark(mark, axis, first + 16 + 20 * i, floor, width) for i, mark in enumerate(one.marks)]
    if axis.tail is not None:
        zigzag = "".join(f"l{3 if i % 2 else -3} 6" for i in range(base // 6))
        parts.append(f'<path class="break" d="M{axis.break_at:.1f} 0{zigzag}"/>')
    scale = "ms, logarithmic" if axis.bulk.log else "ms"
    parts.append(_text(left, base + 40, scale, "small", "start"))
    if axis.tail is not None:
        parts.append(_text(right, base + 40, "beyond the break: logarithmic", "small", "end"))
    described = "; ".join(
        f"{one.name or 'latency'}: {len(v):,} runs from {milliseconds(v.min())} to {milliseconds(v.max())} ms"
        for one, v in zip(series, samples, strict=True)
    )
    return _svg(width, base + 46, f"Distribution of the latency. {described}.", parts)


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
    y = _Scale(first, high * (1.1 if log else 1.02) or 1.0, bottom, top, log=log)
    ticks = y.ticks(5)
    left, right = _label_room(ticks), width - 10
    longest = max(map(len, samples))
    x = _Scale(0, max(1, longest - 1), left + 4, right - 4, log=False)
    parts = [_y_grid(ticks, y, left, right)]
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
    parts.append(_text(left, top - 10, "ms, logarithmic" if log else "ms", "small", "start"))
    if steady_from:
        parts.append(_text(right, top - 10, f"shaded: warm-up, {steady_from} runs", "small", "end"))
    parts.append(_text(left, bottom + 20, "first run", "small", "start"))
    parts.append(_text(right, bottom + 20, f"run {longest:,}", "small", "end"))
    medians = "; ".join(f"{s.name}: median {milliseconds(float(np.median(s.samples_ms)))} ms" for s in series)
    return _svg(width, bottom + 26, f"Latency of every run in order. {medians}.", parts)


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
    y = _Scale(low, max(ys) * 1.15 if log_y else max(ys) + room, bottom, top, log=log_y)
    y_ticks = y.ticks(5)
    left, right = _label_room(y_ticks), width - 16
    start = 0.0 if zero and not whole and min(xs) >= 0 and min(xs) < max(xs) / 2 else min(xs)
    x = _Scale(start, max(xs) if max(xs) > start else start + 1, left + 6, right - 10, log=False)
    x_ticks = [tick for tick in x.ticks(4 if width < NARROW else 8) if not whole or tick == int(tick)]
    parts = [_y_grid(y_ticks, y, left, right), _x_ticks(x, bottom, 0, ticks=x_ticks)]
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
            parts.append(_text(a, b - 10, words, "small", "end" if a + len(words) * CHARACTER > right else "middle"))
    parts.append(_text(left, top - 12, y_label + (", logarithmic" if log_y else ""), "small", "start"))
    parts.append(_text(right, bottom + 40, x_label, "small", "end"))
    return _svg(width, bottom + 46, f"{y_label} against {x_label}.", parts)


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
    x = _Scale(min(xs) / 1.3, max(xs) * 1.3, left, right, log=True)
    y = _Scale(min(ys) / 1.5, max(ys) * 1.8, bottom, top, log=True)
    parts = [_y_grid(y.ticks(6), y, left, right, _short), _x_ticks(x, bottom, 4 if width < NARROW else 8, _short)]
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
        labels.append(_text(right - 4, at, line.label, "small", "end"))
    for point in sorted(points, key=lambda p: -p.radius):
        spot = f'cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="{point.radius:.1f}"'
        circle = f'<circle class="layer {point.colour}" tabindex="0" {spot}>'
        parts.append(f"{circle}<title>{escape(point.tip)}</title></circle>")
    parts += labels  # above the points, which may be large
    parts.append(_text(left, top - 12, y_label, "small", "start"))
    parts.append(_text(right, bottom + 40, x_label, "small", "end"))
    return _svg(width, bottom + 46, described, parts)


def run_line(rows: Sequence[tuple[str, Sequence[tuple[str, str, float, float]]]], width: int) -> str:
    """Draws the time line of one run.

    Args:
        rows: a name for each row, and its slices: tooltip, colour class, start and duration in ms.
        width: width of the chart in px.
    """
    end = max(start + length for _, slices in rows for _, _, start, length in slices)
    left, right, thick = 10, width - 10, 30
    x = _Scale(0, end or 1.0, left, right, log=False)
    bottom = len(rows) * (thick + 26)
    parts = [_x_ticks(x, bottom + 4, 5 if width < NARROW else 9)]
    for index, (name, slices) in enumerate(rows):
        top = index * (thick + 26) + 20
        parts.append(_text(left, top - 5, name, "small", "start"))
        for tip, colour, start, length in slices:
            wide = max(x(start + length) - x(start) - 0.5, 0.6)
            box = f'x="{x(start):.1f}" y="{top}" width="{wide:.1f}" height="{thick}"'
            parts.append(f'<rect class="slice {colour}" {box}><title>{escape(tip)}</title></rect>')
    parts.append(_text(right, bottom + 44, "ms since the start of the run", "small", "end"))
    names = ", ".join(name for name, _ in rows)
    return _svg(width, bottom + 50, f"Time line of one run: {names}.", parts)


def intervals(rows: Sequence[tuple[str, float, float | None, float | None, str]], width: int) -> str:
    """Draws ratios with their confidence intervals beside the line at 1, on a logarithmic axis.

    Args:
        rows: label, ratio, the ends of its interval or None, and a colour class.
        width: width of the chart in px.
    """
    values = [1.0, *(float(v) for _, *ends, _ in rows for v in ends if v)]
    left, right, step = 10, width - 10, 44
    x = _Scale(min(values) / 1.15, max(values) * 1.15, left, right, log=True)
    bottom = step * len(rows) + 8
    ticks = _ticks(x.low, x.high, 4 if width < NARROW else 8)
    parts = [_x_ticks(x, bottom, 9, ticks=[tick for tick in ticks if tick > 0])]
    for index, (label, value, low, high, colour) in enumerate(rows):
        at = index * step + 32
        # Below the label, which may be as wide as the chart.
        parts.append(f'<line class="mark" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{at - 9}" y2="{at + 12}"/>')
        spread = f" ({low:.3g} to {high:.3g})" if low and high else " (no interval)"
        parts.append(_text(left, at - 14, _cut(f"{label}: {value:.3g} ×{spread}", width - 20), "small", "start"))
        if low and high:
            parts.append(f'<path class="curve {colour}" d="M{x(low):.1f} {at}H{x(high):.1f}" stroke-linecap="round"/>')
        parts.append(f'<circle class="{colour}" cx="{x(value):.1f}" cy="{at}" r="5"/>')
    parts.append(_text(right, bottom + 40, "ratio of medians; below 1 is faster", "small", "end"))
    described = "; ".join(f"{label} {value:.3g}" for label, value, *_ in rows)
    return _svg(width, bottom + 46, f"Ratios: {described}.", parts)


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
        drawn.append(_text(at, base + 20, text, "small", anchor))
    return f"<g>{''.join(drawn)}</g>"


def _mark(mark: tuple[str, float], axis: _LatencyAxis, at: float, floor: float, width: int) -> str:
    label, value = mark
    x = axis(value)
    text = f"{label} {milliseconds(value)} ms"
    anchor, shift = ("start", 5) if x + len(text) * CHARACTER + 10 < width else ("end", -5)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{at - 11:.1f}" y2="{floor}"/>'
        f"{_text(x + shift, at, text, 'small', anchor)}"
    )


def _shown(values: np.ndarray) -> list[int]:
    if len(values) <= MAX_DOTS:
        return list(range(len(values)))
    shown: list[int] = []
    for part in np.array_split(np.arange(len(values)), MAX_DOTS // 3):
        order = part[np.argsort(values[part])]
        shown += {int(order[0]), int(order[len(order) // 2]), int(order[-1])}
    return shown


def _label_room(ticks: Sequence[float]) -> float:
    return 16 + CHARACTER * max((len(f"{tick:g}") for tick in ticks), default=1)


def _plain(value: float) -> str:
    return f"{value:g}"


def _short(value: float) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def _x_ticks(
    x: _Scale,
    bottom: float,
    about: int,
    name: Callable[[float], str] = _plain,
    ticks: Sequence[float] | None = None,
) -> str:
    return "".join(
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f"{_text(x(tick), bottom + 20, name(tick), 'small', 'middle')}"
        for tick in (x.ticks(about) if ticks is None else ticks)
    )


def _y_grid(ticks: Iterable[float], y: _Scale, left: float, right: float, name: Callable[[float], str] = _plain) -> str:
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f"{_text(left - 6, y(tick) + 4, name(tick), 'small', 'end')}"
        for tick in ticks
    )


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Returns round numbers from ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times powers of ten, or powers alone over more than two decades."""
    factors = (1, 2, 5) if high < 300 * low else (1,)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    found = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
    return [tick for tick in found if low <= tick <= high]


def _cut(text: str, room: float) -> str:
    most = int(room / CHARACTER)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, described: str, parts: Iterable[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return f'<svg {box} role="img" aria-label="{escape(described)}">{"".join(parts)}</svg>'
