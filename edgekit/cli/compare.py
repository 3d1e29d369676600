"""``edgekit compare``: compares engines, ONNX files and reports by their latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.options.parameters import Real, fixed_shapes, threads_option
from edgekit.cli.options.paths import InputPath, OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.limits import MAX_ROUNDS, MAX_SECONDS
from edgekit.text import json_bytes

if TYPE_CHECKING:
    from edgekit.measure.relative import CompareReport, Limit

__all__ = ["compare"]

EPILOG = """\b
Examples:
  edgekit compare tiny-fp32 tiny
  edgekit compare tiny-fp32 tiny --layers --html compare.html
  edgekit compare model.onnx out/its-engine --rounds 20
  edgekit compare before.json after.json --fail-if 'p50>1.05x'
  edgekit compare main pr --fail-if 'p50>1.05x' --markdown comment.md
"""


def _limits(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[Limit]:
    if not values:
        return []
    from edgekit.measure.relative import limit_from_text

    try:
        return [limit_from_text(value) for value in values]
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


@click.command(epilog=EPILOG, short_help="Compare engines, or reports, by their latency.")
@click.argument("contenders", metavar="ENGINE|FILE.onnx|REPORT.json...", nargs=-1, required=True)
@click.option(
    "--rounds", type=click.IntRange(1, MAX_ROUNDS), default=10, show_default=True, metavar="N", help="Rounds of turns."
)
@click.option(
    "--seconds",
    type=Real(min=0, max=MAX_SECONDS, min_open=True),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Duration of the measured runs of a turn.",
)
@threads_option("Threads of each; 0 lets the backend choose.")
@click.option(
    "--input",
    "sizes",
    callback=fixed_shapes,
    multiple=True,
    metavar="[NAME:]SHAPE",
    help="Input shape, where it is dynamic, such as x:1x3x48x640; repeatable.  [default: the opt shape]",
)
@click.option("--layers", is_flag=True, help="Measure the layers of each engine too, and show what changed most.")
@click.option(
    "--eval",
    "evaluation",
    type=InputPath(dir_okay=False),
    metavar="F.json",
    help="Accuracy of the same engines, as `edgekit eval --json-file` writes it.",
)
@click.option(
    "--fail-if",
    "limits",
    callback=_limits,
    multiple=True,
    metavar="LIMIT",
    help="Exit with 5 if a ratio to the first is beyond LIMIT with its whole interval, with 6 if that is undecided; "
    "such as p50>1.05x, of p50, p90, p95, p99, mean, memory or size; repeatable.",
)
@click.option("--html", type=OutputFile(".html", ".htm"), metavar="FILE", help="Write the comparison as an HTML page.")
@click.option(
    "--markdown", type=OutputFile(".md", ".markdown", ".txt"), metavar="F", help="Write the summary for a pull request."
)
@json_options("the comparison")
def compare(
    contenders: tuple[str, ...],
    rounds: int,
    seconds: float,
    threads: int,
    sizes: dict[str, tuple[int, ...]] | None,
    layers: bool,
    evaluation: Path | None,
    limits: list[Limit],
    html: Path | None,
    markdown: Path | None,
    json: JsonOutput,
) -> None:
    """Compare engines with the first of them.

    Engines, and ONNX files, which plain ONNX Runtime runs, get the same random inputs and take turns: in random order,
    each turn in a new process. If one of the arguments is a JSON file of `edgekit profile` or of a build, the runs in
    the reports are compared, and nothing is measured.
    """
    from edgekit.cli.output import write_file
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.pipeline.compare import compare as compare_paths
    from edgekit.report.comparison import markdown_from_comparison, terminal_from_comparison
    from edgekit.report.html.compare import html_from_comparison

    with progress_on_stderr() as progress:
        report = compare_paths(
            contenders,
            rounds=rounds,
            seconds=seconds,
            threads=threads,
            sizes=sizes,
            evaluation=evaluation,
            limits=limits,
            layers=layers,
            progress=progress,
        )
    for path, render in ((html, html_from_comparison), (markdown, markdown_from_comparison)):
        if path is not None:
            write_file(path, render(report).encode())
    if json.wanted:
        json.write(json_bytes(report, indent=2))
    if not json.printed:
        terminal().print(terminal_from_comparison(report))
    _decide(report)


def _decide(report: CompareReport) -> None:
    """Raises the error that gives the command its exit code, after the report was printed."""
    from edgekit.errors import RegressionError, UndecidedError
    from edgekit.report.comparison import ratio_in_words

    for kind, result in ((RegressionError, "failed"), (UndecidedError, "undecided")):
        found = [each for each in report.limits if each.result == result]
        if found:
            texts = [
                f"{each.contender}: {each.limit} {each.result}"
                + (f", got {ratio_in_words(each.ratio)}" if each.ratio else "")
                for each in found
            ]
            reasons = dict.fromkeys(each.reason for each in found if each.reason)
            raise kind("; ".join(texts), hint="\n".join(reasons))
