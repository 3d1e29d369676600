"""Renders the layers of an engine: a table that sorts, filters and folds, the roofline, and the time line of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from edgekit.measure.layer_times import LayerTime, LayerTimes
from edgekit.measure.roofline import Peaks, Roofline, RooflinePoint
from edgekit.report.html.charts import Line, Point, run_line, scatter
from edgekit.report.html.elements import Bar, Cell, bars, both_widths, cell_html, facts, legend, section
from edgekit.report.layer_table import SHORT_NAMES
from edgekit.report.layer_times import layer_sums
from edgekit.report.wording import least_milliseconds, milliseconds, roofline_in_words, short_figure
from edgekit.text import html_text as escape

__all__ = [
    "PRECISION_COLOURS",
    "STAGE_COLOURS",
    "layer_row",
    "layers_section",
    "layers_table",
    "roofline_section",
    "run_section",
]

STAGE_COLOURS = {"preprocess": "pre", "inference": "two", "postprocess": "post"}
OVERHEAD_NAMES = {"quantize": "converts types", "reformat": "reformats", "transpose": "transposes"}
PRECISION_COLOURS = {"int8": "int8", "uint8": "int8", "float16": "half", "bfloat16": "half"}
COLUMNS = ("layer", "operator", "type", "output", "ms", "share", "bound", "MACs", "bytes")
WITHOUT_ROOFLINE = tuple(name for name in COLUMNS if name != "bound")
GROUPS_SHOWN = 12
ABOVE = 1.05
"""A layer that reaches more of its bound than this shows that the peaks are wrong."""


def layers_section(times: LayerTimes | None, roofline: Roofline | None) -> str:
    """Renders the time of each layer, of each module, and what converting types and layouts costs."""
    if times is None:
        return ""
    reached = {point.name: point for point in roofline.points} if roofline else {}
    group_of = _groups(times)
    longest = max((layer.share for layer in times.layers), default=0.0) or 1.0
    rows = "".join(
        _row(index, layer, group, _reached(layer, reached), longest, bound=roofline is not None)
        for index, (layer, group) in enumerate(zip(times.layers, group_of, strict=True))
    )
    columns = COLUMNS if roofline else WITHOUT_ROOFLINE
    table = layers_table(columns, rows, _totals(times, bound=roofline is not None))
    groups = [
        Bar(
            group.name or "(no module)",
            ((f"{group.name}: {group.layers} layers", "two", group.median_ms),),
            f"{milliseconds(group.median_ms)} ms, {100 * group.share:.0f} %",
        )
        for group in (times.by_module or times.by_operator)[:GROUPS_SHOWN]
    ]
    text = (
        f"Medians of {times.runs} runs with profiling, in the order of execution. Click a column to sort; rows with a "
        "coloured edge only convert types or layouts."
        + (" Bound: the least time by the roofline, as a share of the time." if roofline else "")
    )
    kind = "module" if times.by_module else "operator"
    return section(f"Time by {kind}", "", bars(groups)) + section(
        "Layers", text, facts(layer_sums(times)) + table, kind="long"
    )


def layers_table(columns: Sequence[str], rows: str, totals: str) -> str:
    """Renders a table of layers that sorts, filters, and folds into modules and operators.

    Args:
        columns: names of the columns, the first of which is the layer.
        rows: its rows, as HTML, with the index of each and the group of its module.
        totals: rows at its end, as HTML.
    """
    head = "".join(f'<th scope="col" class="c-{_slug(name)}">{escape(name)}</th>' for name in columns)
    return (
        '<div class="tools" hidden><label>Filter <input type="search" placeholder="name, operator, type"></label>'
        '<span class="modes" role="group" aria-label="Group"><button type="button" data-group="">Layers</button>'
        '<button type="button" data-group="module">Modules</button>'
        '<button type="button" data-group="operator">Operators</button></span><output></output></div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Layers">'
        f'<table class="sorts layers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"<tfoot>{totals}</tfoot></table></div>"
    )


def layer_row(cells: Sequence[Cell], index: int, group: str, attributes: str = "") -> str:
    """Renders a row of `layers_table`."""
    drawn = cell_html(cells[0], "th") + "".join(map(cell_html, cells[1:]))
    return f'<tr data-i="{index}" data-module="{escape(group)}"{attributes}>{drawn}</tr>'


def _groups(times: LayerTimes) -> list[str]:
    """Returns for each layer the name of its group: the longest name of a group that its module begins with."""
    names = sorted((group.name for group in times.by_module), key=len, reverse=True)
    return [
        next((name for name in names if name and f"{layer.module}.".startswith(f"{name}.")), "")
        for layer in times.layers
    ]


def _reached(layer: LayerTime, points: dict[str, RooflinePoint]) -> RooflinePoint | None:
    found = [points[node] for node in layer.nodes if node in points]
    return max(found, key=lambda point: point.macs) if found and not layer.overhead else None


def _row(index: int, layer: LayerTime, group: str, point: RooflinePoint | None, longest: float, *, bound: bool) -> str:
    moved = (layer.weight_bytes or 0) + (layer.activation_bytes or 0)
    output = "×".join(map(str, layer.outputs[0])) if layer.outputs else ""
    kind = SHORT_NAMES.get(layer.precision, layer.precision)
    nodes = ", ".join(layer.nodes)
    name = layer.module or layer.name
    title = f"{layer.name}{f': {nodes}' if nodes else ''}{f' ({layer.kernel})' if layer.kernel else ''}"
    share = point.reached if point else None
    cells = (
        Cell(name, title=title),
        Cell(layer.operator, colour="c-operator"),
        Cell(kind, colour=f"c-type p-{PRECISION_COLOURS.get(layer.precision, 'float')}"),
        Cell(output, math.prod(layer.outputs[0]) if layer.outputs else 0, colour="c-output"),
        Cell(milliseconds(layer.median_ms), layer.median_ms, colour="c-ms"),
        Cell(f"{100 * layer.share:.1f} %", layer.share, layer.share / longest, "c-share"),
        *([Cell("" if share is None else f"{100 * share:.0f} %", share or 0, colour="c-bound")] if bound else []),
        Cell(short_figure(layer.macs), layer.macs or 0, colour="c-macs"),
        Cell(short_figure(moved), moved, colour="c-bytes"),
    )
    mark = OVERHEAD_NAMES.get(layer.overhead, "")
    attributes = f' class="overhead" data-words="{escape(mark)} overhead"' if mark else ""
    return layer_row(cells, index, group, attributes)


def _totals(times: LayerTimes, *, bound: bool) -> str:
    overhead = [layer for layer in times.layers if layer.overhead]
    label = "overhead of quantization" if "quantize" in times.overhead_ms else "overhead of layouts"
    rows = _total_row("all layers", times.layers, "total", bound=bound)
    return rows + (_total_row(label, overhead, "overhead", bound=bound) if overhead else "")


def _total_row(name: str, layers: Sequence[LayerTime], style: str, *, bound: bool) -> str:
    share = sum(layer.share for layer in layers)
    moved = sum((layer.weight_bytes or 0) + (layer.activation_bytes or 0) for layer in layers)
    cells = (
        Cell(f"{len(layers)} layers", colour="c-operator"),
        Cell("", colour="c-type"),
        Cell("", colour="c-output"),
        Cell(milliseconds(sum(layer.median_ms for layer in layers)), colour="c-ms"),
        Cell(f"{100 * share:.1f} %", colour="c-share"),
        *([Cell("", colour="c-bound")] if bound else []),
        Cell(short_figure(sum(layer.macs or 0 for layer in layers)), colour="c-macs"),
        Cell(short_figure(moved), colour="c-bytes"),
    )
    return f'<tr class="{style}">{cell_html(Cell(name), "th")}{"".join(map(cell_html, cells))}</tr>'


def _slug(name: str) -> str:
    return name.lower().replace(".", "").replace(" ", "-")


def roofline_section(roofline: Roofline | None) -> str:
    """Renders the roofline as a plot on logarithmic axes: a point for each layer with multiply-accumulates."""
    if roofline is None:
        return ""
    drawn = [point for point in roofline.points if point.intensity and (point.reached or point.bound_ms)]
    words = roofline_in_words(roofline)
    text = f"{words[:1].upper()}{words[1:]}."
    if not drawn:
        return section("Roofline", text, facts([("layers with arithmetic", "none")]))
    measured = any(point.measured_ms for point in drawn)
    text += (
        " Each circle is a layer with arithmetic, its area its time; the lines are the peaks. The nearer a "
        "circle is to its line, the more of the machine's peak it reached."
        if measured
        else " The times of layers were not measured: each circle is on its bound."
    )
    above = sum((point.reached or 0.0) > ABOVE for point in drawn)
    if above:
        text += (
            f" {above} layer{' is' if above == 1 else 's are'} above the line: the peaks were measured lower than they "
            "are, as on a machine that is busy."
        )
    points = [_point(point, roofline) for point in drawn]
    lines = _limits(roofline.peaks, drawn)
    chart = both_widths(
        lambda width: scatter(
            points,
            lines,
            width,
            x_label="operations per byte",
            y_label="operations per second",
            described=f"Roofline. {text}",
        )
    )
    used = dict.fromkeys(_precision(point.precision) for point in drawn)
    colours = [(PRECISION_COLOURS.get(precision, "float"), precision) for precision in used]
    names = dict.fromkeys((colour, SHORT_NAMES.get(name, name)) for colour, name in colours)
    return section("Roofline", text, chart + legend(names))


def _precision(name: str) -> str:
    return name or "float32"


def _point(point: RooflinePoint, roofline: Roofline) -> Point:
    time_ms = point.measured_ms or point.bound_ms
    longest = max((other.measured_ms or other.bound_ms) for other in roofline.points) or 1.0
    reached = f", {100 * point.reached:.0f} % of its bound" if point.reached is not None else ""
    time = (
        f"{milliseconds(time_ms)} ms{reached}"
        if point.measured_ms
        else f"at least {least_milliseconds(time_ms)} ms, not measured"
    )
    tip = (
        f"{point.name}\n{time}\nbound by {point.bound}: at least {least_milliseconds(point.bound_ms)} ms\n"
        f"{short_figure(point.macs)} MACs in {point.precision}, {short_figure(point.bytes)}B, "
        f"{point.intensity or 0:.3g} operations per byte"
    )
    return Point(
        x=point.intensity or 1.0,
        y=2e3 * point.macs / (time_ms or 1.0),
        radius=4 + 12 * math.sqrt(time_ms / longest),
        colour=PRECISION_COLOURS.get(point.precision, "float"),
        tip=tip,
    )


def _limits(peaks: Peaks, drawn: Sequence[RooflinePoint]) -> list[Line]:
    """Returns the peaks of the precisions that layers compute in, and the bandwidth of the memory."""
    intensities = [point.intensity or 1.0 for point in drawn]
    low, high = min(intensities) / 2, max(intensities) * 2
    lines = []
    for precision in dict.fromkeys(_precision(point.precision) for point in drawn):
        rate = peaks.macs_per_s.get(precision)
        if rate:
            ridge = max(2 * rate / peaks.bytes_per_s, low)
            name = SHORT_NAMES.get(precision, precision)
            start = [(low, low * peaks.bytes_per_s)] if ridge > low else []
            flat = [(ridge, 2 * rate), (max(high, ridge * 1.5), 2 * rate)]
            label = f"{name}: {_operations(2 * rate)}"
            lines.append(Line([*start, *flat], label, PRECISION_COLOURS.get(precision, "float")))
    return lines


def _operations(per_s: float) -> str:
    figure = short_figure(per_s)
    return f"{figure[:-1]} {figure[-1:]}op/s" if figure[-1:].isalpha() else f"{figure} op/s"


def run_section(times: LayerTimes | None) -> str:
    """Renders the time line of the run, of those that were kept, whose time is in the middle."""
    if times is None or not times.timeline:
        return ""
    runs = sorted(times.timeline, key=lambda run: sum(run.stages.values()))
    run = runs[len(runs) // 2]
    starts = [0.0, *accumulate(run.stages.values())]
    stages = [
        (f"{name}: {milliseconds(length)} ms", STAGE_COLOURS.get(name, "two"), start, length)
        for (name, length), start in zip(run.stages.items(), starts, strict=False)
    ]
    layers = [
        (
            f"{layer.module or layer.name} ({layer.operator}): {milliseconds(length)} ms",
            "overhead" if layer.overhead or layer.operator == "Copy" else "one" if index % 2 else "two",
            run.engine_start_ms + start,
            length,
        )
        for index, (layer, (start, length)) in enumerate(zip(times.layers, run.layers, strict=True))
    ]
    rows = [("stages", stages), ("layers", layers)]
    text = "One run with profiling. " + (
        "" if times.starts_measured else "Starts of layers are not known: they are placed one after the other. "
    )
    text += "edgekit profile --trace F.json writes all kept runs for ui.perfetto.dev."
    names = [(STAGE_COLOURS.get(name, "two"), name) for name in run.stages]
    shown = [*names, ("one", "layers, in alternate colours"), ("overhead", "conversions and copies")]
    return section("Time line", text, both_widths(lambda width: run_line(rows, width)) + legend(shown))
