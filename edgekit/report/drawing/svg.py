"""Renders a graph as a self-contained SVG: blocks as boxes, unfolded to a depth, with edges between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgekit.measure.layer_times import LayerTimes
from edgekit.quantize.compare import LayerNoise
from edgekit.report.assets import asset
from edgekit.report.drawing.cards import Card, Painter
from edgekit.report.drawing.contents import Contents, Drawing, Port
from edgekit.report.drawing.layers import Place, outer_lanes
from edgekit.report.drawing.tree import Block
from edgekit.text import html_text as escape

__all__ = ["GAP", "LANE", "heading_of", "svg_from_drawing"]

BOX, LINE, PAD = 236, 17, 10
LANE, GAP, ROW_GAP = 10, 18, 28
MARGIN, TITLE = 28, 66
CHARACTER = {"title": 7.9, "line": 6.7}
"""Character widths in px, of the widest common font."""


class _Drawn(NamedTuple):
    width: float
    height: float
    svg: str


def svg_from_drawing(
    drawing: Drawing,
    depth: int | None = None,
    times: LayerTimes | None = None,
    noise: Sequence[LayerNoise] | None = None,
) -> str:
    """Renders the SVG.

    Args:
        drawing: the graph to draw.
        depth: number of visible levels; None for as many as fit.
        times: times of the engine's layers, which colour the blocks.
        noise: noise of the layers, which colours the blocks instead.
    """
    artist = _Artist(drawing, drawing.unfolded(depth), times, noise)
    graph = artist.contents(drawing.contents())
    legend = _legend(artist.painter)
    heading = _text(0, 24, "heading", drawing.found.name) + _text(0, 46, "soft", heading_of(drawing))
    width = max(graph.width, 640.0) + 2 * MARGIN
    height = graph.height + TITLE + legend.height + 2 * MARGIN
    left = (width - 2 * MARGIN - graph.width) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(f"Computation graph of {drawing.found.name}")}">\n'
        f"<style>\n{asset('graph_svg.css')}</style>\n{_ARROW}"
        f'<rect class="paper" width="100%" height="100%"/>\n'
        f'<g transform="translate({MARGIN} {MARGIN})">{heading}{_moved(0, TITLE, legend.svg)}</g>\n'
        f"{_moved(MARGIN + left, MARGIN + TITLE + legend.height, graph.svg)}\n</svg>\n"
    )


_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="tip" d="M0 0.8 L7.5 4 L0 7.2 Z"/></marker></defs>\n'
)


def heading_of(drawing: Drawing) -> str:
    """Returns the summary line of a drawing."""
    found = drawing.found
    engine = f"{str(found.manifest.precision).upper()} for {found.manifest.backend} · " if found.manifest else ""
    return f"{engine}{len(found.layers)} layers · {found.parameters or 0:,} parameters · {found.macs or 0:,} MACs"


class _Artist:
    """Draws blocks from the innermost outwards, each with its upper left corner at the origin."""

    def __init__(
        self,
        drawing: Drawing,
        opened: set[Block],
        times: LayerTimes | None,
        noise: Sequence[LayerNoise] | None = None,
    ) -> None:
        self.painter = Painter(drawing, times, noise)
        self._drawing = drawing
        self._opened = opened

    def contents(self, shown: Contents) -> _Drawn:
        drawn = [self._node(node) for node in shown.nodes]
        places = shown.layout.places
        lefts, widths, whole = _spread(places, [one.width for one in drawn], shown.layout.columns)
        heights = [0.0] * (max(place.row for place in places) + 1)
        for one, place in zip(drawn, places, strict=False):
            heights[place.row] = max(heights[place.row], one.height)
        tops = [sum(heights[:row]) + ROW_GAP * row for row in range(len(heights))]

        def centre(place: Place) -> float:
            return (lefts[place.first] + lefts[place.last] + widths[place.last]) / 2

        edges = []
        for a, b in shown.layout.segments:
            source, target = places[a], places[b]
            start = tops[source.row] + (drawn[a].height if a < len(drawn) else heights[source.row])
            bend = tops[source.row] + heights[source.row]
            end = tops[target.row] + (0 if b < len(drawn) else heights[target.row])
            edges.append(
                _edge(
                    centre(source),
                    start,
                    bend,
                    centre(target),
                    tops[target.row],
                    end,
                    arrow=b < len(drawn) and _visible(shown.nodes[b]),
                )
            )
        boxes = [
            _moved(centre(place) - one.width / 2, tops[place.row], one.svg)
            for one, place in zip(drawn, places, strict=False)
        ]
        return _Drawn(whole, tops[-1] + heights[-1], "".join(edges + boxes))

    def _node(self, node: Block | Port) -> _Drawn:
        if isinstance(node, Port):
            return _port(node)
        card = self.painter.card(node)
        return self._open(node, card) if node in self._opened else _folded(card, bool(node.parts))

    def _open(self, block: Block, card: Card) -> _Drawn:
        shown = self._drawing.inside(block)
        inner = self.contents(shown)
        head = PAD + 2 * LINE + 8
        above, below = (2 * PAD if _visible(node) else 0 for node in (shown.nodes[0], shown.nodes[-1]))
        subtitle = " · ".join(filter(None, (card.shape, card.figures, card.time)))
        width = max(inner.width + 2 * GAP, BOX, len(subtitle) * CHARACTER["line"] + 3 * PAD)
        room = width - 3 * PAD
        height = head + above + inner.height + below
        return _Drawn(
            width,
            height,
            f"<g><title>{escape(card.tip)}</title>"
            + f'<rect class="open" width="{width:.0f}" height="{height:.0f}" rx="10"/>'
            + _title(card, room)
            + _text(PAD + 6, PAD + LINE + 12, "soft", subtitle)
            + _bar(card, head)
            + f'<path class="edge faint" d="M0 {head}H{width:.0f}"/></g>'
            + _moved((width - inner.width) / 2, head + above, inner.svg),
        )


def _spread(
    places: tuple[Place, ...], sizes: list[float], columns: tuple[bool, ...]
) -> tuple[list[float], list[float], float]:
    """Returns left edges and widths of all columns, and the total width, in which the nodes are centred."""
    widths = [0.0 if holds_nodes else float(LANE) for holds_nodes in columns]
    for size, place in sorted(zip(sizes, places, strict=False), key=lambda item: item[1].last - item[1].first):
        nodes = [column for column in range(place.first, place.last + 1) if columns[column]]
        missing = size - sum(widths[place.first : place.last + 1]) - GAP * (place.last - place.first)
        for column in nodes if missing > 0 else ():
            widths[column] += missing / len(nodes)
    left, right = outer_lanes(columns)
    indent = max(right - left, 0) * (LANE + GAP)
    lefts = [indent + sum(widths[:column]) + GAP * column for column in range(len(widths))]
    return lefts, widths, lefts[-1] + widths[-1] + max(left - right, 0) * (LANE + GAP)


def _folded(card: Card, more: bool) -> _Drawn:
    lines = [line for line in (card.operators, card.shape, card.figures, card.time) if line]
    height = 2 * PAD + LINE * (1 + len(lines)) - 3
    room = BOX - 2 * PAD - 8
    behind = f'<rect class="box" x="4" y="4" width="{BOX}" height="{height}" rx="8"/>' if card.copies else ""
    style = "box more" if more else "box"
    text = "".join(
        _text(
            PAD + 6, PAD + 12 + LINE * (1 + place), "shape" if line == card.shape else "soft", _cut(line, room, "line")
        )
        for place, line in enumerate(lines)
    )
    return _Drawn(
        BOX,
        height,
        f'<g><title>{escape(card.tip)}</title>{behind}<rect class="{style}" width="{BOX}" height="{height}" rx="8"/>'
        f"{_title(card, room)}{text}{_bar(card, height)}</g>",
    )


def _title(card: Card, room: float) -> str:
    copies = f'<tspan class="copies" dx="7">{card.copies}</tspan>' if card.copies else ""
    title = _cut(card.title, room - (len(card.copies) + 1) * CHARACTER["title"] * bool(copies), "title")
    return f'<text class="title" x="{PAD + 6}" y="{PAD + 12}">{escape(title)}{copies}</text>'


def _bar(card: Card, height: float) -> str:
    """Draws a stripe at the left edge, in the colours of the card."""
    top, room = 7.0, height - 14
    parts = []
    for colour, share in card.colours:
        parts.append(f'<rect class="{colour}" x="5" y="{top:.1f}" width="4" height="{room * share:.1f}" rx="1.5"/>')
        top += room * share
    return "".join(parts)


def _visible(node: Block | Port) -> bool:
    """Whether a node is visible: a port without a label is only the point where an edge meets the frame."""
    return not isinstance(node, Port) or bool(node.label)


def _port(port: Port) -> _Drawn:
    if not port.label:
        return _Drawn(0, 0, "")
    label = _cut(port.label, BOX, "title")
    lines = [label, port.detail] if port.detail else [label]
    width = max(len(lines[0]) * CHARACTER["title"], len(lines[-1]) * CHARACTER["line"]) + 2 * PAD + 8
    height = 10 + LINE * len(lines)
    text = "".join(
        f'<text class="{"title" if port.detail and not place else "soft"}" x="{width / 2:.1f}" '
        f'y="{18 + LINE * place}" text-anchor="middle">{escape(line)}</text>'
        for place, line in enumerate(lines)
    )
    return _Drawn(
        width, height, f'<rect class="port" width="{width:.1f}" height="{height}" rx="{height / 2:.1f}"/>{text}'
    )


def _edge(x: float, start: float, bend: float, to_x: float, top: float, end: float, *, arrow: bool) -> str:
    """Draws an edge: straight down to the end of its row, a curve to the next row, and straight down there."""
    middle = (bend + top) / 2
    path = f"M{x:.1f} {start:.1f}V{bend:.1f}C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {top:.1f}"
    if end > top:
        path += f"V{end:.1f}"
    return f'<path class="edge" d="{path}"{" marker-end=" + chr(34) + "url(#arrow)" + chr(34) if arrow else ""}/>'


def _legend(painter: Painter) -> _Drawn:
    x, parts = 0.0, []
    for colour, name in painter.legend():
        parts.append(f'<rect class="{colour}" x="{x:.0f}" y="0" width="12" height="12" rx="3"/>')
        parts.append(_text(x + 18, 11, "soft", name))
        x += 18 + len(name) * CHARACTER["line"] + 22
    return _Drawn(x, 40, "".join(parts))


def _cut(text: str, room: float, kind: str) -> str:
    most = max(int(room / CHARACTER[kind]), 2)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _text(x: float, y: float, style: str, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _moved(x: float, y: float, svg: str) -> str:
    return f'<g transform="translate({x:.1f} {y:.1f})">{svg}</g>'
