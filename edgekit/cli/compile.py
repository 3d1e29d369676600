"""``edgekit compile``: builds the engine of a bundle on its target machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options.completion import complete_targets
from edgekit.cli.options.declare import GroupedCommand, backend_options
from edgekit.cli.options.paths import OutputPlace
from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import echo, show_next
from edgekit.text import json_bytes, shell_quoted

__all__ = ["compile_engine"]

EPILOG = """\b
Examples:
  edgekit compile yolov3-int8 --target tensorrt
  edgekit compile yolov3-int8 --target tensorrt -o orin --workspace 2048
"""


@click.command(
    "compile", cls=GroupedCommand, epilog=EPILOG, short_help="Build the engine of a bundle for this machine."
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--target",
    shell_complete=complete_targets,
    metavar="NAME",
    help="tensorrt or tensorrt-rtx.  [default: the bundle's target]",
)
@click.option("-o", "--output", type=OutputPlace(), metavar="DIR", help="Folder to write to.  [default: BUNDLE]")
@click.option("--force", is_flag=True, help="Replace an engine of another model.")
@backend_options
@json_options("the engine's manifest")
def compile_engine(bundle: Path, json: JsonOutput, **options: Any) -> None:
    """Build the engine of BUNDLE for this machine, from its graph.

    BUNDLE is the result of `edgekit build … --target tensorrt --graph-only`, or has an engine for another GPU or
    another TensorRT version. Needs neither PyTorch nor the package onnx.
    """
    from edgekit.cli.progress import progress_on_stderr
    from edgekit.pipeline.compile_bundle import compile_bundle

    with progress_on_stderr() as progress:
        place = compile_bundle(bundle, progress=progress, **options)
    if json.wanted:
        from edgekit.engine.bundle.manifest import read_manifest

        content = {"engine": str(place), "manifest": read_manifest(place)}
        json.write(json_bytes(content, indent=2))
    if json.printed:
        return
    echo(f"{place}", title="engine:", title_color="green")
    quoted = shell_quoted(str(place))
    show_next([f"edgekit inspect {quoted}", f"edgekit profile {quoted} --html report.html"])
