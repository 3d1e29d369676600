"""``edgekit profile``: measures the latency of an engine, stage by stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options.completion import complete_boards
from edgekit.cli.options.parameters import Real, fixed_shapes, threads_option
from edgekit.cli.options.paths import InputPath, OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.limits import MAX_RUNS, MAX_SECONDS, MAX_WARMUP

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.measure.engine_estimate import EngineEstimate
    from edgekit.measure.layer_times import LayerTimes
    from edgekit.measure.reports import LatencyReport
    from edgekit.specs import TensorSpec

__all__ = ["profile"]

EPILOG = """\b
Examples:
  edgekit profile tiny
  edgekit profile tiny --runs 200 --threads 1 --image photo.jpg
  edgekit profile tiny --claim p99 --duration 60 --html report.html
  edgekit profile tiny --streams auto --power --json-file report.json
  edgekit profile tiny --layers --trace trace.json
  edgekit profile out/for-a-gpu --board rtx-4060 --html estimate.html
"""
ONLY_MEASURED = ("runs", "duration_s", "claim", "streams", "power", "image")
"""Options that ask for a measurement: with one of them, an engine that cannot run here is an error."""


def _percentile(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Parses ``p99`` or ``p99.9``."""
    if value is None:
        return None
    if not re.fullmatch(r"p\d{1,2}(\.\d+)?", value) or not float(value[1:]):
        raise click.BadParameter(f"expected a percentile, such as p90 or p99.9, got '{value}'")
    return float(value[1:])


