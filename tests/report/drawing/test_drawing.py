"""Drawings of graphs: their contents and their layout."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium

from edgekit.errors import BackendUnavailable, GraphError
from edgekit.measure.inspection import Inspection, LayerRow
from edgekit.measure.layer_times import LayerTime, LayerTimes
from edgekit.report.drawing.cards import Painter
from edgekit.report.drawing.contents import Drawing, drawing_from_inspection
from edgekit.report.drawing.page import html_from_drawing
from edgekit.report.drawing.svg import svg_from_drawing
from edgekit.specs import TensorSpec

SVG = "{http://www.w3.org/2000/svg}"
Rectangle = tuple[float, float, float, float]


def row(name: str, operator: str, reads: str, **changes: object) -> LayerRow:
    fields = {
        "name": name, "operator": operator, "output_shape": (1, 16, 52, 52), "precision": "float32",
        "parameters": 4640 if operator == "Conv" else 0, "macs": 12_500_000 if operator == "Conv" else 0,
        "reads": tuple(reads.split()), "writes": (name,),
        "kernel": (3, 3) if operator == "Conv" else (), "strides": (2, 2) if "down" in name else (),
    }  # fmt: skip
    return LayerRow(**(fields | changes))


@pytest.fixture
def residual_net() -> Inspection:
    """A stem, four residual blocks in a stage, and two heads, of which one reads the stem as well; five pixels wide."""
    rows = [row("stem.down", "Conv", "x"), row("stem.act", "LeakyRelu", "stem.down")]
    before = "stem.act"
    for i in range(1, 5):
        name = f"stage.block{i}"
        rows += [
            row(f"{name}.conv", "Conv", before),
            row(f"{name}.act", "LeakyRelu", f"{name}.conv"),
            row(f"{name}.add", "Add", f"{name}.act {before}"),
        ]
        before = f"{name}.add"
    rows += [
        row("head.cat", "Concat", f"{before} stem.act"),
        row("head.left", "Conv", "head.cat"),
        row("head.right", "Conv", "head.cat"),
    ]
    return Inspection(
        name="a<b>&c",
        parameters=sum(one.parameters or 0 for one in rows),
        macs=sum(one.macs or 0 for one in rows),
        weight_bytes=1,
        activation_bytes=1,
        intensity=1.0,
        assumed_sizes={},
        precision_from="graph",
        inputs=(TensorSpec("x", "float32", (1, 3, 104, 104)),),
        outputs=(TensorSpec("head.left", "float32", (1, 16, 52, 52)), TensorSpec("head.right", "float32", ("n", 16))),
        layers=tuple(rows),
    )


@pytest.fixture
def drawing(residual_net: Inspection) -> Drawing:
    """The drawing of the net."""
    return drawing_from_inspection(residual_net)


def boxes(
    node: ElementTree.Element, x: float = 0, y: float = 0, around: tuple[Rectangle, ...] = ()
) -> Iterator[tuple[Rectangle, tuple[Rectangle, ...]]]:
    """Returns every box of an SVG, and the unfolded blocks around it."""
    moved = re.match(r"translate\(([-\d.]+) ([-\d.]+)\)", node.get("transform", ""))
    if moved:
        x, y = x + float(moved[1]), y + float(moved[2])
    opened = (
        next((r for g in node for r in [*g, g] if r.get("class") == "open"), None) if node.tag == f"{SVG}g" else None
    )
    for child in node:
        if child.get("class") in ("box", "box more", "port", "open") and child.get("x") is None:
            left, top = x, y
            yield (left, top, left + float(child.get("width", 0)), top + float(child.get("height", 0))), around
    if opened is not None:
        frame = (x, y, x + float(opened.get("width", 0)), y + float(opened.get("height", 0)))
        around = (*around, frame)
    for child in node:
        yield from boxes(child, x, y, around)


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def within(a: Rectangle, b: Rectangle) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, None])
def test_boxes_are_separate_or_nested(drawing: Drawing, depth: int | None) -> None:
    root = ElementTree.fromstring(svg_from_drawing(drawing, depth))
    found = [box for box, _ in boxes(root)]
    assert len(found) >= 6
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for box in found:
        assert within(box, (0, 0, width, height))
    for a, b in combinations(found, 2):
        assert not overlap(a, b) or within(a, b) or within(b, a)


def test_depth_unfolds_level_by_level(drawing: Drawing) -> None:
    def titles(depth: int) -> set[str]:
        root = ElementTree.fromstring(svg_from_drawing(drawing, depth))
        return {"".join(node.itertext()) for node in root.iter(f"{SVG}text") if node.get("class") == "title"}

    assert titles(1) >= {"x", "stem", "stage×4", "head"}
    assert "block1" not in titles(1)
    assert titles(2) >= {"stage×4", "block1", "block4", "cat", "left"}
    assert "conv" not in titles(2)
    assert titles(3) >= {"conv", "add"}


def test_a_box_shows_operators_shape_and_figures(drawing: Drawing) -> None:
    painter = Painter(drawing)
    stem, stage, _ = (painter.card(block) for block in drawing.blocks)
    assert (stem.title, stem.operators, stem.shape) == ("stem", "Conv 3×3 /2 + LeakyRelu", "1×16×52×52")
    assert stem.figures == "4.64k params · 12.5M MACs"
    assert (stage.copies, stage.operators) == ("×4", "4 Conv, 4 LeakyRelu, 4 Add")
    assert stage.figures == "18.6k params · 50.0M MACs"
    assert "18,560 parameters, 50,000,000 MACs" in stage.tip


def test_colours_are_kinds_of_operators_or_else_precisions(residual_net: Inspection) -> None:
    painter = Painter(Drawing(residual_net))
    assert painter.legend() == [("conv", "convolution"), ("join", "sum, product or join"), ("other", "other")]
    layers = [
        msgspec.structs.replace(one, precision="int8") if one.name.startswith("stage.block1.") else one
        for one in residual_net.layers
    ]
    drawing = Drawing(msgspec.structs.replace(residual_net, layers=tuple(layers)))
    painter = Painter(drawing)
    assert painter.legend() == [("int8", "INT8"), ("float", "FP32")]
    assert painter.card(drawing.blocks[1]).colours == (("float", 0.75), ("int8", 0.25))


def test_ports_name_where_values_come_from_and_go_to(drawing: Drawing) -> None:
    svg = svg_from_drawing(drawing, 2)
    assert ">from stem<" in svg and ">from stage<" in svg
    assert ">to head.left<" in svg and ">to head.right<" in svg


def test_names_with_markup_characters_are_escaped(drawing: Drawing) -> None:
    for page in (svg_from_drawing(drawing), html_from_drawing(drawing)):
        assert "a<b>" not in page and "a&lt;b&gt;&amp;c" in page


class Page(HTMLParser):
    """Counts opening and closing tags, and keeps attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained(drawing: Drawing) -> None:
    text = html_from_drawing(drawing)
    page = Page(text)
    assert not page.open
    assert not any({"src", "href"} & attributes.keys() for _, attributes in page.seen)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text


