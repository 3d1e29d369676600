"""``edgekit inspect``: lists the layers of an engine, an ONNX file or a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgekit.cli.options.completion import complete_models
from edgekit.cli.options.declare import options_from
from edgekit.cli.options.hinted import Choice
from edgekit.cli.options.parameters import model_or_cfg
from edgekit.cli.options.paths import InputPath, OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.config import ModelConfig
from edgekit.limits import MAX_COUNT
from edgekit.option.sizes import Sizes
from edgekit.text import json_bytes

if TYPE_CHECKING:
    from edgekit.measure.inspection import Inspection

__all__ = ["inspect"]

EPILOG = """\b
Examples:
  edgekit inspect tiny
  edgekit inspect yolov3 --shape 608x608
  edgekit inspect resnet50 --precision int8
  edgekit inspect detector.onnx --json
  edgekit inspect tiny --graph tiny.html --times report.json
"""
PIPED_COLUMNS = 160
"""Output width without a terminal, enough for full layer names."""


@click.command(epilog=EPILOG, short_help="List the layers of an engine or a model.")
@click.argument("model", metavar="ENGINE|FILE.onnx|FILE.cfg|MODEL", required=False, shell_complete=complete_models)
@model_or_cfg
@json_options("the inspection")
@options_from(ModelConfig, only=("shape", "input"))
@click.option(
    "--precision",
    type=Choice(["int8", "fp16", "fp32"]),
    help="Count bytes in this precision; for models only.",
)
@click.option(
    "--graph",
    type=OutputFile(".svg", ".html"),
    metavar="F.svg|F.html",
    help="Draw the graph: as an image, or as a page whose blocks unfold on a click.",
)
@click.option(
    "--times",
    type=InputPath(dir_okay=False),
    metavar="F.json",
    help="Colour the blocks of --graph by time: JSON of `edgekit profile ENGINE --layers --json-file`.",
)
@click.option(
    "--depth",
    type=click.IntRange(1, MAX_COUNT),
    metavar="N",
    help="Levels of blocks that --graph shows; 1 unfolds none.",
)
def inspect(
    model: str,
    json: JsonOutput,
    shape: Sizes | None,
    input: dict[str, Sizes] | None,
    precision: Literal["int8", "fp16", "fp32"] | None,
    graph: Path | None,
    times: Path | None,
    depth: int | None,
) -> None:
    """List the layers of an engine or a model.

    Shows for each layer: operator, output shape, element type, parameters, multiply-accumulates, bytes of weights and
    of activations, and operations per byte. An engine does not have to run here.
    """
    from edgekit.pipeline.inspect import inspect as inspect_model

    _check_drawing(graph, depth, times)
    found = inspect_model(model, shape=shape, input=input, precision=precision)
    if graph is not None:
        _draw(found, graph, depth, times)
    if json.wanted:
        json.write(json_bytes(found, indent=2))
    if graph is None and not json.printed:
        _print(found)


def _check_drawing(graph: Path | None, depth: int | None, times: Path | None) -> None:
    from edgekit.errors import UsageError

    for option, value in (("--depth", depth), ("--times", times)):
        if graph is None and value is not None:
            raise UsageError(f"{option} goes with --graph", hint="add --graph FILE.svg")
    if graph is not None and graph.suffix.lower() not in (".svg", ".html"):
        raise UsageError(f"--graph: expected a file that ends in .svg or .html, got '{graph}'")


def _draw(found: Inspection, file: Path, depth: int | None, times: Path | None) -> None:
    from edgekit.cli.output import write_file
    from edgekit.measure.layer_times import layer_times_from_report
    from edgekit.report.drawing.contents import drawing_from_inspection
    from edgekit.report.drawing.page import html_from_drawing
    from edgekit.report.drawing.svg import svg_from_drawing

    measured = None if times is None else layer_times_from_report(times)
    draw = svg_from_drawing if file.suffix.lower() == ".svg" else html_from_drawing
    write_file(file, draw(drawing_from_inspection(found), depth, measured).encode())


def _print(found: Inspection) -> None:

    from edgekit.report.layer_table import terminal_from_inspection

    console = terminal(piped_columns=PIPED_COLUMNS)
    console.print(terminal_from_inspection(found, console.width))
