"""Renders a graph as one self-contained HTML page, whose blocks unfold on a click or a key.

The browser positions the boxes in the rows and columns of the layout; a script in the page draws the edges, moves and
scales the drawing, searches it, and shows the facts of what is clicked.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.measure.layer_times import LayerTimes
from edgekit.quantize.compare import LayerNoise
from edgekit.report.assets import asset
from edgekit.report.drawing.cards import Card, Painter
from edgekit.report.drawing.contents import Contents, Drawing, Port
from edgekit.report.drawing.layers import Place, outer_lanes
from edgekit.report.drawing.svg import GAP, LANE, heading_of
from edgekit.report.drawing.tree import Block
from edgekit.text import html_text as escape

__all__ = ["html_from_drawing", "part_from_drawing"]


def html_from_drawing(
    drawing: Drawing,
    depth: int | None = None,
    times: LayerTimes | None = None,
    noise: Sequence[LayerNoise] | None = None,
) -> str:
    """Renders the page.

    Args:
        drawing: the graph to draw.
        depth: number of visible levels when the page opens; None for as many as fit.
        times: times of the engine's layers, which colour the blocks.
        noise: noise of the layers, which colours the blocks instead.
    """
    writer = _Writer(drawing, drawing.unfolded(depth), times, noise)
    name = escape(drawing.found.name)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: computation graph</title>\n"
        f'<style>\n{asset("page.css")}{asset("graph.css")}</style>\n</head>\n<body class="graph-view">\n'
        f"<header><h1>{name}</h1><p>{escape(heading_of(drawing))}</p>{writer.legend()}{_TOOLS}</header>\n"
        f"{writer.area('main')}\n<script>\n{asset('graph.js')}</script>\n</body>\n</html>\n"
    )


def part_from_drawing(drawing: Drawing, depth: int | None = None, times: LayerTimes | None = None) -> str:
    """Renders the drawing as a part of a page that has ``graph.css`` and ``graph.js``; see `html_from_drawing`."""
    writer = _Writer(drawing, drawing.unfolded(depth), times)
    return f'<div class="graph-view">{writer.legend()}{_TOOLS}{writer.area("div")}</div>'


_TOOLS = (
    '<p class="tools" hidden><button type="button" data-do="more">Unfold one level</button>'
    '<button type="button" data-do="all">Unfold all</button><button type="button" data-do="none">Fold all</button>'
    '<button type="button" data-do="in" aria-label="Zoom in">+</button>'
    '<button type="button" data-do="out" aria-label="Zoom out">−</button>'
    '<button type="button" data-do="fit">Fit</button>'
    '<input type="search" placeholder="find a layer" aria-label="Find a layer">'
    '<button type="button" data-do="next">Next</button><output></output></p>'
    '<p class="hint">Blocks unfold on a click; drawing edges, zoom and search need JavaScript.</p>'
)


class _Writer:
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

    def legend(self) -> str:
        entries = "".join(
            f'<li><i class="{colour}"></i>{escape(words)}</li>' for colour, words in self.painter.legend()
        )
        return f'<ul class="legend">{entries}</ul>'

    def area(self, tag: str) -> str:
        """Renders the drawing, and the places of its map and of the facts of a layer."""
        view = f'<div class="view">{self.contents(self._drawing.contents())}</div>'
        return (
            f'<{tag} class="graph" tabindex="0" role="region" aria-label="Graph">{view}</{tag}>\n'
            '<canvas class="graph-map" hidden></canvas><aside class="graph-facts" hidden></aside>'
        )

    def contents(self, shown: Contents) -> str:
        places, columns = shown.layout.places, shown.layout.columns
        tracks = " ".join("auto" if holds_nodes else f"{LANE}px" for holds_nodes in columns)
        left, right = ((LANE + GAP) * lanes for lanes in outer_lanes(columns))
        style = f"grid-template-columns:{tracks}"
        if left != right:
            style += f";padding-{'left' if right > left else 'right'}:{abs(right - left)}px"
        nodes = [self._node(node, place) for node, place in zip(shown.nodes, places, strict=False)]
        lanes = [f'<i class="lane" {_area(place)}></i>' for place in places[len(nodes) :]]
        edges = " ".join(f"{source}-{target}" for source, target in shown.layout.segments)
        frame = "".join(
            f" {side}-port"
            for side, node in (("top", shown.nodes[0]), ("bottom", shown.nodes[-1]))
            if isinstance(node, Port) and node.label
        )
        return f'<div class="inside{frame}" style="{style}" data-edges="{edges}">{"".join(nodes + lanes)}</div>'

    def _node(self, node: Block | Port, place: Place) -> str:
        if isinstance(node, Port):
            return _port(node, place)
        card = self.painter.card(node)
        if not node.parts:
            return f'<div class="card" {_area(place)} title="{escape(card.tip)}">{_text(card)}</div>'
        inner = self.contents(self._drawing.inside(node))
        copies = " copies" if node.copies > 1 else ""
        opened = " open" if node in self._opened else ""
        return (
            f'<details class="block{copies}" {_area(place)}{opened}>'
            f'<summary class="card" title="{escape(card.tip)}">{_text(card)}</summary>{inner}</details>'
        )


def _area(place: Place) -> str:
    columns = f"{place.first + 1}/{place.last + 2}"
    return f'data-row="{place.row}" style="grid-row:{place.row + 1};grid-column:{columns}"'


def _text(card: Card) -> str:
    bar = "".join(f'<i class="{colour}" style="flex:{share:.3f}"></i>' for colour, share in card.colours)
    copies = f" <em>{card.copies}</em>" if card.copies else ""
    lines = (
        ("operators", card.operators),
        ("shape", card.shape),
        ("cost", card.figures),
        ("time", card.time),
    )
    text = "".join(f'<span class="{kind}">{escape(line)}</span>' for kind, line in lines if line)
    return f'<span class="bar">{bar}</span><b>{escape(card.title)}{copies}</b>{text}'


def _port(port: Port, place: Place) -> str:
    if not port.label:
        return f'<i class="frame" {_area(place)}></i>'
    if port.detail:
        return f'<div class="port" {_area(place)}><b>{escape(port.label)}</b><span>{escape(port.detail)}</span></div>'
    return f'<div class="port" {_area(place)}>{escape(port.label)}</div>'
