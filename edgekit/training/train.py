"""`train_model`: trains a model by name on a data set and writes a weights file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import nn

from edgekit.arguments import argument
from edgekit.data.calibration.example_feeds import spread
from edgekit.data.examples import DataSet, data_set, data_set_names, feeds_from_example, split_used
from edgekit.data.input_statistics import ENOUGH_INPUTS, InputStatistics, statistics_of_inputs, without_padding
from edgekit.data.label_files import labels_from_file
from edgekit.data.splits import MissingSplit
from edgekit.errors import DataError, TrainError, UsageError, nearest
from edgekit.evaluation.labels import difference, knows_all
from edgekit.limits import MAX_SECONDS
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.download import require_weights, weights_file
from edgekit.models.weights.origin import WeightsOrigin
from edgekit.models.weights.read import load_weights
from edgekit.option import given_flags, given_path, given_real, given_seed, given_threads, plain_number
from edgekit.progress import Progress, given_progress
from edgekit.recipe.messages import recipe_error
from edgekit.recipe.schema import Labels, Recipe, Train, load_recipe
from edgekit.specs import TensorSpec
from edgekit.text import shown
from edgekit.training.batches import known_classes
from edgekit.training.checkpoint import load_checkpoint, save_weights
from edgekit.training.fit import CHECKPOINT_S, Epoch, Training, fit, has_steps
from edgekit.training.messages import train_argument
from edgekit.training.objectives import objective_from_recipe

__all__ = ["Trained", "checkpoint_of", "train_model"]

SUFFIX = ".safetensors"


class Trained(NamedTuple):
    """Result of training.

    Attributes:
        weights: the weights file.
        data: the data set argument, as given.
        epochs: results of all epochs.
        column: the target column of a table, if one was named.
        split: the split that the model was evaluated on after each epoch.
        labels: names of the model's classes.
    """

    weights: Path
    data: str
    epochs: list[Epoch]
    column: str | None = None
    split: str = "test"
    labels: tuple[str, ...] = ()


def train_model(
    model: str | Path,
    *,
    output: str | Path | None = None,
    data: str | Path | None = None,
    column: str | None = None,
    labels: str | Path | None = None,
    weights: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    threads: int = 0,
    changes: Mapping[str, Any] | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    on_epoch: Callable[[Epoch, int], None] = lambda epoch, of: None,
    progress: Progress | None = None,
) -> Trained:
    """Trains a recipe's model on a data set and writes its weights, with the names of its classes.

    The model is evaluated after each epoch on the test split or, if the data set has none, on val. Keeps a checkpoint
    next to the weights file until training ends; see `checkpoint_of`.

    Args:
        model: a recipe name, a recipe file, or a Darknet cfg file.
        output: the weights file to write; default: ``NAME.safetensors``.
        data: the data set, as for `edgekit.data.examples.data_set`; default: the recipe's.
        column: header of the target column of a table; default: label, class or target, else the last.
        labels: file with the names of the model's classes; see `edgekit.data.label_files.labels_from_file`. Default:
            those of the recipe, if it has all classes of the data set, else those of the data set.
        weights: initial weights: a file, or the name of a set that the recipe publishes; default: random.
        seed: random seed for weights, order and augmentation; default: 0.
        resume: resume from the checkpoint; options that are None, or not in ``changes``, keep their values.
        force: replace the weights file if it exists.
        threads: number of threads; 0 measures a few steps and takes the number that is fastest.
        changes: overrides of the recipe's `Train` fields.
        checkpoint_s: seconds between checkpoints within an epoch.
        on_epoch: called after each epoch, with its result and the total number of epochs.
        progress: receives the progress of each batch; without one, notes are warnings.

    Returns:
        The weights file, the data set and the results of all epochs.

    Raises:
        UsageError: the model, the data set or an option is unknown, options conflict or do not apply, or a checkpoint
            exists and ``resume`` is False.
        RecipeError: the recipe or the Darknet cfg file is invalid.
        ModelError: the weights do not fit the model.
        TrainError: the loss is not finite, or the checkpoint is of another training job.
        DataError: the data set is empty, or an example does not fit the model.
    """
    progress = given_progress(progress)
    recipe = _recipe(model)
    if labels is not None:
        recipe = msgspec.structs.replace(recipe, labels=Labels(names=labels_from_file(given_path("labels", labels))))
    file = _output(output, recipe)
    threads, seed = given_threads(threads), None if seed is None else given_seed(seed)
    checkpoint_s = given_real("checkpoint_s", checkpoint_s, 0, MAX_SECONDS)
    if changes is not None and not isinstance(changes, Mapping):
        raise UsageError(f"changes: expected a mapping of options, such as {{'epochs': 3}}, got {shown(changes)}")
    given_flags(resume=resume, force=force)
    if not (force or resume):
        _refuse_to_replace(file)
    identity = _resumed_identity(checkpoint_of(file), resume, weights)
    if weights is not None:
        require_weights(str(given_path("weights", weights)), recipe)
    seed = identity.get("seed", 0) if seed is None else seed
    data = None if data is None else str(given_path("data", data))
    source = _source(data or identity.get("source") or recipe.train.data, recipe)
    column = column if column is not None else identity.get("column")
    options = _merged(_options_from_identity(identity, checkpoint_of(file)) or recipe.train, changes or {})
    objective_from_recipe(recipe, options)  # fails for tasks that cannot be trained, before data is downloaded or read
    train_set, test_set = _data_sets(source, recipe, column, progress)
    recipe = _with_labels(recipe, train_set, test_set, progress)
    training = Training(
        recipe=recipe,
        module=_initial_module(recipe, seed, weights, progress),
        train_set=train_set,
        test_set=test_set,
        options=options,
        seed=seed,
        source=source,
        column=column,
        checkpoint=checkpoint_of(file),
        checkpoint_s=checkpoint_s,
        threads=threads,
    )
    epochs = fit(training, resume=resume, on_epoch=lambda epoch: on_epoch(epoch, options.epochs), progress=progress)
    origin = WeightsOrigin(labels=_class_names(recipe), inputs=_input_statistics(train_set, recipe))
    save_weights(file, training.module, origin)
    checkpoint_of(file).unlink(missing_ok=True)
    return Trained(file, source, epochs, column, split_used(test_set, "test"), origin.labels)


def checkpoint_of(weights: Path) -> Path:
    """Returns the checkpoint path for a weights file: the same path with the suffix ``.checkpoint``."""
    return weights.with_suffix(".checkpoint")


def _recipe(model: str | Path) -> Recipe:
    """Loads the recipe of a model; ONNX files and factories have none, so their training task is unknown."""
    text, path = str(model), given_path("model", model)
    if path.suffix == ".cfg":
        return recipe_from_cfg(path)
    if path.suffix == ".onnx" or ":" in text:
        got = "an ONNX file" if path.suffix == ".onnx" else "a factory"
        raise UsageError(
            f"training '{text}': expected a name from `edgekit models`, a recipe file or a Darknet cfg file, "
            f"got {got}, which does not define a training task",
            hint="write a recipe whose [model] table names the factory of a PyTorch module, and pass the recipe file",
        )
    if os.path.isdir(path):  # False for a name that no file can have
        raise UsageError(
            f"training '{text}': expected a name from `edgekit models`, a recipe file or a Darknet cfg file, got a "
            "folder",
            hint="an engine cannot be trained; train its model, and build the engine again",
        )
    return load_recipe(model)


def _output(output: str | Path | None, recipe: Recipe) -> Path:
    file = given_path("output", output if output is not None else f"{recipe.name}{SUFFIX}")
    if not file.name:
        raise UsageError(f"{argument('output')}: expected the name of a file, got {str(output)!r}")
    if file.suffix != SUFFIX:
        raise UsageError(
            f"{argument('output', file)}: expected a name that ends in {SUFFIX}, got '{file.suffix}'",
            hint=f"use {file.with_suffix(SUFFIX)}",
        )
    return file


def _refuse_to_replace(file: Path) -> None:
    if file.exists():
        raise UsageError(
            f"{file}: expected no file, got weights, which training would replace",
            hint=f"choose another {argument('output')}, or replace them with {argument('force', True)}",
        )


def _resumed_identity(checkpoint: Path, resume: bool, weights: str | None) -> dict[str, Any]:
    """Returns the identity in the checkpoint to resume from; empty for a new training."""
    if resume and weights is not None:
        raise UsageError(
            f"{argument('weights')}: expected none with {argument('resume', True)}, which uses the weights in "
            f"{checkpoint}, got '{weights}'",
            hint=f"omit {argument('weights')} to resume; to start over with it, delete {checkpoint} and omit "
            f"{argument('resume')}",
        )
    if resume:
        return load_checkpoint(checkpoint)[0]
    if checkpoint.exists() and has_steps(checkpoint):
        raise UsageError(
            f"{checkpoint}: expected no checkpoint, got one of an unfinished training",
            hint=f"add {argument('resume', True)} to continue, or delete {checkpoint} to start over",
        )
    return {}


def _source(source: str, recipe: Recipe) -> str:
    if not source:
        raise UsageError(
            f"training {recipe.name}: expected a data set, got none",
            hint=f"set one with {argument('data')}: a path, or {' or '.join(data_set_names())}",
        )
    return source


def _options_from_identity(identity: Mapping[str, Any], checkpoint: Path) -> Train | None:
    """Returns the training options in a checkpoint identity; None if it is empty."""
    fields = {name: value for name, value in identity.items() if name in Train.__struct_fields__}
    try:
        return msgspec.convert(fields, Train) if fields else None
    except (msgspec.ValidationError, ValueError) as e:
        raise TrainError(
            f"checkpoint {checkpoint}: expected the options of a training, got: {e}",
            hint=f"delete {checkpoint} to start over",
        ) from e


def _merged(options: Train, given: Mapping[str, Any]) -> Train:
    changes = {name: plain_number(value) for name, value in given.items()}
    for name in changes:
        if name not in Train.__struct_fields__:
            raise UsageError(f"training: unknown option '{name}'", hint=nearest(name, Train.__struct_fields__))
    for name, value in changes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{train_argument(name)}: expected a finite number, got {value}")
    fields = {**msgspec.to_builtins(options), **changes}
    try:
        changed = msgspec.convert(fields, Train)
    except msgspec.ValidationError as e:
        error = recipe_error(Path("training"), e, fields, Train)
        field, _, rest = error.message.removeprefix("recipe training: ").partition(":")
        name, bracket, index = field.partition("[")
        raise UsageError(f"{train_argument(name)}{bracket}{index}:{rest}", hint=error.hint) from e
    if changed.schedule == "onecycle" and changed.warmup:
        raise UsageError(
            f"{train_argument('warmup')}: expected 0 with the schedule 'onecycle', which includes a warmup, got "
            f"{changed.warmup}",
            hint=f"use {train_argument('warmup', 0)}, or another {train_argument('schedule')}",
        )
    return changed


def _data_sets(source: str, recipe: Recipe, column: str | None, progress: Progress) -> tuple[DataSet, DataSet]:
    """Returns the data sets to train on and to evaluate on, and passes on their notes, each once."""
    train_set = data_set(source, split="train", task=recipe.task, target=column)
    try:
        test_set = data_set(source, split="test", task=recipe.task, target=column)
    except MissingSplit as e:
        raise DataError(
            e.message,
            hint="a training is evaluated on examples that it does not learn from: add a split val, or remove the "
            "word train from the names of files and folders; of a data set without splits, a fifth is held out",
        ) from e
    for note in dict.fromkeys([*train_set.notes, *test_set.notes]):
        progress.note(note)
    return train_set, test_set


def _with_labels(recipe: Recipe, train_set: DataSet, test_set: DataSet, progress: Progress) -> Recipe:
    """Returns the recipe with the class names that the model is trained for, so that all splits are matched by name.

    Raises:
        DataError: the test set has a class that the model does not have.
    """
    own, names = recipe.labels.names, tuple(train_set.labels)
    if recipe.task not in ("classify", "detect") or not names:
        return recipe
    if not knows_all(own, names):
        count = known_classes(recipe)
        if count and len(names) > count:
            return recipe  # `Batches` refuses it
        if own:
            # Names and WordNet ids may be known one by one and not together.
            unknown = next((label for label in names if not knows_all(own, [label])), names[0])
            why = f"{train_set.name} has class names that {recipe.name} does not have, such as '{unknown}'"
        else:
            why = f"{recipe.name} has no class names"
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        progress.note(
            f"{why}: its classes take those of the data set, in its order: {shown}. They are written with the weights"
        )
        own = names + tuple(str(i) for i in range(len(names), count))
        recipe = msgspec.structs.replace(recipe, labels=Labels(names=own))
    if test_set.labels and not knows_all(own, test_set.labels):
        raise DataError(
            f"data set {test_set.name}: expected classes of the train split, got {difference(own, test_set.labels)}",
            hint="name the classes alike in all splits",
        )
    return recipe


def _initial_module(recipe: Recipe, seed: int, weights: str | None, progress: Progress) -> nn.Module:
    """Returns the recipe's module with random weights; with those in ``weights``, as far as they go, if it is given."""
    module = module_from_recipe(recipe, seed=seed)
    if weights is None:
        return module
    file = weights_file(weights, recipe, progress=progress)
    with progress.stage("reading weights"):
        found = load_weights(module, file, partial=True)
    if found.note:
        progress.note(found.note)
    if missing := found.missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        progress.note(f"{file.name} has the first layers only: {missing[0]}{others} begin random")
    return module


def _class_names(recipe: Recipe) -> tuple[str, ...]:
    return recipe.labels.names if recipe.task in ("classify", "detect") else ()


def _input_statistics(train_set: DataSet, recipe: Recipe) -> InputStatistics | None:
    """Computes the statistics of some training images, without augmentation; None if the model takes no images."""
    if recipe.preprocess is None:
        return None
    return statistics_of_inputs(_inputs(train_set, recipe), "training")


def _inputs(train_set: DataSet, recipe: Recipe) -> Iterator[Any]:
    assert recipe.preprocess is not None
    specs = [TensorSpec(spec.name, spec.dtype, (1, *spec.shape[1:])) for spec in recipe.inputs]
    for index in spread(len(train_set), ENOUGH_INPUTS):
        try:
            example = train_set[index]
        except DataError:  # the training has counted it
            continue
        yield feeds_from_example(example, specs, without_padding(recipe.preprocess), ())[specs[0].name]
