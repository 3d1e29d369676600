"""Chooses the class names of an engine: those that were given, else those of the weights, else those of the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgekit.config import ModelConfig
from edgekit.data.label_files import labels_from_file
from edgekit.graph.file import output_specs
from edgekit.models.cfg.recipe import names_file
from edgekit.models.weights.origin import WeightsOrigin, origin_of_weights
from edgekit.pipeline.loaded_model import LoadedModel
from edgekit.progress import Progress
from edgekit.recipe.schema import load_recipe, recipe_names
from edgekit.runtime.class_names import check_class_names, class_count

__all__ = ["with_class_names"]


def with_class_names(model: LoadedModel, config: ModelConfig, progress: Progress) -> LoadedModel:
    """Returns the model with its class names and the statistics of its training inputs.

    Args:
        model: the loaded model, with the names of its recipe.
        config: has the files of names and of weights that the user gave, if any.
        progress: receives a note if the names are not the recipe's.

    Raises:
        DataError: the file has no names.
        UsageError: the names are not as many as the classes.
        ModelError: the metadata of the weights is damaged.
    """
    # The name of a published set is no file, and says nothing.
    is_file = config.weights is not None and Path(config.weights).is_file()
    origin = origin_of_weights(config.weights) if config.weights is not None and is_file else WeightsOrigin()
    classes = class_count(model.task, model.postprocess, output_specs(model.graph))
    names = model.labels
    if config.labels is not None:
        names = labels_from_file(config.labels)
        check_class_names(names, classes, model.name)
    elif origin.labels and origin.labels != names:
        # A model may have more classes than the data set that it was trained on.
        rest = range(len(origin.labels), classes or 0)
        names = origin.labels + tuple(str(i) for i in rest)
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        progress.note(f"the class names are those that the weights were trained with: {shown}")
    elif not names and (published := _names_of_published(model, classes)):
        names = published
        progress.note(f"the class names are those of the published weights: {names[0]}, {names[-1]} and others")
    elif names and model.origin.kind == "cfg":
        named = names_file(Path(config.model), len(names))
        if named is not None and named.stem != Path(config.model).stem:
            progress.note(f"the class names are those of {named.name}, which is next to {Path(config.model).name}")
    return dataclasses.replace(model, labels=names, input_statistics=origin.inputs)


def _names_of_published(model: LoadedModel, classes: int | None) -> tuple[str, ...]:
    """Returns the class names of the recipe that publishes the weights of the model, found by their hash."""
    weights = model.origin.weights
    if weights is None or not weights.sha256:
        return ()
    for recipe in map(load_recipe, recipe_names()):
        known = [each.sha256 for each in recipe.weights.values()]
        if any(weights.sha256.startswith(sha256) for sha256 in known) and len(recipe.labels.names) == classes:
            return recipe.labels.names
    return ()
