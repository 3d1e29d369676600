"""Renders the times of layers as rich tables for terminals of 80 columns and up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.report.layer_table import SHORT_NAMES, WIDE, cut_end, cut_start
from edgekit.report.tables import FigureTable
from edgekit.report.terminal import label_grid
from edgekit.report.wording import bytes_in_words, milliseconds, short_figure

if TYPE_CHECKING:
    from edgekit.measure.layer_times import LayerGroup, LayerTime, LayerTimes

__all__ = ["layer_sums", "terminal_from_layer_times"]

MAX_LAYERS = 20
MAX_GROUPS = 10
MAX_OPERATOR_LENGTH = {False: 14, True: 22}
NO_MODULE = "(no module)"


def terminal_from_layer_times(times: LayerTimes, width: int) -> RenderableType:
    """Renders the slowest layers, the groups, and how far the layers add up to a run.

    Args:
        times: the times to show.
        width: width of the terminal in columns.
    """
    parts: list[RenderableType] = [Text(), _layers_table(times, width), Text(), label_grid(layer_sums(times)), Text()]
    if times.by_module:
        parts += [_groups_table("module", times.by_module, width), Text()]
    return Group(*parts, _groups_table("operator", times.by_operator, width), *map(Text, times.notes))


def _layers_table(times: LayerTimes, width: int) -> Table:
    wide = width >= WIDE
    slowest = sorted(times.layers, key=lambda layer: -layer.median_ms)
    shown, others = slowest[:MAX_LAYERS], slowest[MAX_LAYERS:]
    headings = ["operator", *(["output", "nodes"] if wide else []), "type", "ms", "share", "MACs", "bytes"]
    rows = [_cells(layer, wide) for layer in shown]
    if others:
        rows.append(_rest(others, wide))
    names = [layer.module or layer.name for layer in shown] + [f"{len(others)} other layers"] * bool(others)
    gap = 2 if wide else 1
    taken = sum(max(map(len, column)) + gap for column in zip(headings, *rows, strict=True))
    room = max(width - taken - gap, 8)
    table = FigureTable(padding=(0, gap - 1, 0, 0), show_edge=False)
    table.add_column("layer", style="bold", no_wrap=True)
    for heading in headings:
        left = heading in ("operator", "type")
        style = "cyan" if heading == "ms" else "dim" if heading in ("output", "nodes") else ""
        table.add_column(heading, justify="left" if left else "right", style=style, no_wrap=True)
    for name, cells in zip(names, rows, strict=True):
        table.add_row(Text(cut_start(name, room)), *map(Text, cells))
    return table


def _cells(layer: LayerTime, wide: bool) -> list[str]:
    output = "x".join(map(str, layer.outputs[0])) if layer.outputs else "-"
    return [
        cut_end(layer.operator or "-", MAX_OPERATOR_LENGTH[wide]),
        *([output, str(len(layer.nodes) or "")] if wide else []),
        SHORT_NAMES.get(layer.precision, layer.precision) or "-",
        *_figures([layer]),
    ]


def _rest(layers: Sequence[LayerTime], wide: bool) -> list[str]:
    return ["", *(["", ""] if wide else []), "", *_figures(layers)]


def _figures(layers: Sequence[LayerTime]) -> list[str]:
    macs = [layer.macs or 0 for layer in layers]
    length = [(layer.weight_bytes or 0) + (layer.activation_bytes or 0) for layer in layers]
    return [
        milliseconds(sum(layer.median_ms for layer in layers)),
        f"{100 * sum(layer.share for layer in layers):.1f} %",
        short_figure(sum(macs)),
        short_figure(sum(length)),
    ]


def layer_sums(times: LayerTimes) -> list[tuple[str, str]]:
    """Returns the sum of the layers, how far it agrees with a run, and the overhead, as labels and values."""
    rows = [
        ("sum of layers", f"{milliseconds(times.sum_ms)} ms, medians of {times.runs} runs"),
        ("end to end", f"{milliseconds(times.end_to_end_ms)} ms without profiling, {100 * times.difference:+.1f} %"),
    ]
    if times.overhead_ms:
        total_ms = sum(times.overhead_ms.values())
        share = 100 * total_ms / times.sum_ms if times.sum_ms else 0
        kinds = ", ".join(f"{kind} {milliseconds(ms)}" for kind, ms in times.overhead_ms.items())
        label = "overhead of quantization" if "quantize" in times.overhead_ms else "overhead of layouts"
        rows.append((label, f"{milliseconds(total_ms)} ms, {share:.1f} % ({kinds})"))
    if times.mapped:
        weights = sum(layer.weight_bytes or 0 for layer in times.layers)
        rows.append(("weights", bytes_in_words(weights)))
    if times.unmapped:
        rows.append(("not mapped", f"{times.unmapped} layers, shown by the backend's names"))
    return rows


def _groups_table(kind: str, groups: Sequence[LayerGroup], width: int) -> Table:
    table = FigureTable(show_edge=False)
    table.add_column(kind, style="bold", no_wrap=True)
    for heading in ("layers", "ms", "share", "MACs"):
        table.add_column(heading, justify="right", style="cyan" if heading == "ms" else "", no_wrap=True)
    shown, others = groups[:MAX_GROUPS], groups[MAX_GROUPS:]
    for group in shown:
        table.add_row(Text(cut_start(group.name or NO_MODULE, width - 40)), *_group_cells([group]))
    if others:
        table.add_row(f"{len(others)} others", *_group_cells(others))
    return table


def _group_cells(groups: Sequence[LayerGroup]) -> list[str]:
    return [
        str(sum(group.layers for group in groups)),
        milliseconds(sum(group.median_ms for group in groups)),
        f"{100 * sum(group.share for group in groups):.1f} %",
        short_figure(sum(group.macs or 0 for group in groups)),
    ]
