"""Renders the estimate of an engine that cannot run here, for terminals and as Markdown."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from edgekit.measure.engine_estimate import EngineEstimate
from edgekit.report.estimate_table import estimate_rows, terminal_from_estimate
from edgekit.report.markdown import markdown_table, plain, quoted
from edgekit.report.terminal import caution_panels
from edgekit.report.wording import bytes_in_words, least_milliseconds, products_in_words, short_figure, title

__all__ = [
    "engine_estimate_rows",
    "estimate_sentence",
    "markdown_from_engine_estimate",
    "terminal_from_engine_estimate",
]

NOT_MEASURED = "estimate, not measured"
LAYERS_FROM = {
    "engine": "as the engine fuses them",
    "graph": "those of the typed graph, with the fusions that any engine does: the engine's own are not known without "
    "the GPU",
}


def estimate_sentence(made: EngineEstimate) -> str:
    """Returns the result in one sentence, which claims no latency."""
    estimate = made.estimate
    text = (
        f"Not measured: {made.reason}. By the roofline of {estimate.board_name}, a run takes "
        f"{least_milliseconds(estimate.roofline.bound_ms)} ms or more"
    )
    if estimate.latency_ms is None or estimate.low_ms is None or estimate.high_ms is None:
        return f"{text}; there is no estimate of the latency."
    return (
        f"{text}; the estimate is {least_milliseconds(estimate.latency_ms)} ms, error bar (80 %) "
        f"{least_milliseconds(estimate.low_ms)} to {least_milliseconds(estimate.high_ms)} ms."
    )


def engine_estimate_rows(made: EngineEstimate) -> list[tuple[str, str]]:
    """Returns the facts of the engine, as labels and values."""
    return [
        ("engine", title(made)),
        ("built for", f"compute capability {', '.join(made.compute_capabilities) or 'unknown'}"),
        ("products", products_in_words(made.layer_counts)),
        ("layers", f"{len(made.layers)}, {LAYERS_FROM[made.layers_from]}"),
        ("engine size", bytes_in_words(made.engine_bytes)),
    ]


def terminal_from_engine_estimate(made: EngineEstimate, width: int) -> RenderableType:
    """Renders the layers, their bounds, and why nothing was measured.

    Args:
        made: the estimate to show.
        width: width of the terminal in columns.
    """
    heading = Text.assemble("\n", (made.name, "bold"), "  ", title(made), "  ", (NOT_MEASURED, "bold yellow"), "\n")
    reason = f"The engine was not measured: {made.reason}. All times are bounds or estimates."
    # The notes of the board are among those of the engine.
    table = terminal_from_estimate(made.estimate, width, notes=False)
    return Group(heading, table, Text(), *caution_panels([reason, *made.notes], []))


def markdown_from_engine_estimate(made: EngineEstimate) -> str:
    """Renders the slowest layers, the bound, and why nothing was measured."""
    slowest = sorted(made.layers, key=lambda layer: -layer.share)[:10]
    rows = [
        [
            layer.name,
            layer.bound,
            least_milliseconds(layer.bound_ms),
            "–" if layer.estimate_ms is None else least_milliseconds(layer.estimate_ms),
            f"{100 * layer.share:.1f} %",
            short_figure(layer.macs),
        ]
        for layer in slowest
    ]
    sources = [("source", f"{source.title}: {source.url}") for source in made.estimate.sources]
    facts = [*engine_estimate_rows(made), *estimate_rows(made.estimate), *sources]
    parts = [
        f"### {plain(made.name)}: {plain(title(made))}: {NOT_MEASURED}",
        plain(estimate_sentence(made)),
        markdown_table(["layer", "bound by", "least ms", "estimated ms", "share", "MACs"], rows),
        "\n".join(f"- {label}: {plain(value)}" for label, value in facts),
        *quoted("Please note:", made.notes),
    ]
    return "\n\n".join(parts) + "\n"
