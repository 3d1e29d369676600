"""Scales, ticks and texts of charts in SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from edgekit.text import html_text as escape

__all__ = [
    "CHARACTER",
    "NARROW",
    "Scale",
    "label_room",
    "round_ticks",
    "shortened",
    "si_number",
    "svg",
    "svg_text",
    "x_axis",
    "y_grid",
]

NARROW = 500
"""Charts below this width have fewer ticks and columns."""
CHARACTER = 7.4
"""Width of a character in px, on average, at the size of text in charts."""


class Scale:
    """Maps values from ``low`` to ``high`` to px from ``start`` to ``end``, linearly or logarithmically."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self.low, self.high, self.log = low, high, log
        self._start, self._end = start, end
        self._from, self._to = (math.log10(low), math.log10(high)) if log else (low, high)

    def __call__(self, value: float) -> float:
        place = math.log10(max(value, self.low * 1e-3)) if self.log else value
        share = (place - self._from) / ((self._to - self._from) or 1.0)
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)

    def ticks(self, about: int) -> list[float]:
        """Returns about so many round numbers within the scale."""
        found = _log_ticks(self.low, self.high) if self.log else round_ticks(self.low, self.high, about)
        while len(found) > about + 1:
            found = found[::2]
        return found


def label_room(ticks: Sequence[float]) -> float:
    """Returns the width in px that the labels of a vertical axis take."""
    return 16 + CHARACTER * max((len(f"{tick:g}") for tick in ticks), default=1)


def _plain(value: float) -> str:
    return f"{value:g}"


def si_number(value: float) -> str:
    """Returns a number with k, M, G or T instead of zeros."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def x_axis(
    x: Scale,
    bottom: float,
    about: int,
    name: Callable[[float], str] = _plain,
    ticks: Sequence[float] | None = None,
) -> str:
    """Draws the ticks of a horizontal axis, and their labels, below the px ``bottom``."""
    return "".join(
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f"{svg_text(x(tick), bottom + 20, name(tick), 'small', 'middle')}"
        for tick in (x.ticks(about) if ticks is None else ticks)
    )


def y_grid(ticks: Iterable[float], y: Scale, left: float, right: float, name: Callable[[float], str] = _plain) -> str:
    """Draws a horizontal line at each tick of a vertical axis, and its label on the left."""
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f"{svg_text(left - 6, y(tick) + 4, name(tick), 'small', 'end')}"
        for tick in ticks
    )


def round_ticks(low: float, high: float, about: int) -> list[float]:
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


def shortened(text: str, room: float) -> str:
    """Returns the text, or as much of it as there is room for in px, with an ellipsis."""
    most = int(room / CHARACTER)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def svg_text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    """Draws a text at a place in px; ``anchor`` says which end of it is there: ``start``, ``middle`` or ``end``."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(width: float, height: float, described: str, parts: Iterable[str]) -> str:
    """Returns a drawing of these parts, with a description for screen readers."""
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return f'<svg {box} role="img" aria-label="{escape(described)}">{"".join(parts)}</svg>'
