"""``edgekit profile``: measures the latency of an engine, stage by stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.options.completion import complete_boards
from edgekit.cli.options.parameters import fixed_shapes
from edgekit.cli.options.paths import InputPath, OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal

if TYPE_CHECKING:
    from edgekit.measure.reports import LatencyReport

__all__ = ["profile"]

EPILOG = """\b
Examples:
  edgekit profile tiny
  edgekit profile tiny --runs 200 --threads 1 --image photo.jpg
  edgekit profile tiny --claim p99 --duration 60 --html report.html
  edgekit profile tiny --streams auto --power --json-file report.json
  edgekit profile tiny --layers --trace trace.json
"""


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
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="Measure N runs.")
@click.option("--duration", type=float, metavar="S", help="Measure for S seconds.  [default: 10, without --runs]")
@click.option(
    "--claim",
    callback=_percentile,
    metavar="pN",
    help="Measure until a bound of this percentile, such as p99, holds with a confidence of 99 %, or --duration "
    "ends.  [default duration: 120]",
)
@click.option("--warmup", type=click.IntRange(min=0), default=10, show_default=True, help="Number of warm-up runs.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Number of threads; 0 lets the backend choose.")
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
    help="With --roofline: the peaks of this board; see edgekit estimate --boards.",
)
@click.option("--html", type=OutputFile(".html", ".htm"), metavar="FILE", help="Write the report as an HTML page.")
@click.option(
    "--markdown", type=OutputFile(".md", ".markdown", ".txt"), metavar="F", help="Write the summary for a pull request."
)
@json_options("the report")
def profile(
    engine: Path,
    runs: int | None,
    duration: float | None,
    warmup: int,
    threads: int,
    image: Path | None,
    sizes: dict[str, tuple[int, ...]] | None,
    claim: float | None,
    streams: int | None,
    power: bool,
    layers: bool,
    trace: Path | None,
    roofline: bool,
    board: str | None,
    html: Path | None,
    markdown: Path | None,
    json: JsonOutput,
) -> None:
    """Measure the latency of ENGINE, stage by stage.

    A detector runs on one image repeatedly; preprocessing, inference and postprocessing are measured separately. Other
    engines run on random numbers.
    """
    from edgekit.cli.output import write_file
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.measure.engine_roofline import peaks_of_engine, with_roofline
    from edgekit.measure.profile import profile_bundle
    from edgekit.measure.reports import json_from_report
    from edgekit.report.html.page import html_from_report
    from edgekit.report.layer_times import terminal_from_layer_times
    from edgekit.report.markdown import markdown_from_report
    from edgekit.report.terminal import terminal_from_report
    from edgekit.report.trace import trace_from_report

    with progress_on_stderr() as progress:
        asked = roofline or board is not None
        peaks = peaks_of_engine(engine, threads=threads, board=board, progress=progress) if asked else None
        report = profile_bundle(
            engine,
            runs=runs,
            duration_s=duration,
            warmup=warmup,
            threads=threads,
            image=image,
            sizes=sizes,
            layers=layers or trace is not None,
            progress=progress,
            claim=claim,
            power=power,
            streams=streams,
        )
    if peaks is not None:
        report = with_roofline(report, engine, peaks)
    contents: dict[Path, bytes] = {}
    if html is not None:
        contents[html] = html_from_report(report, _graph(engine, report)).encode()
    if markdown is not None:
        contents[markdown] = markdown_from_report(report).encode()
    if trace is not None:
        contents[trace] = trace_from_report(report)
    for path, content in contents.items():
        write_file(path, content)
    if json.wanted:
        json.write(json_from_report(report))
    if not json.printed:
        console = terminal()
        console.print(terminal_from_report(report))
        if report.layer_times is not None:
            console.print(terminal_from_layer_times(report.layer_times, console.width))


def _graph(engine: Path, report: LatencyReport) -> str:
    """Returns the drawing of the engine's graph with the times of its layers, if they are mapped to it."""
    from edgekit.measure.inspection import inspection_from_bundle
    from edgekit.report.drawing.contents import drawing_from_inspection
    from edgekit.report.drawing.svg import svg_from_drawing

    if report.layer_times is None or not report.layer_times.mapped:
        return ""
    found = inspection_from_bundle(engine, {spec.name: tuple(map(int, spec.shape)) for spec in report.inputs})
    return svg_from_drawing(drawing_from_inspection(found), times=report.layer_times)
