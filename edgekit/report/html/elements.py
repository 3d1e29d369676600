"""The parts that all HTML pages are made of: the frame of a page, sections, cards, tables of facts, legends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from edgekit.report.assets import asset
from edgekit.text import html_text as escape

__all__ = [
    "NARROW",
    "WIDE",
    "Bar",
    "Card",
    "Cell",
    "bars",
    "both_widths",
    "cell_html",
    "cards",
    "caution",
    "facts",
    "footer",
    "header",
    "heading",
    "legend",
    "page",
    "section",
    "summary",
    "summary_bar",
    "table",
    "verdict_box",
]

WIDE, NARROW = 720, 350
"""Widths for which every chart is drawn, in px: text keeps its size on a phone. The style sheet shows one of them."""


class Bar(NamedTuple):
    """A labelled bar of stacked parts.

    Attributes:
        label: what it is.
        parts: name, colour class and length of each part; the lengths of all bars have one unit.
        total: its value in words.
    """

    label: str
    parts: tuple[tuple[str, str, float], ...]
    total: str


class Card(NamedTuple):
    """A figure at the top of a page: a label, a value with its unit, a line below, and a colour class."""

    label: str
    value: str
    below: str
    colour: str = ""


class Cell(NamedTuple):
    """A cell of a table that can be sorted.

    Attributes:
        text: the text.
        value: the value to sort by, and to add up; None sorts by the text.
        share: length of a bar behind the text, 0 to 1; None for no bar.
        colour: class of the cell.
        title: full text, where ``text`` is short.
    """

    text: str
    value: float | None = None
    share: float | None = None
    colour: str = ""
    title: str = ""


def page(title: str, body: Iterable[str], *, graph: bool = False) -> str:
    """Renders a complete page that needs no other file.

    Args:
        title: title of the page.
        body: the parts of ``main``; empty ones are left out.
        graph: it contains a drawing of `edgekit.report.drawing.page.part_from_drawing`.
    """
    styles = asset("page.css") + (asset("graph.css") if graph else "")
    scripts = asset("page.js") + (asset("graph.js") if graph else "")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{styles}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>\n{scripts}</script>\n</body>\n</html>\n"
    )


def header(name: str, subtitle: str, created: str) -> str:
    """Renders the title of a page and the time of the measurement."""
    when = escape(created.replace("T", " ").replace("+00:00", " UTC"))
    return f"<header><h1>{escape(name)}</h1><p>{escape(subtitle)}{' · ' if when else ''}{when}</p></header>"


def heading(text: str) -> str:
    """Returns a text as a heading: with a capital letter, unless it has its own, as mAP."""
    return text.capitalize() if text.islower() else text


def footer(text: str) -> str:
    """Renders the line at the end of a page."""
    return f"<footer>{escape(text)}</footer>"


def summary_bar(name: str, figures: Iterable[tuple[str, str]]) -> str:
    """Renders the bar that stays in sight: a name and the most important figures, as label and value."""
    items = "".join(f"<span>{escape(label)} <b>{escape(value)}</b></span>" for label, value in figures)
    return f'<div class="bar-top"><b>{escape(name)}</b>{items}</div>'


def verdict_box(sentence: str, details: Sequence[str], *, kind: str) -> str:
    """Renders the sentence on top of a page.

    Args:
        sentence: the result in one sentence.
        details: further sentences.
        kind: ``good``, ``bad``, ``unsure`` or ``plain``: the colour.
    """
    lines = "".join(f"<p>{escape(line)}</p>" for line in details)
    return f'<section class="verdict {kind}" role="note"><p class="says">{escape(sentence)}</p>{lines}</section>'


def caution(heading: str, lines: Sequence[str]) -> str:
    """Renders notes that the reader must see; empty without lines."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines) if len(lines) > 1 else ""
    text = f"<ul>{items}</ul>" if items else f"<p>{escape(lines[0])}</p>"
    return f'<section class="caution" role="note"><h2>{escape(heading)}</h2>{text}</section>'


def section(heading: str, text: str, content: str, *, kind: Literal["", "long", "screen"] = "") -> str:
    """Renders a section; empty without content.

    Args:
        heading: its heading.
        text: a paragraph below it.
        content: HTML.
        kind: ``long`` may be divided among printed pages, ``screen`` is not printed.
    """
    if not content:
        return ""
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    return f"<section{_class(kind)}><h2>{escape(heading)}</h2>{paragraph}{content}</section>"


