"""Completion of names in the shell: recipes, targets, data sets, boards; for bash, zsh and fish (click's)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

__all__ = ["Complete", "complete_boards", "complete_data", "complete_models", "complete_targets", "complete_weights"]

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def complete_models(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of recipes, and files."""
    from edgekit.recipe.schema import recipe_names

    return _names_or_files(recipe_names(), incomplete)


def complete_targets(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of backends."""
    from edgekit.engine.table import BACKENDS

    return [CompletionItem(name) for name in BACKENDS if name.startswith(incomplete)]


def complete_data(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of data sets and calibration sets, and files."""
    from edgekit.data.calibration.calibration_set import calibration_set_names
    from edgekit.data.examples import data_set_names

    sets = calibration_set_names() if parameter.name == "calib" else []
    return _names_or_files([*sets, *data_set_names()], incomplete)


def complete_weights(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes the weight sets that the recipe on the command line publishes, and files."""
    from edgekit.recipe.schema import load_recipe, recipe_names

    # Click does not assign arguments if the last option still lacks its value.
    model = ctx.params.get("model") or next(iter(ctx.args), None)
    published = load_recipe(model).weights if model in recipe_names() else {}
    return _names_or_files(list(published), incomplete)


def complete_boards(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes keys of boards."""
    from edgekit.measure.boards import boards

    return [CompletionItem(name) for name in ("this-machine", *boards().boards) if name.startswith(incomplete)]


def _names_or_files(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    # The shell completes files itself. In bash, the item for files has to come first, since it clears the list.
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *found]
