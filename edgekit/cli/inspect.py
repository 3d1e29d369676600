"""``edgekit inspect``: what an engine, an ONNX file or a model consists of, layer by layer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.options.declare import options_from
from edgekit.cli.options.parameters import model_or_cfg
from edgekit.config import ModelConfig, Sizes

if TYPE_CHECKING:
    from edgekit.measure.inspection import Inspection
    from edgekit.specs import Precision

__all__ = ["inspect"]

EPILOG = """\b
Examples:
  edgekit inspect tiny
  edgekit inspect yolov3 --shape 608x608
  edgekit inspect resnet50 --precision int8
  edgekit inspect detector.onnx --json
  edgekit inspect tiny --graph tiny.html
"""
PIPED_COLUMNS = 160
"""Width where no terminal has one: names of layers are then written out."""


@click.command(epilog=EPILOG, short_help="Show what an engine or a model consists of, layer by layer.")
@click.argument("model", metavar="ENGINE|FILE.onnx|FILE.cfg|MODEL", required=False)
@model_or_cfg
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@options_from(ModelConfig, only=("shape", "input"))
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16", "fp32"]),
    help="Count bytes as in this precision; not of an engine.",
)
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    metavar="F.svg|F.html",
    help="Draw the graph: a picture, or a page whose blocks unfold on a click.",
)
@click.option(
    "--depth", type=click.IntRange(min=1), metavar="N", help="Levels of blocks that --graph unfolds; 1 is none."
)
def inspect(
    model: str,
    as_json: bool,
    shape: Sizes | None,
    input: dict[str, Sizes] | None,
    precision: str | None,
    graph: Path | None,
    depth: int | None,
) -> None:
    """Show what an engine or a model consists of, layer by layer.

    Of each layer: operator, shape of its output, the element type that it computes in, parameters,
    multiply-accumulates, bytes of its weights and of what it reads and writes, and operations a byte. An engine need
    not run here to be looked at.
    """
    import msgspec

    _check_drawing(graph, depth)
    found = _found(model, shape, input, precision)
    if graph is not None:
        _draw(found, graph, depth)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif graph is not None:
        click.echo(f"wrote {graph}")
    else:
        _print(found)


def _check_drawing(graph: Path | None, depth: int | None) -> None:
    from edgekit.errors import UsageError

    if graph is None and depth is not None:
        raise UsageError("--depth goes with --graph", hint="add --graph FILE.svg")
    if graph is not None and graph.suffix.lower() not in (".svg", ".html"):
        raise UsageError(f"--graph: expected a file that ends in .svg or .html, got '{graph}'")


def _draw(found: Inspection, file: Path, depth: int | None) -> None:
    from edgekit.cli.output import write_file
    from edgekit.report.drawing.contents import drawing_from_inspection
    from edgekit.report.drawing.page import html_from_drawing
    from edgekit.report.drawing.svg import svg_from_drawing

    draw = svg_from_drawing if file.suffix.lower() == ".svg" else html_from_drawing
    write_file(file, draw(drawing_from_inspection(found), depth).encode())


def _print(found: Inspection) -> None:
    from rich.console import Console

    from edgekit.report.layer_table import terminal_from_inspection

    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, width=None if told else PIPED_COLUMNS)
    console.print(terminal_from_inspection(found, console.width))


def _found(model: str, shape: Sizes | None, inputs: dict[str, Sizes] | None, precision: str | None) -> Inspection:
    from edgekit.errors import UsageError
    from edgekit.measure.inspection import inspection_from_bundle
    from edgekit.specs import Precision

    if not Path(model).is_dir():
        return _of_model(model, shape, inputs, Precision(precision) if precision else None)
    if shape or inputs:
        raise UsageError(
            "--shape and --input go with models, not with an engine: it is built for its own",
            hint="leave them out",
        )
    if precision:
        raise UsageError(
            "--precision goes with models, not with an engine: it has its own", hint="inspect the model it was built of"
        )
    return inspection_from_bundle(Path(model))


def _of_model(
    model: str, shape: Sizes | None, inputs: dict[str, Sizes] | None, precision: Precision | None
) -> Inspection:
    """Makes the graph as a build does, with random weights, and counts it."""
    import msgspec

    from edgekit.errors import UsageError, needs_extra
    from edgekit.measure.inspection import inspection_from_stats
    from edgekit.pipeline.model_kind import kind_of
    from edgekit.progress import Silent
    from edgekit.specs import shape_from_sizes

    kind_of(model)  # an unknown name is told before what is not installed
    with needs_extra("inspecting a model", "build"):
        from edgekit.graph.file import output_specs
        from edgekit.graph.sizes import stats_at
        from edgekit.pipeline.load_model import load_model
    config = ModelConfig(
        model=model,
        shape=None if shape is None else shape_from_sizes(shape, "--shape"),
        input={name: shape_from_sizes(sizes, f"--input {name}".rstrip()) for name, sizes in (inputs or {}).items()},
    )
    source = load_model(config, Silent())
    stats = source.stats
    if precision is not None:
        if source.quantized:
            raise UsageError(
                f"--precision: expected a float model, got {source.name}, which has its precisions in its graph",
                hint="leave it out",
            )
        usual = {name: shape.opt for name, shape in source.shapes.items()}
        stats = stats_at(source.graph, usual, precision=precision)
    found = inspection_from_stats(source.name, stats, source.inputs, output_specs(source.graph))
    return found if precision is None else msgspec.structs.replace(found, precision_from="option")
