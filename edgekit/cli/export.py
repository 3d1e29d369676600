"""``edgekit export``: an engine in the form that another program wants; a command a program."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

__all__ = ["export"]

EPILOG = """\b
Examples:
  edgekit export triton tiny models
  edgekit export triton tiny-fp16 models --name tiny-half
"""


@click.group(short_help="Write an engine in the form that another program wants.")
def export() -> None:
    """Write an engine in the form that another program wants."""


@export.command(epilog=EPILOG, short_help="A model repository of Triton Inference Server.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("repository", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", help="What the model is called there; its own name without it.")
def triton(bundle: Path, repository: Path, name: str | None) -> None:
    """Write the engine in BUNDLE into DIR, a model repository of Triton Inference Server.

    DIR/NAME gets config.pbtxt, the engine as version 1, and the labels. An engine need not run here to be exported.
    """
    from edgekit.serving.triton import export_triton

    model = export_triton(bundle, repository, name=name)
    for note in model.notes:
        click.echo(f"{click.style('note:', fg='yellow', bold=True)} {note}", err=True)
    click.echo(f"{click.style('model:', fg='green', bold=True)} {model.path}")
    click.echo(f"{click.style('next:', dim=True)}")
    click.echo(f"  tritonserver --model-repository {shlex.quote(str(model.path.parent))}")
