"""``edgekit models``: lists the recipes and the sources of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from edgekit.cli.output import JsonOutput, json_options
from edgekit.cli.terminal import console as terminal
from edgekit.cli.terminal import echo

if TYPE_CHECKING:
    from rich.table import Table

    from edgekit.recipe.schema import Recipe

__all__ = ["models"]

HEADINGS = ("model", "params", "MACs", "input", "--weights")
STYLES = ("bold", "", "", "", "cyan")
TITLE = 24
"""Titles are shown if this number of terminal columns is left for them."""


@click.command(short_help="List the models that EdgeKit includes.")
@json_options("the list")
@click.option("--names", is_flag=True, help="Print only the names, one per line.")
@click.option("--course", is_flag=True, help="Order the models as a course, simple ones first, with the file to read.")
def models(json: JsonOutput, names: bool, course: bool) -> None:
    """List the models that EdgeKit includes.

    `edgekit build` also accepts any ONNX file and your own PyTorch modules.
    """
    from edgekit.errors import UsageError
    from edgekit.recipe.schema import load_recipe, recipe_names

    if json.printed and names:
        raise UsageError("--json and --names exclude each other", hint="give one of them")
    if names and not course and not json.wanted:
        echo("\n".join(recipe_names()))
        return
    recipes = [load_recipe(name) for name in recipe_names()]
    if course:
        recipes.sort(key=_place_in_course)
    if json.wanted:
        json.write(_json_from(recipes))
    if json.printed:
        return
    if names:
        echo("\n".join(recipe.name for recipe in recipes))
    elif course:
        _print_course(recipes)
    else:
        _print(recipes)


def _json_from(recipes: Sequence[Recipe]) -> str:
    import json

    return json.dumps([_row(recipe) for recipe in recipes], indent=2)


def _place_in_course(recipe: Recipe) -> tuple[int, int]:
    """The place of the recipe's module; recipes of one module are ordered by size."""
    from edgekit.models import COURSE

    return COURSE.index(_module(recipe)), recipe.model.parameters


def _module(recipe: Recipe) -> str:
    """Such as ``lenet``, for the factory ``edgekit.models.lenet:lenet5``."""
    return recipe.model.factory.partition(":")[0].rpartition(".")[2]


def _file(module: str) -> str:
    return f"edgekit/models/{module}.py"


def _row(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe as JSON values."""
    return {
        "name": recipe.name,
        "title": recipe.title,
        "task": recipe.task,
        "paper": recipe.paper,
        "file": _file(_module(recipe)),
        "parameters": recipe.model.parameters,
        "macs": recipe.macs,
        "inputs": [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in recipe.inputs],
        "outputs": list(recipe.outputs),
        "weights": {
            name: {"url": weights.url, "sha256": weights.sha256, "license": weights.license, "source": weights.source}
            for name, weights in recipe.weights.items()
        },
    }


def _print_course(recipes: list[Recipe]) -> None:
    """Every file of the course in its order, with the models in it; files without one hold parts of those below."""
    from rich.text import Text

    from edgekit.models import COURSE
    from edgekit.report.tables import FigureTable
    from edgekit.report.wording import short_figure

    table = FigureTable(padding=(0, 2, 0, 0))
    table.add_column("file to read", style="cyan", no_wrap=True)
    table.add_column("model", style="bold", no_wrap=True)
    table.add_column("params", justify="right")
    table.add_column("MACs", justify="right")
    for module in COURSE:
        found = [recipe for recipe in recipes if _module(recipe) == module]
        if not found:
            table.add_row(_file(module), Text("parts of models", style="not bold dim"), "", "")
        for place, recipe in enumerate(found):
            figures = (short_figure(value) for value in (recipe.model.parameters, recipe.macs))
            table.add_row("" if place else _file(module), recipe.name, *figures)
    terminal().print(table)


def _print(recipes: list[Recipe]) -> None:
    from rich.text import Text

    from edgekit.recipe.schema import TASK_TITLES

    console = terminal()
    rows = [_cells(recipe) for recipe in recipes]
    widths = [max(len(row[column]) for row in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    room = console.width - sum(widths) - 2 * len(widths)
    console.print(_grid([HEADINGS], widths, [""] if room >= TITLE else [], room, style="dim"))
    for task, what in TASK_TITLES.items():
        chosen = [place for place, recipe in enumerate(recipes) if recipe.task == task]
        if chosen:
            titles = [recipes[place].title for place in chosen] if room >= TITLE else []
            console.print(Text(f"\n{what}", style="bold"))
            console.print(_grid([rows[place] for place in chosen], widths, titles, room))
    console.print()
    for name, origin in sorted({origin for recipe in recipes for origin in _origins(recipe)}):
        console.print(Text.assemble((f"--weights {name}", "cyan"), f": {origin}"))
    console.print("\nYour own: edgekit build model.onnx")
    console.print("      or: edgekit build package.module:factory --input 1x3x224x224")


def _cells(recipe: Recipe) -> tuple[str, ...]:
    from edgekit.report.wording import short_figure

    shapes = ", ".join("x".join(map(str, spec.shape)) for spec in recipe.inputs)
    figures = (short_figure(value) for value in (recipe.model.parameters, recipe.macs))
    return (f"  {recipe.name}", *figures, shapes, ", ".join(recipe.weights))


def _grid(rows: Sequence[Sequence[str]], widths: list[int], titles: list[str], room: int, style: str = "") -> Table:
    """Renders rows in columns that have the same widths in every section; titles come last, if they fit."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for heading, width, colour in zip(HEADINGS, widths, STYLES, strict=True):
        justify: Literal["left", "right"] = "right" if heading in ("params", "MACs") else "left"
        grid.add_column(justify=justify, min_width=width, style=style or colour, no_wrap=True)
    if titles:
        grid.add_column(no_wrap=True, max_width=room, overflow="ellipsis", style="dim")
    for place, row in enumerate(rows):
        grid.add_row(*row, *titles[place : place + 1])
    return grid


def _origins(recipe: Recipe) -> list[tuple[str, str]]:
    """Returns the name of each set of weights, and its source and licence without its accuracy."""
    return [
        (name, f"{weights.source.partition(': ')[0]}. Licence: {weights.license}")
        for name, weights in recipe.weights.items()
    ]