def test_every_block_of_the_page_can_be_unfolded_by_keyboard(drawing: Drawing) -> None:
    page = Page(html_from_drawing(drawing, 2))
    tags = [tag for tag, _ in page.seen]
    assert tags.count("details") == tags.count("summary") == 6
    assert ["open" in attributes for tag, attributes in page.seen if tag == "details"].count(True) == 2


def main_of(text: str) -> ElementTree.Element:
    found = re.search(r"<main.*</main>", text, re.S)
    assert found is not None
    return ElementTree.fromstring(found[0].replace(" open>", ' open="">'))


def test_edges_of_the_page_connect_existing_places(drawing: Drawing) -> None:
    insides = [node for node in main_of(html_from_drawing(drawing)).iter("div") if node.get("data-edges") is not None]
    assert len(insides) == 7
    for inside in insides:
        rows = [int(child.get("data-row", "-1")) for child in inside]
        assert min(rows) == 0
        for edge in inside.get("data-edges", "").split():
            source, target = (int(place) for place in edge.split("-"))
            assert rows[source] + 1 == rows[target]


def edges_seen(node: ElementTree.Element) -> int:
    """Returns the number of edges in unfolded blocks."""
    if node.tag == "details" and node.get("open") is None:
        return 0
    return len(node.get("data-edges", "").split()) + sum(map(edges_seen, node))


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Callable[..., Tab]:
    def open_page(page: str, width: int = 1280, **options: Any) -> Tab:
        file = tmp_path / "graph.html"
        file.write_text(page, encoding="utf-8")
        return browser.open(file, width, **options)

    return open_page


