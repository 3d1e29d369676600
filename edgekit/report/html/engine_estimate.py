"""Renders the estimate of an engine that cannot run here as an HTML page: its layers and its roofline on a board."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.measure.engine_estimate import EngineEstimate, EstimatedLayer
from edgekit.measure.layer_groups import module_groups
from edgekit.report.engine_estimate import NOT_MEASURED, engine_estimate_rows, estimate_sentence
from edgekit.report.estimate_table import estimate_rows
from edgekit.report.html.elements import (
    Bar,
    Card,
    Cell,
    bars,
    cards,
    caution,
    cell_html,
    facts,
    footer,
    header,
    page,
    section,
    summary_bar,
    verdict_box,
)
from edgekit.report.html.layers import GROUPS_SHOWN, PRECISION_COLOURS, layer_row, layers_table, roofline_section
from edgekit.report.html.page import graph_section
from edgekit.report.layer_table import SHORT_NAMES
from edgekit.report.wording import bytes_in_words, least_milliseconds, short_figure, title

__all__ = ["html_from_engine_estimate"]

COLUMNS = ("layer", "operator", "type", "output", "least ms", "bound by", "share", "MACs", "bytes")
WITH_ESTIMATE = (*COLUMNS[:6], "estim. ms", *COLUMNS[6:])


def html_from_engine_estimate(made: EngineEstimate, graph: str = "") -> str:
    """Renders the page, which says everywhere that nothing was measured.

    Args:
        made: the estimate.
        graph: `edgekit.report.drawing.page.part_from_drawing` of the engine's graph; empty for none.
    """
    estimate = made.estimate
    least = f"{least_milliseconds(estimate.roofline.bound_ms)} ms"
    body = [
        header(made.name, f"{title(made)}: {NOT_MEASURED}", made.created),
        summary_bar(made.name, [("not measured; by the roofline at least", least)]),
        verdict_box(estimate_sentence(made), [], kind="unsure"),
        caution("Please note", made.notes),
        cards(_cards(made, least)),
        *_layers_sections(made),
        roofline_section(estimate.roofline),
        graph_section(graph, "Layers coloured by precision."),
        section("The estimate", "", facts([*estimate_rows(estimate), *_sources(made)]), kind="long"),
        section("The engine", "", facts([*engine_estimate_rows(made), ("not measured", made.reason)]), kind="long"),
        footer(f"Estimated by edgekit profile, EdgeKit {made.edgekit}. Nothing was measured."),
    ]
    return page(f"{made.name}: {NOT_MEASURED}", body, graph=bool(graph))


def _cards(made: EngineEstimate, least: str) -> list[Card]:
    estimate = made.estimate
    found = [Card("lower bound", least, f"by the peaks of {estimate.board_name}")]
    if estimate.latency_ms is not None and estimate.low_ms is not None and estimate.high_ms is not None:
        low, high = least_milliseconds(estimate.low_ms), least_milliseconds(estimate.high_ms)
        found.append(
            Card("estimate", f"{least_milliseconds(estimate.latency_ms)} ms", f"error bar (80 %) {low} to {high} ms")
        )
    return [
        *found,
        Card("measured latency", "none", "the engine cannot run here"),
        Card("arithmetic", f"{short_figure(estimate.macs)} MACs", "of one run"),
        Card("engine size", bytes_in_words(made.engine_bytes), f"built in {made.precision.upper()}"),
    ]


def _sources(made: EngineEstimate) -> list[tuple[str, str]]:
    return [("source", f"{source.title}: {source.url}") for source in made.estimate.sources]


def _layers_sections(made: EngineEstimate) -> list[str]:
    names = module_groups([layer.module for layer in made.layers], [layer.share for layer in made.layers])
    kind = "module" if any(names) else "operator"
    groups = names if any(names) else [layer.operator for layer in made.layers]
    what = "estimated time" if made.estimate.layer_ms else "least time"
    longest = max((layer.share for layer in made.layers), default=0.0) or 1.0
    rows = "".join(
        _row(index, layer, name, longest, made)
        for index, (layer, name) in enumerate(zip(made.layers, names, strict=True))
    )
    table = layers_table(WITH_ESTIMATE if made.estimate.layer_ms else COLUMNS, rows, _total(made))
    text = (
        f"Not measured: the least time of each layer by the peaks of {made.estimate.board_name}, in the order of "
        f"execution. Share: of the {what} of all layers. Click a column to sort."
    )
    return [
        section(
            f"{what.capitalize()} by {kind}",
            "By published peaks and latencies; not measured.",
            bars(_group_bars(made.layers, groups)),
        ),
        section("Layers", text, table, kind="long"),
    ]


def _group_bars(layers: Sequence[EstimatedLayer], groups: Sequence[str]) -> list[Bar]:
    members: dict[str, list[EstimatedLayer]] = {}
    for layer, group in zip(layers, groups, strict=True):
        members.setdefault(group, []).append(layer)
    slowest = sorted(members.items(), key=lambda item: -sum(map(_time_ms, item[1])))[:GROUPS_SHOWN]
    return [
        Bar(
            name or "(no module)",
            ((f"{name}: {len(own)} layers", "one", sum(map(_time_ms, own))),),
            f"{least_milliseconds(sum(map(_time_ms, own)))} ms, {100 * sum(layer.share for layer in own):.0f} %",
        )
        for name, own in slowest
    ]


def _time_ms(layer: EstimatedLayer) -> float:
    return layer.bound_ms if layer.estimate_ms is None else layer.estimate_ms


def _row(index: int, layer: EstimatedLayer, group: str, longest: float, made: EngineEstimate) -> str:
    moved = layer.weight_bytes + layer.activation_bytes
    kind = SHORT_NAMES.get(layer.precision, layer.precision)
    estimated = (
        [Cell(least_milliseconds(layer.estimate_ms), layer.estimate_ms, colour="c-ms")]
        if layer.estimate_ms is not None
        else []
    )
    cells = (
        Cell(layer.name, title=", ".join(layer.nodes)),
        Cell(layer.operator, colour="c-operator"),
        Cell(kind, colour=f"c-type p-{PRECISION_COLOURS.get(layer.precision, 'float')}"),
        Cell("×".join(map(str, layer.output)), math.prod(layer.output), colour="c-output"),
        Cell(least_milliseconds(layer.bound_ms) if layer.bound_ms else "0", layer.bound_ms, colour="c-least-ms"),
        Cell(layer.bound, colour="c-bound-by"),
        *estimated,
        Cell(f"{100 * layer.share:.1f} %", layer.share, layer.share / longest, "c-share"),
        Cell(short_figure(layer.macs), layer.macs, colour="c-macs"),
        Cell(short_figure(moved), moved, colour="c-bytes"),
    )
    return layer_row(cells, index, group)


def _total(made: EngineEstimate) -> str:
    estimate = made.estimate
    moved = sum(layer.weight_bytes + layer.activation_bytes for layer in made.layers)
    estimated = (
        [Cell(least_milliseconds(estimate.latency_ms), colour="c-ms")] if estimate.latency_ms is not None else []
    )
    cells = (
        Cell(f"{len(made.layers)} layers", colour="c-operator"),
        Cell("", colour="c-type"),
        Cell("", colour="c-output"),
        Cell(least_milliseconds(estimate.roofline.bound_ms), colour="c-least-ms"),
        Cell(estimate.roofline.bound, colour="c-bound-by"),
        *estimated,
        Cell("100.0 %", colour="c-share"),
        Cell(short_figure(estimate.macs), colour="c-macs"),
        Cell(short_figure(moved), colour="c-bytes"),
    )
    name = cell_html(Cell("all layers"), "th")
    return f'<tr class="total">{name}{"".join(map(cell_html, cells))}</tr>'
