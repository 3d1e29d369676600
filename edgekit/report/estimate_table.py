"""Renders an estimate as rich tables for terminals of 80 columns and up: a line per layer, then the whole."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.measure.boards import Boards, peaks_from_board
from edgekit.measure.estimate import MIN_PAIRS, Efficiency, Estimate, HeldOut
from edgekit.measure.peaks import MachinePeaks
from edgekit.measure.roofline import Peaks
from edgekit.report.layer_table import SHORT_NAMES, cut_start
from edgekit.report.tables import FigureTable
from edgekit.report.terminal import label_grid, notes_panel
from edgekit.report.wording import bytes_in_words, least_milliseconds, milliseconds, short_figure

__all__ = ["estimate_rows", "terminal_from_boards", "terminal_from_estimate", "terminal_from_peaks"]

WIDE = 100
WORST = 3
"""So many of the worst predictions are listed."""


def terminal_from_estimate(made: Estimate, width: int, *, notes: bool = True) -> RenderableType:
    """Renders the layers, the bound, and the estimate with its error bar and how it was checked.

    Args:
        made: the estimate to show.
        width: width of the terminal in columns.
        notes: whether to show its notes.
    """
    parts: list[RenderableType] = [
        _layers_table(made, width),
        Text(),
        label_grid([*estimate_rows(made), *_sources(made)]),
    ]
    if notes and made.notes:
        parts += [Text(), notes_panel(made.notes)]
    return Group(*parts)


def _layers_table(made: Estimate, width: int) -> Table:
    gap = 2 if width >= WIDE else 1
    headings = ["\ntype", "\nMACs", "\nbytes", "ops/\nbyte", "bound\nby", "least\nms"]
    if made.layer_ms:
        headings.append("estim.\nms")
    headings.append("\nshare")
    times = made.layer_ms or tuple(point.bound_ms for point in made.roofline.points)
    whole = sum(times) or 1.0
    rows = [
        [
            SHORT_NAMES.get(point.precision, point.precision),
            short_figure(point.macs),
            short_figure(point.bytes),
            short_figure(point.intensity),
            point.bound,
            least_milliseconds(point.bound_ms) if point.bound_ms else "",
            *([least_milliseconds(time)] if made.layer_ms else []),
            f"{100 * time / whole:.1f} %",
        ]
        for point, time in zip(made.roofline.points, times, strict=True)
    ]
    columns = [max(map(len, [*heading.split("\n"), *cells])) for heading, *cells in zip(headings, *rows, strict=True)]
    room = max(width - sum(columns) - gap * len(headings), 8)
    table = FigureTable(padding=(0, gap - 1, 0, 0), show_edge=False)
    table.add_column("\nlayer", style="bold", no_wrap=True)
    for heading in headings:
        left = heading in ("\ntype", "bound\nby")
        table.add_column(heading, justify="left" if left else "right", style="cyan" if left else "", no_wrap=True)
    for point, cells in zip(made.roofline.points, rows, strict=True):
        table.add_row(Text(cut_start(point.name, room)), *map(Text, cells))
    return table


def estimate_rows(made: Estimate) -> list[tuple[str, str]]:
    """Returns the board, the bound, the estimate and how it was checked, as labels and values."""
    roofline = made.roofline
    compute_ms = sum(point.bound_ms for point in roofline.points if point.bound == "compute")
    memory_ms = roofline.bound_ms - compute_ms
    rows = [
        ("model", f"{made.name}, {'; '.join(made.inputs)}"),
        ("precision", f"{made.precision.upper()}, {short_figure(made.macs)} multiply-accumulates"),
        ("board", f"{made.board_name}: {_peaks(roofline.peaks)}"),
        (
            "lower bound",
            f"{least_milliseconds(roofline.bound_ms)} ms: layers bound by compute {least_milliseconds(compute_ms)} ms, "
            f"by memory {least_milliseconds(memory_ms)} ms; no engine is faster at these peaks",
        ),
    ]
    if made.efficiency is not None and made.latency_ms is not None:
        rows += [("estimate", _estimate(made, made.latency_ms)), *_fit(made.efficiency)]
    elif made.sources:
        rows.append(("estimate", f"none: {made.pairs} latencies of such boards are published, {MIN_PAIRS} are needed"))
    return rows


def _sources(made: Estimate) -> list[tuple[str, str]]:
    titles = "; ".join(source.title for source in made.sources)
    return [("peaks from", f"{titles} (addresses: --json)")] if titles else []


def _peaks(peaks: Peaks) -> str:
    rates = ", ".join(
        f"{SHORT_NAMES.get(precision, precision).upper()} {2 * rate / 1e12:.3g}"
        for precision, rate in sorted(peaks.macs_per_s.items(), key=lambda item: item[1])
    )
    threads = f", {peaks.threads} threads" if peaks.threads else ""
    return f"{rates} T operations/s (dense), {peaks.bytes_per_s / 1e9:.4g} GB/s, {peaks.kind}{threads}"


def _estimate(made: Estimate, latency_ms: float) -> str:
    low_ms, high_ms = least_milliseconds(made.low_ms or 0.0), least_milliseconds(made.high_ms or 0.0)
    reached = 100 * made.roofline.bound_ms / latency_ms
    return (
        f"{least_milliseconds(latency_ms)} ms with TensorRT, error bar (80 %) {low_ms} to {high_ms} ms; the bound is "
        f"{reached:.2g} % of it"
    )


def _fit(found: Efficiency) -> list[tuple[str, str]]:
    return [
        ("fitted on", f"{found.pairs} published latencies of {found.models} models on {', '.join(found.boards)}"),
        (
            "left out",
            f"each model in turn, and predicted by the others: median error {100 * found.model_error:.0f} %; 80 % of "
            f"the published latencies are {found.low:.2f} to {found.high:.2f} times the prediction. Each board in "
            f"turn: median error {100 * found.board_error:.0f} %",
        ),
        ("worst", "; ".join(map(_held_out, _worst(found)))),
    ]


def _worst(found: Efficiency) -> list[HeldOut]:
    def error(pair: HeldOut) -> float:
        ratio = pair.published_ms / pair.predicted_ms
        return -max(ratio, 1 / ratio)

    return sorted(found.held_out, key=error)[:WORST]


def _held_out(pair: HeldOut) -> str:
    batch = f" x{pair.batch}" if pair.batch > 1 else ""
    precision = SHORT_NAMES.get(pair.precision, pair.precision).upper()
    times = f"{milliseconds(pair.predicted_ms)} ms, not {milliseconds(pair.published_ms)}"
    return f"{pair.model}{batch} {precision} on {pair.board}: {times}"


def terminal_from_boards(found: Boards) -> RenderableType:
    """Renders the boards that are known, with their dense rates in tera-operations per second."""
    table = FigureTable(show_edge=False)
    for heading in ("board", "product"):
        table.add_column(heading, style="bold" if heading == "board" else "", no_wrap=True)
    for heading in ("INT8", "FP16", "GB/s", "GB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key, board in found.boards.items():
        peaks = peaks_from_board(board)
        rates = [peaks.macs_per_s.get(precision) for precision in ("int8", "float16")]
        cells = [f"{2 * rate / 1e12:.3g}" if rate else "" for rate in rates]
        table.add_row(key, board.name, *cells, f"{board.bandwidth.gb_per_s:g}", f"{board.memory_gb:g}")
    return table


def terminal_from_peaks(found: MachinePeaks) -> RenderableType:
    """Renders the peaks of this machine: arithmetic, bandwidth, and what the instruction sets would allow."""
    compute = FigureTable(show_edge=False)
    for heading in ("arithmetic", "threads", "GMAC/s", "reached by"):
        compute.add_column(heading, justify="left" if heading in ("arithmetic", "reached by") else "right")
    for peak in found.compute:
        name = SHORT_NAMES.get(peak.precision, peak.precision)
        compute.add_row(name, str(peak.threads), f"{peak.macs_per_s / 1e9:.1f}", f"{peak.backend}: {peak.kernel}")
    for limit in found.theoretical:
        name = f"{SHORT_NAMES.get(limit.precision, limit.precision)} (theoretical)"
        compute.add_row(
            name, "", f"{limit.macs_per_s / 1e9:.1f}", f"{limit.instructions}: {limit.formula}", style="dim"
        )
    counts = sorted({peak.threads for peak in found.bandwidth})
    memory = FigureTable(show_edge=False)
    memory.add_column("working set")
    for count in counts:
        memory.add_column(f"GB/s, {count} thread{'s' if count > 1 else ''}", justify="right")
    for size in sorted({peak.working_set_bytes for peak in found.bandwidth}):
        rates = {peak.threads: peak.bytes_per_s for peak in found.bandwidth if peak.working_set_bytes == size}
        memory.add_row(bytes_in_words(size), *(f"{rates[count] / 1e9:.1f}" for count in counts))
    versions = ", ".join(f"{name} {version}" for name, version in found.backends.items())
    rows = [("measured", f"{found.created}, in {found.seconds:.0f} s, with {versions}")]
    if found.theoretical:
        limits = "every cycle used, at the clock that the system reports; a turbo clock can be higher"
        rows.append(("theoretical", limits))
    parts: list[RenderableType] = [compute, Text(), memory, Text(), label_grid(rows)]
    if found.disturbance:
        parts += [Text(), notes_panel([f"{found.disturbance} Measure again with --recalibrate."])]
    return Group(*parts)