@needs_chromium
@pytest.mark.parametrize("depth", [1, 3])
def test_the_script_draws_the_edges_of_unfolded_blocks(
    drawing: Drawing, opened: Callable[..., Tab], depth: int
) -> None:
    page = html_from_drawing(drawing, depth)
    tab = opened(page)
    paths = tab.run("[...document.querySelectorAll('.edges path:not(.tip)')].map((path) => path.getAttribute('d'))")
    assert len(paths) == edges_seen(main_of(page)) > 0
    assert not [path for path in paths if "NaN" in path or "Infinity" in path]
    assert tab.complaints() == []


USED = """
const [stage, ...others] = document.querySelectorAll("summary");
const press = (summary, key) => summary.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const told = [];
stage.click(); told.push(stage.parentElement.open);
stage.click(); told.push(stage.parentElement.open);
press(stage, "ArrowRight"); told.push(stage.parentElement.open);
press(stage, "ArrowLeft"); told.push(stage.parentElement.open);
press(stage, "ArrowDown"); told.push(document.activeElement === others.at(-1));
document.querySelector("[data-do=all]").click(); told.push(document.querySelectorAll("details[open]").length);
document.querySelector("[data-do=none]").click(); told.push(document.querySelectorAll("details[open]").length);
told.join(" ")"""


@needs_chromium
def test_clicks_and_keys_fold_and_unfold(drawing: Drawing, opened: Callable[..., Tab]) -> None:
    assert opened(html_from_drawing(drawing, 1)).run(USED) == "true false true false true 6 0"


VIEW = "(({ x, y, width, height }) => [x, y, width, height])(document.querySelector('.view').getBoundingClientRect())"
PORT = VIEW.replace(".view", ".graph")