def cards(figures: Sequence[Card]) -> str:
    """Renders the figures at the top of a page; a value's unit follows its first space."""
    items = "".join(
        f"<div{_class(card.colour)}><dt>{escape(card.label)}</dt><dd>{_with_unit(card.value)}</dd>"
        f"<dd>{escape(card.below)}</dd></div>"
        for card in figures
    )
    return f'<dl class="figures">{items}</dl>'


def summary(
    name: str, subtitle: str, figures: Sequence[tuple[str, str]], sentence: str, shown: Sequence[Card]
) -> list[str]:
    """Renders the top of a page whose result is neither good nor bad: title, bar, sentence and cards.

    Args:
        name: the title.
        subtitle: what was done.
        figures: those that stay in sight, as label and value.
        sentence: the result in one sentence.
        shown: the cards.
    """
    return [
        header(name, subtitle, ""),
        summary_bar(name, figures),
        verdict_box(sentence, [], kind="plain"),
        cards(shown),
    ]


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Renders labels and values; empty without rows."""
    items = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in rows)
    return f'<dl class="facts">{items}</dl>' if items else ""


def legend(items: Iterable[tuple[str, str]]) -> str:
    """Renders colour classes and their names."""
    entries = "".join(f'<li><i class="{colour}"></i>{escape(name)}</li>' for colour, name in items)
    return f'<ul class="legend">{entries}</ul>'


def bars(rows: Sequence[Bar]) -> str:
    """Renders horizontal bars on one scale, whose parts add up."""
    longest = max((sum(length for _, _, length in row.parts) for row in rows), default=0.0) or 1.0
    drawn = []
    for row in rows:
        own = sum(length for _, _, length in row.parts)
        parts = "".join(
            f'<i class="{colour}" style="flex:{length / (own or 1.0):.4f}" data-tip="{escape(name)}"></i>'
            for name, colour, length in row.parts
        )
        drawn.append(
            f'<div class="hbar"><span>{escape(row.label)}</span>'
            f'<span class="track"><span class="fill" style="width:{100 * own / longest:.2f}%">{parts}</span></span>'
            f"<b>{escape(row.total)}</b></div>"
        )
    return f'<div class="hbars">{"".join(drawn)}</div>'


def both_widths(draw: Callable[[int], str]) -> str:
    """Draws a chart for wide and for narrow screens, of which the style sheet shows one."""
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def table(
    heading: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    label: str,
    *,
    row_classes: Sequence[str] = (),
    sorts: bool = True,
) -> str:
    """Renders a table; the first column is text, the others are numbers.

    Args:
        heading: names of the columns.
        rows: the cells of each row.
        label: what the table shows, for screen readers.
        row_classes: class of each row; empty for none.
        sorts: a click on the heading of a column sorts by it.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heading)
    body = "".join(
        f"<tr{_class(row_classes[i] if row_classes else '')}>{_row(cells)}</tr>" for i, cells in enumerate(rows)
    )
    kind = _class("sorts" if sorts else "")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[Cell]) -> str:
    return cell_html(cells[0], "th") + "".join(cell_html(cell) for cell in cells[1:])


def cell_html(cell: Cell, tag: str = "td") -> str:
    """Renders a cell; ``tag`` is ``th`` for the first of a row."""
    attributes = ' scope="row"' if tag == "th" else ""
    attributes += _class(cell.colour)
    if cell.value is not None:
        attributes += f' data-v="{cell.value:.6g}"'
    if cell.title:
        attributes += f' title="{escape(cell.title)}"'
    bar = "" if cell.share is None else f'<i class="share" style="width:{100 * min(cell.share, 1.0):.1f}%"></i>'
    # A long name of a module breaks after a dot or an underscore.
    text = escape(cell.text).replace(".", ".<wbr>").replace("_", "_<wbr>") if tag == "th" else escape(cell.text)
    return f"<{tag}{attributes}>{bar}{text}</{tag}>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _with_unit(text: str) -> str:
    number, _, unit = text.partition(" ")
    return f"{escape(number)} <small>{escape(unit)}</small>" if unit else escape(number)
