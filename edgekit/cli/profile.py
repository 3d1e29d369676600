"""``edgekit profile``: measures the latency of an engine, stage by stage."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options.parameters import fixed_shapes

__all__ = ["profile"]

EPILOG = """\b
Examples:
  edgekit profile tiny
  edgekit profile tiny --runs 200 --threads 1 --image photo.jpg
  edgekit profile tiny --duration 30 --html report.html --json report.json
  edgekit profile tiny --layers --trace trace.json
"""


@click.command(epilog=EPILOG, short_help="Measure the latency of an engine, stage by stage.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="Measure N runs.")
@click.option("--duration", type=float, metavar="S", help="Measure for S seconds.  [default: 10, without --runs]")
@click.option("--warmup", type=click.IntRange(min=0), default=10, show_default=True, help="Number of warm-up runs.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Number of threads; 0 lets the backend choose.")
@click.option("--image", type=click.Path(path_type=Path), metavar="FILE", help="Input image of a detector.")
@click.option(
    "--input",
    "sizes",
    callback=fixed_shapes,
    multiple=True,
    metavar="[NAME:]SHAPE",
    help="Input shape, for an engine with dynamic shapes, such as x:1x3x48x640; repeatable.  [default: the opt shape]",
)
@click.option("--layers", is_flag=True, help="Measure the time of each layer too, and of each module.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a time line of stages and layers for Perfetto (ui.perfetto.dev); implies --layers.",
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as an HTML page.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as JSON.")
def profile(
    engine: Path,
    runs: int | None,
    duration: float | None,
    warmup: int,
    threads: int,
    image: Path | None,
    sizes: dict[str, tuple[int, ...]] | None,
    layers: bool,
    trace: Path | None,
    html: Path | None,
    json_file: Path | None,
) -> None:
    """Measure the latency of ENGINE, stage by stage.

    A detector runs on one image repeatedly; preprocessing, inference and postprocessing are measured separately. Other
    engines run on random numbers.
    """
    from rich.console import Console

    from edgekit.cli.output import write_file
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.measure.profile import profile_bundle
    from edgekit.measure.reports import json_from_report
    from edgekit.report.html.page import html_from_report
    from edgekit.report.layer_times import terminal_from_layer_times
    from edgekit.report.terminal import terminal_from_report
    from edgekit.report.trace import trace_from_report

    with progress_on_stderr() as progress:
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
        )
    if html is not None:
        write_file(html, html_from_report(report).encode())
    if json_file is not None:
        write_file(json_file, json_from_report(report))
    if trace is not None:
        write_file(trace, trace_from_report(report))
    console = Console(highlight=False)
    console.print(terminal_from_report(report))
    if report.layer_times is not None:
        console.print(terminal_from_layer_times(report.layer_times, console.width))
    for path in (html, json_file, trace):
        if path is not None:
            console.print(f"wrote {path}", soft_wrap=True, markup=False)