def _streams(ctx: click.Context, option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from edgekit.measure.throughput import streams_from_text

    try:
        return streams_from_text(value)
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


@click.command(epilog=EPILOG, short_help="Measure the latency of an engine, stage by stage.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(1, MAX_RUNS), metavar="N", help="Measure N runs.")
@click.option(
    "--duration",
    "duration_s",
    type=Real(min=0, max=MAX_SECONDS, min_open=True),
    metavar="S",
    help="Measure for S seconds.  [default: 10, without --runs]",
)
@click.option(
    "--claim",
    callback=_percentile,
    metavar="pN",
    help="Measure until a bound of this percentile, such as p99, holds with a confidence of 99 %, or --duration "
    "ends.  [default duration: 120]",
)
@click.option(
    "--warmup",
    type=click.IntRange(0, MAX_WARMUP),
    default=10,
    show_default=True,
    metavar="N",
    help="Number of warm-up runs.",
)
@threads_option()
@click.option("--image", type=InputPath(dir_okay=False), metavar="FILE", help="Input image of a detector.")
@click.option(
    "--input",
    "sizes",
    callback=fixed_shapes,
    multiple=True,
    metavar="[NAME:]SHAPE",
    help="Input shape, for an engine with dynamic shapes, such as x:1x3x48x640; repeatable.  [default: the opt shape]",
)
@click.option(
    "--streams",
    callback=_streams,
    metavar="N|auto",
    help="Also measure throughput with N engines side by side; auto finds the knee of the curve.",
)
@click.option("--power", is_flag=True, help="Measure power and energy beside the runs, where they are readable.")
@click.option("--layers", is_flag=True, help="Measure the time of each layer too, and of each module.")
@click.option(
    "--trace",
    type=OutputFile(".json"),
    metavar="FILE",
    help="Write a time line of stages and layers for Perfetto (ui.perfetto.dev); implies --layers.",
)
@click.option("--roofline", is_flag=True, help="Compare with the least time that this machine's peaks allow.")
@click.option(
    "--board",
    shell_complete=complete_boards,
    metavar="NAME",
    help="Compare with the peaks of this board; see edgekit estimate --boards. For an engine that cannot run here: the "
    "board of the estimate.",
)
@click.option("--html", type=OutputFile(".html", ".htm"), metavar="FILE", help="Write the report as an HTML page.")
@click.option(
    "--markdown", type=OutputFile(".md", ".markdown", ".txt"), metavar="F", help="Write the summary for a pull request."
)
@json_options("the report")
def profile(
    engine: Path,
    trace: Path | None,
    roofline: bool,
    board: str | None,
    html: Path | None,
    markdown: Path | None,
    json: JsonOutput,
    **options: Any,
) -> None:
    """Measure the latency of ENGINE, stage by stage.

    A detector runs on one image repeatedly; preprocessing, inference and postprocessing are measured separately. Other
    engines run on random numbers.

    An engine for a GPU that cannot run here is not measured: its layers, and the least time of each on a board, are
    estimated, and marked as such.
    """
    from edgekit.measure.engine_estimate import estimate_of_bundle, why_not_measurable
    from edgekit.measure.reports import json_from_report

    asks = trace is not None or any(options[name] not in (None, False) for name in ONLY_MEASURED)
    reason = "" if asks else why_not_measurable(engine)
    options["layers"] |= trace is not None
    console = terminal()
    if reason:
        estimated = estimate_of_bundle(engine, reason=reason, board=board, sizes=options["sizes"])
        if not json.printed:
            _print_estimate(estimated, console)
        _write_estimate(estimated, engine, html, markdown)
        if json.wanted:
            json.write(json_from_report(estimated))
        return
    report = _measured(engine, roofline or board is not None, board, options)
    _write(report, engine, html, markdown, trace)
    if json.wanted:
        json.write(json_from_report(report))
    if not json.printed:
        _print(report, console)


def _measured(engine: Path, roofline: bool, board: str | None, options: dict[str, Any]) -> LatencyReport:
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.measure.engine_roofline import peaks_of_engine, with_roofline
    from edgekit.measure.profile import profile_bundle

    with progress_on_stderr() as progress:
        threads = options["threads"]
        peaks = peaks_of_engine(engine, threads=threads, board=board, progress=progress) if roofline else None
        report = profile_bundle(engine, **options, progress=progress)
    return report if peaks is None else with_roofline(report, engine, peaks)


def _write(report: LatencyReport, engine: Path, html: Path | None, markdown: Path | None, trace: Path | None) -> None:
    from edgekit.cli.output import write_file
    from edgekit.report.html.page import html_from_report
    from edgekit.report.markdown import markdown_from_report
    from edgekit.report.trace import trace_from_report

    if html is not None:
        times = report.layer_times
        graph = _graph(engine, report.inputs, times) if times is not None and times.mapped else ""
        write_file(html, html_from_report(report, graph).encode())
    if markdown is not None:
        write_file(markdown, markdown_from_report(report).encode())
    if trace is not None:
        write_file(trace, trace_from_report(report))


def _write_estimate(made: EngineEstimate, engine: Path, html: Path | None, markdown: Path | None) -> None:
    from edgekit.cli.output import write_file
    from edgekit.report.engine_estimate import markdown_from_engine_estimate
    from edgekit.report.html.engine_estimate import html_from_engine_estimate

    if html is not None:
        write_file(html, html_from_engine_estimate(made, _graph(engine, made.inputs)).encode())
    if markdown is not None:
        write_file(markdown, markdown_from_engine_estimate(made).encode())


def _print(report: LatencyReport, console: Console) -> None:
    from edgekit.report.layer_times import terminal_from_layer_times
    from edgekit.report.terminal import terminal_from_report

    console.print(terminal_from_report(report))
    if report.layer_times is not None:
        console.print(terminal_from_layer_times(report.layer_times, console.width))


def _print_estimate(made: EngineEstimate, console: Console) -> None:
    from edgekit.report.engine_estimate import terminal_from_engine_estimate

    console.print(terminal_from_engine_estimate(made, console.width))


def _graph(engine: Path, inputs: tuple[TensorSpec, ...], times: LayerTimes | None = None) -> str:
    """Returns the drawing of the engine's graph, as a part of a page, coloured by the times of its layers."""
    from edgekit.measure.inspection import inspection_from_bundle
    from edgekit.report.drawing.contents import drawing_from_inspection
    from edgekit.report.drawing.page import part_from_drawing

    found = inspection_from_bundle(engine, {spec.name: tuple(map(int, spec.shape)) for spec in inputs})
    return part_from_drawing(drawing_from_inspection(found), times=times)
