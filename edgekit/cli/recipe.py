"""``edgekit recipe``: writes recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options.declare import options_from
from edgekit.cli.options.paths import OutputFile
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.progress import progress_on_stderr
from edgekit.cli.terminal import echo, show_next
from edgekit.config import ModelConfig
from edgekit.text import json_bytes, shell_quoted

__all__ = ["recipe"]

EPILOG = """\b
Examples:
  edgekit recipe new yolov8n.onnx
  edgekit recipe new detector.onnx --labels names.txt -o recipes/gate.toml
"""


@click.group(short_help="Write a recipe for a model of your own.")
def recipe() -> None:
    """Write a recipe: one file that has all that EdgeKit needs to know about a model."""


@recipe.command(epilog=EPILOG, short_help="Write the recipe of an ONNX file from what is recognized in it.")
@click.argument("model", metavar="FILE.onnx", type=click.Path(path_type=Path))
@options_from(ModelConfig, only=("labels", "shape", "input", "preprocess", "head", "head_option", "no_head", "batch"))
@click.option("-o", "--output", type=OutputFile(".toml"), help="The recipe.  [default: NAME.toml]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@json_options("the path of the recipe")
def new(model: Path, output: Path | None, force: bool, json: JsonOutput, **given: Any) -> None:
    """Write the recipe of an ONNX file: inputs, preprocessing, outputs, class names.

    The recipe names the ONNX file by its path from the recipe. Change it as you like, then build it.
    """
    from edgekit.errors import UsageError, needs_extra

    with needs_extra("reading an ONNX file", "build"):
        from edgekit.pipeline.new_recipe import recipe_of_onnx
        from edgekit.pipeline.validate import model_config
        from edgekit.recipe.write import recipe_toml
    from edgekit.storage import write_atomic

    place = output or Path(f"{model.stem}.toml")
    if place.exists() and not force:
        raise UsageError(
            f"{place}: expected no file, got one", hint="choose another -o FILE, or replace it with --force"
        )
    with progress_on_stderr() as progress:
        made = recipe_of_onnx(model_config(model=str(model), **given), place.parent, progress)
    write_atomic(place, recipe_toml(made).encode())
    if json.wanted:
        json.write(json_bytes({"recipe": str(place)}))
    if json.printed:
        return
    echo(f"{place}", title="recipe:", title_color="green")
    show_next([f"edgekit build {shell_quoted(str(place))} --int8"])
