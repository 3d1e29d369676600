"""``edgekit debug``: finds the layers in which a model loses its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options.declare import GroupedCommand, backend_options, options_from
from edgekit.cli.options.parameters import model_or_cfg
from edgekit.cli.options.paths import OutputFile, OutputPlace
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.config import CalibrationConfig, ModelConfig, TargetConfig
from edgekit.text import json_bytes

if TYPE_CHECKING:
    from edgekit.measure.noise_report import NoiseReport

__all__ = ["debug"]

EPILOG = """\b
Examples:
  edgekit debug detector.onnx --int8 --calib photos/
  edgekit debug yolov3-tiny --int8 --weights coco --graph noise.html
  edgekit debug detector.onnx --fp32 --target openvino --save smallest/
  edgekit debug detector.onnx --int8 --target openvino --against cpu
  edgekit debug engines/detector-int8-cpu --against detector.onnx
"""
PIPED_COLUMNS = 120
"""Output width without a terminal."""


@click.command(cls=GroupedCommand, epilog=EPILOG, short_help="Find the layers in which a model loses its numbers.")
@click.argument("model", metavar="MODEL|ENGINE", required=False)
@model_or_cfg
@click.option(
    "--against",
    metavar="TARGET|FILE.onnx",
    help="Compare with the FP32 engine of another target, or an engine with the ONNX file that it was built from.",
)
@click.option("--save", type=OutputPlace(), metavar="DIR", help="Save the smallest graph that fails.")
@click.option(
    "--graph", type=OutputFile(".html", ".svg"), metavar="F.html|F.svg", help="Draw the graph, coloured by noise."
)
@json_options("the noise of each layer")
@options_from(ModelConfig, "Model")
@options_from(CalibrationConfig, "Calibration")
@options_from(TargetConfig, "Target")
@backend_options
def debug(
    model: str, json: JsonOutput, against: str | None, save: Path | None, graph: Path | None, **options: Any
) -> None:
    """Find the layers in which MODEL or ENGINE loses its numbers.

    Runs the float model and the typed one on the same inputs and compares them layer by layer: the engine if it runs
    on this machine, else its graph in ONNX Runtime. Names the first layer that is lost, and cuts out the smallest
    graph that fails by itself; --save writes it as ONNX with its inputs, ready for a bug report.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.errors import needs_extra
    from edgekit.report.noise_table import terminal_from_noise

    with needs_extra("comparing a model's layers", "build"):
        from edgekit.pipeline.debug import debug as debug_model
    with progress_on_stderr() as progress:
        found = debug_model(model, against=against, save=save, progress=progress, **options)
    if graph is not None:
        _draw(found, model, graph, options)
    if json.wanted:
        json.write(json_bytes(found, indent=2))
    if not json.printed:
        console = terminal(piped_columns=PIPED_COLUMNS)
        console.print(terminal_from_noise(found, console.width))


def _draw(found: NoiseReport, model: str, file: Path, options: dict[str, Any]) -> None:
    from edgekit.cli.output import write_file
    from edgekit.pipeline.inspect import inspect
    from edgekit.report.drawing.contents import drawing_from_inspection
    from edgekit.report.drawing.page import html_from_drawing
    from edgekit.report.drawing.svg import svg_from_drawing

    inspected = inspect(model, shape=options.get("shape"), input=options.get("input"))
    draw = svg_from_drawing if file.suffix.lower() == ".svg" else html_from_drawing
    write_file(file, draw(drawing_from_inspection(inspected), noise=found.layers).encode())
