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
@click.option("--roofline", is_flag=True, help="Compare with the least time that this machine's peaks allow.")
@click.option(
    "--board", metavar="NAME", help="With --roofline: the peaks of this board; see edgekit estimate --boards."
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
    roofline: bool,
    board: str | None,
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
    from edgekit.measure.engine_roofline import peaks_of_engine, with_roofline
    from edgekit.measure.profile import profile_bundle
    from edgekit.measure.reports import json_from_report
    from edgekit.report.html.page import html_from_report
    from edgekit.report.terminal import terminal_from_report

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
            progress=progress,
        )
    if peaks is not None:
        report = with_roofline(report, engine, peaks)
    if html is not None:
        write_file(html, html_from_report(report).encode())
    if json_file is not None:
        write_file(json_file, json_from_report(report))
    console = Console(highlight=False)
    console.print(terminal_from_report(report))
    for path in (html, json_file):
        if path is not None:
            console.print(f"wrote {path}", soft_wrap=True, markup=False)
