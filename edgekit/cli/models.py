"""``edgekit models``: the recipes, and where their weights come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekit.recipe import Recipe

__all__ = ["models"]


@click.command(short_help="List the models that EdgeKit knows by name.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--names", is_flag=True, help="Print the names alone, one a line.")
def models(as_json: bool, names: bool) -> None:
    """List the models that EdgeKit knows by name.

    Any ONNX file, and any PyTorch module of yours, builds as well: see `edgekit build --help`.
    """
    from edgekit.errors import UsageError
    from edgekit.recipe import load_recipe, recipe_names

    if as_json and names:
        raise UsageError("--json and --names exclude each other", hint="give one of them")
    if names:
        click.echo("\n".join(recipe_names()))
        return
    recipes = [load_recipe(name) for name in recipe_names()]
    if as_json:
        import json

        click.echo(json.dumps([_row(recipe) for recipe in recipes], indent=2))
        return
    _print(recipes)


def _row(recipe: Recipe) -> dict[str, Any]:
    """One recipe for programs."""
    return {
        "name": recipe.name,
        "title": recipe.title,
        "task": recipe.task,
        "paper": recipe.paper,
        "parameters": recipe.model.parameters,
        "macs": recipe.macs,
        "inputs": [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in recipe.inputs],
        "outputs": list(recipe.outputs),
        "weights": {
            name: {"url": weights.url, "sha256": weights.sha256, "license": weights.license, "source": weights.source}
            for name, weights in recipe.weights.items()
        },
    }


def _print(recipes: list[Recipe]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", style="bold", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("input", no_wrap=True)
    table.add_column("--weights", style="cyan")
    for recipe in recipes:
        table.add_row(
            recipe.name,
            f"{recipe.model.parameters / 1e6:.1f} M",
            f"{recipe.macs / 1e9:.1f} G",
            ", ".join("x".join(map(str, spec.shape)) for spec in recipe.inputs),
            ", ".join(recipe.weights) or "none published",
        )
    console = Console(highlight=False)
    console.print(table)
    for name, weights in sorted({(name, w) for recipe in recipes for name, w in _origins(recipe)}):
        console.print(f"--weights {name}: {weights}")
    console.print("\nYour own: edgekit build model.onnx")
    console.print("      or: edgekit build package.module:factory --input 1x3x224x224")


def _origins(recipe: Recipe) -> list[tuple[str, str]]:
    return [(name, f"{weights.source}. Licence: {weights.license}") for name, weights in recipe.weights.items()]
