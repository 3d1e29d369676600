"""``edgekit estimate``: the latency of a model on a board, before it is built for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import click

from edgekit.cli.options.completion import complete_boards, complete_models
from edgekit.cli.options.declare import exclusive_flags, options_from
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.config import ModelConfig
from edgekit.option.sizes import Sizes
from edgekit.text import json_bytes

__all__ = ["estimate"]

EPILOG = """\b
Examples:
  edgekit estimate yolov3 --int8 --board orin-nano
  edgekit estimate detector.onnx --fp16 --board agx-orin-64gb --json
  edgekit estimate tiny --board this-machine
  edgekit estimate --boards
"""
PIPED_COLUMNS = 120
"""Output width without a terminal."""
PRECISIONS = {"int8": "All layers in INT8 (the default).", "fp16": "All layers in FP16.", "fp32": "All in FP32."}


def _precisions(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(list(exclusive_flags("precision", PRECISIONS))):
        command = decorate(command)
    return command


@click.command(epilog=EPILOG, short_help="Estimate the latency on a board that is not here.")
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.option(
    "--board",
    shell_complete=complete_boards,
    metavar="NAME",
    help="The board: a name that --boards lists, or this-machine.",
)
@click.option("--boards", "list_boards", is_flag=True, help="List the boards, and exit.")
@_precisions
@json_options("the estimate, or with --boards the boards,")
@options_from(ModelConfig, only=("shape", "input"))
def estimate(
    model: str | None,
    board: str | None,
    list_boards: bool,
    json: JsonOutput,
    shape: Sizes | None,
    input: dict[str, Sizes] | None,
    precision: Literal["int8", "fp16", "fp32"] | None = None,
) -> None:
    """Estimate the latency of a model on a board, without the board.

    Shows for each layer, after the fusions that any engine does, the least time that the board's peaks allow (the
    roofline model), and for the whole model also an estimate with an error bar, from efficiencies that are fitted on
    published latencies. With fewer than 20 of them for such boards, the lower bound stands alone. The peaks of
    this-machine are measured once, for some seconds.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.measure.boards import boards
    from edgekit.pipeline.estimate import estimate as estimate_model
    from edgekit.report.estimate_table import terminal_from_boards, terminal_from_estimate

    console = terminal(piped_columns=PIPED_COLUMNS)
    if list_boards:
        given = {"MODEL": model, "--board": board, "--shape": shape, "--input": input, f"--{precision}": precision}
        if other := next((name for name, value in given.items() if value is not None), None):
            raise click.UsageError(f"--boards and {other}: expected one of them, got both")
        if json.wanted:
            json.write(json_bytes(boards(), indent=2))
        if not json.printed:
            console.print(terminal_from_boards(boards()))
        return
    if model is None or board is None:
        missing = "argument 'MODEL'" if model is None else "option '--board'"
        raise click.UsageError(f"Missing {missing}.")
    with progress_on_stderr() as progress:
        made = estimate_model(model, board=board, precision=precision, shape=shape, input=input, progress=progress)
    if json.wanted:
        json.write(json_bytes(made, indent=2))
    if not json.printed:
        console.print(terminal_from_estimate(made, console.width))
