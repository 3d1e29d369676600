"""``edgekit export``: exports an engine for another program; one subcommand per program."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import echo, note, show_next
from edgekit.text import json_bytes, shell_quoted

__all__ = ["export"]

EPILOG = """\b
Examples:
  edgekit export deepstream detector camera
  edgekit export triton tiny models
  edgekit export triton tiny-fp16 models --name tiny-half
"""


@click.group(short_help="Export an engine for another program.")
def export() -> None:
    """Export an engine for another program."""


@export.command(epilog=EPILOG, short_help="Export to a Triton Inference Server model repository.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("repository", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the exported model.  [default: the model's name]")
@json_options("the path of the exported model")
def triton(bundle: Path, repository: Path, name: str | None, json: JsonOutput) -> None:
    """Export the engine in BUNDLE to DIR, a model repository of Triton Inference Server.

    Writes config.pbtxt, the engine as version 1, and the labels to DIR/NAME. The engine does not have to run here.
    """
    from edgekit.serving.triton import export_triton

    model = export_triton(bundle, repository, name=name)
    for each in model.notes:
        note(each)
    if json.wanted:
        json.write(json_bytes({"model": str(model.path), "notes": model.notes}))
    if json.printed:
        return
    echo(f"{model.path}", title="model:", title_color="green")
    show_next([f"tritonserver --model-repository {shell_quoted(str(model.path.parent))}"])


@export.command(epilog=EPILOG, short_help="Export to DeepStream's plugin nvinfer.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_options("the paths of the exported model")
def deepstream(bundle: Path, folder: Path, json: JsonOutput) -> None:
    """Export the engine in BUNDLE, built for tensorrt, to the folder DIR for NVIDIA DeepStream.

    Writes config_infer_primary.txt with the preprocessing, the parser of the outputs and the thresholds, the plan, and
    the labels. Says so if no parser of DeepStream or DeepStream-Yolo reads the outputs. The engine does not have to run
    here.
    """
    from edgekit.serving.deepstream import export_deepstream

    model = export_deepstream(bundle, folder)
    for each in model.notes:
        note(each)
    if json.wanted:
        json.write(json_bytes({"config": str(model.config), "parser": model.parser or None, "notes": model.notes}))
    if json.printed:
        return
    echo(f"{model.config}", title="config:", title_color="green")