@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
def test_the_drawing_zooms_under_the_pointer_fits_and_is_dragged(
    drawing: Drawing, opened: Callable[..., Tab], width: int
) -> None:
    tab = opened(html_from_drawing(drawing, 3), width)
    assert tab.run(
        "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    )
    tab.click("[data-do=all]")
    tab.click("[data-do=fit]")
    left, top, wide, high = tab.run(PORT)
    x, y, w, h = tab.run(VIEW)
    assert left <= x and x + w <= left + wide + 1 and top <= y and y + h <= top + high + 1, "all of it is in sight"
    at = (left + wide / 2, top + high / 2)
    tab.mouse("mouseWheel", *at, deltaX=0, deltaY=-120, modifiers=2)  # with Ctrl
    x2, y2, w2, _ = tab.run(VIEW)
    zoomed = w2 / w
    assert zoomed == pytest.approx(np.exp(120 / 200), rel=1e-3)
    assert x2 - at[0] == pytest.approx((x - at[0]) * zoomed, abs=1), "what is under the pointer stays there"
    assert y2 - at[1] == pytest.approx((y - at[1]) * zoomed, abs=1)
    tab.mouse("mousePressed", left + 5, top + 50, button="left", clickCount=1)
    for step in (20, 40):
        tab.mouse("mouseMoved", left + 5 + step, top + 50 + step / 2, button="left", buttons=1)
    tab.mouse("mouseReleased", left + 45, top + 70, button="left", clickCount=1)
    x3, y3, *_ = tab.run(VIEW)
    assert (x3 - x2, y3 - y2) == (pytest.approx(40, abs=1), pytest.approx(20, abs=1))
    assert tab.complaints() == []


@needs_chromium
def test_a_search_unfolds_and_shows_what_it_finds_with_its_facts(drawing: Drawing, opened: Callable[..., Tab]) -> None:
    tab = opened(html_from_drawing(drawing, 1))
    tab.click("[type=search]")
    tab.type("stage.block3 conv")
    tab.press("Enter", 13)
    found = tab.run("document.querySelectorAll('.hit').length")
    assert tab.run("document.querySelector('.tools output').textContent") == f"1 of {found}"
    assert "stage" in tab.run("document.querySelector('.graph-facts').textContent")
    x, y, w, h = tab.run(VIEW.replace(".view", ".chosen"))
    left, top, wide, high = tab.run(PORT)
    assert left <= x and x + w <= left + wide and top <= y and y + h <= top + high
    tab.press("Escape", 27)


@needs_chromium
def test_a_click_on_a_layer_tells_its_facts(drawing: Drawing, opened: Callable[..., Tab]) -> None:
    tab = opened(html_from_drawing(drawing, 1))
    tab.run("document.querySelector('div.card').click()")
    facts = tab.run("[...document.querySelectorAll('.graph-facts > *')].map((line) => line.textContent)")
    assert facts[0] and any("MACs" in line or "×" in line for line in facts[1:])


@needs_chromium
def test_a_deep_graph_unfolds_into_a_map_in_which_a_click_goes_to_a_place(opened: Callable[..., Tab]) -> None:
    rows = [row("a.conv0", "Conv", "x")]
    rows += [
        row(
            f"b{i // 40}.s{i // 8}.conv{i}",
            "Conv",
            rows[-1].name if i == 0 else f"b{(i - 1) // 40}.s{(i - 1) // 8}.conv{i - 1}",
        )
        for i in range(200)
    ]
    found = Inspection(
        name="deep", parameters=1, macs=1, weight_bytes=1, activation_bytes=1, intensity=1.0, assumed_sizes={},
        precision_from="graph", inputs=(TensorSpec("x", "float32", (1, 3, 8, 8)),),
        outputs=(TensorSpec(rows[-1].name, "float32", (1, 3, 8, 8)),), layers=tuple(rows),
    )  # fmt: skip
    tab = opened(html_from_drawing(drawing_from_inspection(found)))
    tab.click("[data-do=all]")
    assert tab.run("document.querySelector('.view').offsetHeight") > 10_000
    assert tab.run("document.querySelector('.view').getBoundingClientRect().width") > 200, "it is not shrunk to a line"
    x, y, w, h = tab.run(VIEW.replace(".view", ".graph-map"))
    before = tab.run(VIEW)[1]
    for kind in ("mousePressed", "mouseReleased"):
        tab.mouse(kind, x + w / 2, y + h * 0.9, button="left", clickCount=1)
    assert tab.run(VIEW)[1] < before - 5000
    assert tab.run("document.documentElement.scrollHeight <= innerHeight")
    assert tab.complaints() == []


def test_layers_are_coloured_by_time(drawing: Drawing) -> None:
    times = LayerTimes(
        layers=(
            LayerTime(name="x", operator="Conv", median_ms=9.0, share=0.9, nodes=("head.left",)),
            LayerTime(name="y", operator="Conv", median_ms=1.0, share=0.1, nodes=("stem.act", "stem.down")),
        ),
        runs=9, sum_ms=10.0, profiled_ms=10.0, end_to_end_ms=10.0, difference=0.0,
    )  # fmt: skip
    painter = Painter(drawing, times)
    cards = {card.title: card for card in map(painter.card, drawing.blocks)}
    assert cards["stem"].time == "1.00 ms, 10.0 %" and cards["stem"].colours == (("heat4", 1.0),)
    assert "no time of its own" in next(card.tip for card in cards.values() if not card.time)
    for page in (html_from_drawing(drawing, 3, times), svg_from_drawing(drawing, 3, times)):
        assert "9.00 ms, 90.0 %" in page and "10 % of the time or more" in page


def test_a_dense_graph_is_drawn_quickly() -> None:
    values = ["x", *(f"block.layer{i}.conv" for i in range(40))]
    rows = []
    for i in range(40):
        cat = f"block.layer{i}.cat"
        rows += [row(cat, "Concat", " ".join(values[: i + 1])), row(values[i + 1], "Conv", cat)]
    found = Inspection(
        name="dense", parameters=1, macs=1, weight_bytes=1, activation_bytes=1, intensity=1.0, assumed_sizes={},
        precision_from="graph", inputs=(TensorSpec("x", "float32", (1, 3, 8, 8)),),
        outputs=(TensorSpec(values[-1], "float32", (1, 3, 8, 8)),), layers=tuple(rows),
    )  # fmt: skip
    begin = time.process_time()
    drawing = drawing_from_inspection(found)
    svg_from_drawing(drawing, 3)
    html_from_drawing(drawing)
    assert time.process_time() - begin < 2


def test_a_graph_without_layers_that_were_counted_needs_onnx(residual_net: Inspection) -> None:
    with pytest.raises(BackendUnavailable, match="needs the package onnx"):
        drawing_from_inspection(msgspec.structs.replace(residual_net, macs=None))


def test_error_on_a_graph_without_layers(residual_net: Inspection) -> None:
    with pytest.raises(GraphError, match="expected layers, got none"):
        drawing_from_inspection(msgspec.structs.replace(residual_net, layers=()))
