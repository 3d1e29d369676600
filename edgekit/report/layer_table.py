"""Renders an inspection as rich tables for terminals of 80 columns and up: one line per layer, then totals."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.engine.bundle.manifest import Manifest
from edgekit.extras import install_command
from edgekit.measure.inspection import Inspection, LayerRow
from edgekit.report.tables import FigureTable
from edgekit.report.terminal import label_grid, notes_panel
from edgekit.report.wording import BACKEND_NAMES, bytes_in_words, counts_in_words, short_figure
from edgekit.specs import ShapeRange

__all__ = ["SHORT_NAMES", "WIDE", "cut_end", "cut_start", "terminal_from_inspection"]

WIDE = 100
"""Terminal width in columns from which the table has wider gaps."""
SHORT_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
MAX_OPERATOR_LENGTH = {False: 10, True: 20}
STYLES: list[tuple[JustifyMethod, str]] = [("left", ""), ("right", "dim"), ("left", "cyan")]
"""Styles of the columns operator, output and type."""
FIGURES: tuple[tuple[str, Callable[[LayerRow], float | None]], ...] = (
    ("\nparams", lambda layer: layer.parameters),
    ("\nMACs", lambda layer: layer.macs),
    ("weight\nbytes", lambda layer: layer.weight_bytes),
    ("activ.\nbytes", lambda layer: layer.activation_bytes),
    ("ops/\nbyte", lambda layer: layer.intensity),
)


def terminal_from_inspection(found: Inspection, width: int) -> RenderableType:
    """Renders the table of layers, the totals, and the facts of an engine.

    Args:
        found: the inspection to show.
        width: width of the terminal in columns.
    """
    parts: list[RenderableType] = [_layers_table(found, width), Text(), label_grid(_totals(found))]
    if found.manifest is not None:
        parts += [Text(), label_grid(_engine_rows(found.manifest))]
        if found.manifest.notes:
            parts += [Text(), notes_panel(found.manifest.notes)]
    return Group(*parts)


def _layers_table(found: Inspection, width: int) -> Table:
    wide = width >= WIDE
    figures = [item for item in FIGURES if any(item[1](layer) is not None for layer in found.layers)]
    longest = MAX_OPERATOR_LENGTH[wide]
    rows = [
        [
            cut_end(layer.operator, longest),
            "x".join(map(str, layer.output_shape)) or "-",
            SHORT_NAMES.get(layer.precision, layer.precision) or "-",
            *(short_figure(figure(layer)) for _, figure in figures),
        ]
        for layer in found.layers
    ]
    headings = ["\noperator", "\noutput", "\ntype", *(heading for heading, _ in figures)]
    # Names get the remaining width: figures are never cut.
    taken = sum(
        max(len(text) for text in (*heading.split("\n"), *column))
        for heading, column in zip(headings, zip(*rows, strict=True), strict=False)
    )
    gap = 2 if wide else 1
    room = max(width - taken - gap * len(headings), 8)
    table = FigureTable(padding=(0, gap - 1, 0, 0), show_edge=False)
    table.add_column("\nlayer", style="bold", no_wrap=True)
    for heading, (justify, style) in zip(headings, STYLES + [("right", "")] * len(figures), strict=True):
        table.add_column(heading, justify=justify, style=style, no_wrap=True)
    for layer, cells in zip(found.layers, rows, strict=True):
        table.add_row(Text(cut_start(layer.name, room)), *map(Text, cells))
    return table


def cut_start(text: str, room: int) -> str:
    """Cuts the start of a path, because its end identifies the layer."""
    return text if len(text) <= room else f"…{text[-(room - 1) :]}"


def cut_end(text: str, room: int) -> str:
    """Cuts the end of a text that has no room."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _totals(found: Inspection) -> list[tuple[str, str]]:
    rows = [("layers", f"{len(found.layers)}{_by_precision(found)}")]
    if found.parameters is None:
        rows.append(("not counted", f"parameters and MACs: {install_command('build', 'onnx', 'onnx-ir')}"))
    else:
        rows += [
            ("parameters", f"{found.parameters:,}"),
            ("MACs", f"{found.macs:,}"),
            ("weights", bytes_in_words(found.weight_bytes or 0)),
            ("activations", f"{bytes_in_words(found.activation_bytes or 0)} read and written, without layer fusion"),
        ]
        if found.intensity is not None:
            rows.append(("intensity", f"{found.intensity:.1f} operations per byte, two per MAC"))
    if found.assumed_sizes:
        sizes = ", ".join(f"{name} = {size}" for name, size in found.assumed_sizes.items())
        rows.append(("counted with", sizes))
    rows += [("input", str(spec)) for spec in found.inputs]
    return rows + [("output", str(spec)) for spec in found.outputs]


def _by_precision(found: Inspection) -> str:
    counts: dict[str, int] = {}
    for layer in found.layers:
        if layer.macs:
            counts[layer.precision] = counts.get(layer.precision, 0) + 1
    if not counts:
        return ""
    products = ", ".join(f"{count} in {precision}" for precision, count in counts.items())
    origin = {"engine": "read from the engine", "option": "as requested"}.get(
        found.precision_from, "read from the graph"
    )
    return f"; convolutions and matrix products, {origin}: {products}"


def _engine_rows(manifest: Manifest) -> list[tuple[str, str]]:
    library = f"{BACKEND_NAMES.get(manifest.backend, manifest.backend)} {manifest.backend_version}".strip()
    rows = [("engine", f"{manifest.name}, {str(manifest.precision).upper()} for {manifest.backend} ({library})")]
    if not manifest.engine:
        rows.append(("not built yet", f"edgekit compile BUNDLE --target {manifest.backend} builds the engine"))
    if manifest.layers:
        rows.append(("built", f"convolutions and matrix products: {counts_in_words(manifest.layers)}"))
    if manifest.compute_capabilities:
        rows.append(("GPUs", f"compute capability {', '.join(manifest.compute_capabilities)}"))
    rows += [(f"shapes of {name}", _range(shape)) for name, shape in manifest.shapes.items()]
    rows.append(("made from", _source(manifest)))
    rows += [("recognized", line) for line in manifest.recognized.splitlines()]
    if manifest.calibration is not None:
        used = manifest.calibration
        rows.append(("calibration", f"{used.set}, {used.images} inputs, method {used.method}"))
    rows.append(("made on", f"{manifest.created}, EdgeKit {manifest.edgekit}, {manifest.machine.cpu}"))
    largest_first = sorted(manifest.files.items(), key=lambda item: -item[1].size_bytes)
    files = [f"{name} {bytes_in_words(info.size_bytes)}" for name, info in largest_first]
    return [*rows, ("files", ", ".join(files))]


def _range(shape: ShapeRange) -> str:
    opt = "x".join(map(str, shape.opt))
    return f"{'x'.join(map(str, shape.sizes))}, tuned for {opt}"


def _source(manifest: Manifest) -> str:
    source = manifest.source
    words = [f"{source.kind} {source.name}"]
    if source.weights is not None:
        words.append(f"weights: {source.weights.source}")
    if source.sha256:
        words.append(f"sha256 {source.sha256[:16]}…")
    return ", ".join(words)
