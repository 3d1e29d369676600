"""``edgekit inspect``: what an engine, an ONNX file or a model consists of, layer by layer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.parameters import input_shapes, model_or_cfg, picture_shape

if TYPE_CHECKING:
    from edgekit.report.inspection import Inspection

__all__ = ["inspect"]

EPILOG = """\b
Examples:
  edgekit inspect tiny
  edgekit inspect yolov3 --shape 608x608
  edgekit inspect detector.onnx --json
"""
PIPED_COLUMNS = 160
"""Width where no terminal has one: names of layers are then written out."""


@click.command(epilog=EPILOG, short_help="Show what an engine or a model consists of, layer by layer.")
@click.argument("model", metavar="ENGINE|FILE.onnx|FILE.cfg|MODEL", required=False)
@model_or_cfg
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.option(
    "--shape", callback=picture_shape, metavar="HxW|NxCxHxW", help="Shape of the input picture; not of an engine."
)
@click.option(
    "--input",
    "inputs",
    callback=input_shapes,
    multiple=True,
    metavar="[NAME:]SHAPE",
    help="Shape of an input of your own model, as in edgekit build; repeatable.",
)
def inspect(
    model: str, as_json: bool, shape: tuple[int, ...] | None, inputs: dict[str, tuple[int, ...]] | None
) -> None:
    """Show what an engine or a model consists of, layer by layer.

    Of each layer: operator, shape of its output, the element type that it computes in, parameters,
    multiply-accumulates, bytes of its weights and of what it reads and writes, and operations a byte. An engine need
    not run here to be looked at.
    """
    import msgspec

    found = _found(model, shape, inputs)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    from rich.console import Console

    from edgekit.report.layer_table import terminal_from_inspection

    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, width=None if told else PIPED_COLUMNS)
    console.print(terminal_from_inspection(found, console.width))


def _found(model: str, shape: tuple[int, ...] | None, inputs: dict[str, tuple[int, ...]] | None) -> Inspection:
    from edgekit.errors import UsageError
    from edgekit.report.inspection import inspection_from_bundle

    if Path(model).is_dir():
        if shape or inputs:
            raise UsageError(
                "--shape and --input go with models, not with an engine: it is built for its own",
                hint="leave them out",
            )
        return inspection_from_bundle(Path(model))
    return _of_model(model, shape, inputs)


def _of_model(model: str, shape: tuple[int, ...] | None, inputs: dict[str, tuple[int, ...]] | None) -> Inspection:
    """Makes the graph as a build does, with random weights, and counts it."""
    from edgekit.errors import needs_extra
    from edgekit.order import Order, kind_of
    from edgekit.progress import Silent
    from edgekit.report.inspection import inspection_from_stats
    from edgekit.specs import Precision

    kind_of(model)  # an unknown name is told before what is not installed
    with needs_extra("inspecting a model", "build"):
        from edgekit.graph.file import output_specs
        from edgekit.source import model_source
    order = Order(model=model, precision=Precision.FP32, target="cpu", shape=shape, inputs=inputs or {})
    source = model_source(order, Silent())
    return inspection_from_stats(source.name, source.stats, source.inputs, output_specs(source.graph))
