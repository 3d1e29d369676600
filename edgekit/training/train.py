"""`train_model`: from a model's name and a data set's to a file of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.data.examples import DataSet, data_set, data_set_names
from edgekit.errors import UsageError, nearest
from edgekit.evaluation.labels import knows_all
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.download import weights_file
from edgekit.models.weights.read import load_weights
from edgekit.progress import Progress, Silent
from edgekit.recipe.messages import recipe_error
from edgekit.recipe.schema import Recipe, Train, load_recipe
from edgekit.training.checkpoint import load_checkpoint, save_weights
from edgekit.training.fit import CHECKPOINT_S, Epoch, Training, fit, has_steps
from edgekit.training.objectives import objective_from_recipe

__all__ = ["Trained", "checkpoint_of", "train_model"]

SUFFIX = ".safetensors"


class Trained(NamedTuple):
    """A training that has ended.

    Attributes:
        weights: the file.
        data: the data set, as it was asked for.
        epochs: all of them.
        column: of a table, the one that is foretold, where one was named.
    """

    weights: Path
    data: str
    epochs: list[Epoch]
    column: str | None = None


def train_model(
    model: str | Path,
    *,
    output: str | Path | None = None,
    data: str | None = None,
    column: str | None = None,
    weights: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    on_epoch: Callable[[Epoch, int], None] = lambda epoch, of: None,
    progress: Progress | None = None,
) -> Trained:
    """Trains a recipe's model on a data set and writes its weights.

    Beside the weights there is a checkpoint until they are written; see `checkpoint_of`.

    Args:
        model: a recipe's name or file, or a Darknet cfg file.
        output: file for the weights; ``NAME.safetensors`` where None.
        data: the data set, as `edgekit.data.examples.data_set` takes it; the recipe's own where None.
        column: of a table, the header of the column that is to be foretold; the last one where None.
        weights: to start from: a file, or the name of a set that the recipe publishes; random where None.
        seed: of weights, order and all else that is drawn; 0 where None.
        resume: goes on from the checkpoint; what is None, or not in ``changes``, is as it was.
        changes: fields of the recipe's `Train` that are to be others.
        checkpoint_s: how often a checkpoint is written within an epoch.
        on_epoch: is told of each epoch, and of how many there will be.
        progress: is told of each batch.

    Returns:
        What was written, of what, and how it went.

    Raises:
        UsageError: there is no such model, data set or option, an option does nothing or goes with no other, or there
            is a checkpoint that nobody asked for.
        RecipeError: a recipe or a Darknet cfg file that is not valid.
        ModelError: the weights do not fit.
        TrainError: the loss is no longer a number, or the checkpoint is of another training.
        DataError: the set is empty, or an example is not what the model takes.
    """
    progress = progress or Silent()
    recipe = _recipe(model)
    file = _output(output, recipe)
    before = _before(checkpoint_of(file), resume, weights)
    seed = before.get("seed", 0) if seed is None else seed
    source = _source(data or before.get("source") or recipe.train.data, recipe)
    column = column if column is not None else before.get("column")
    how = _changed(_known(before) or recipe.train, changes or {})
    objective_from_recipe(recipe, how)  # says whether there is anything to learn, before it is looked for
    learn, test = (data_set(source, split=split, task=recipe.task, target=column) for split in ("train", "test"))
    _say(learn, recipe, progress)
    module = module_from_recipe(recipe, seed=seed)
    if weights is not None:
        file_of_weights = weights_file(weights, recipe, progress=progress)
        with progress.stage("reading weights"):
            load_weights(module, file_of_weights)
    training = Training(
        recipe=recipe,
        module=module,
        learn=learn,
        test=test,
        how=how,
        seed=seed,
        source=source,
        column=column,
        checkpoint=checkpoint_of(file),
        checkpoint_s=checkpoint_s,
    )
    epochs = fit(training, resume=resume, on_epoch=lambda epoch: on_epoch(epoch, how.epochs), progress=progress)
    save_weights(file, module)
    checkpoint_of(file).unlink(missing_ok=True)
    return Trained(file, source, epochs, column)


def checkpoint_of(weights: Path) -> Path:
    """Where a training that is to write these weights has its checkpoint: beside them, with another suffix."""
    return weights.with_suffix(".checkpoint")


def _recipe(model: str | Path) -> Recipe:
    """A Darknet cfg file is a recipe in another form; a model of another kind does not say what it is to learn."""
    text, path = str(model), Path(model)
    if path.suffix == ".cfg":
        return recipe_from_cfg(path)
    if path.suffix == ".onnx" or ":" in text:
        got = "an ONNX file" if path.suffix == ".onnx" else "a factory"
        raise UsageError(
            f"training '{text}': expected a name that `edgekit models` lists, a recipe's file or a Darknet cfg file, "
            f"got {got}, which does not say what it is to learn",
            hint="write a recipe whose [model] names the factory of a PyTorch module, and give its file",
        )
    return load_recipe(model)


def _output(output: str | Path | None, recipe: Recipe) -> Path:
    file = Path(output if output is not None else f"{recipe.name}{SUFFIX}")
    if file.suffix != SUFFIX:
        raise UsageError(
            f"--output {file}: expected a name that ends in {SUFFIX}, got '{file.suffix}'",
            hint=f"name it {file.with_suffix(SUFFIX)}",
        )
    return file


def _before(checkpoint: Path, resume: bool, weights: str | None) -> dict[str, Any]:
    """What is to be gone on with; nothing where a training begins."""
    if resume and weights is not None:
        raise UsageError(
            f"--weights: expected none with --resume, which goes on with those in {checkpoint}, got '{weights}'",
            hint=f"leave it out to go on; to begin anew with it, delete {checkpoint} and leave out --resume",
        )
    if resume:
        return load_checkpoint(checkpoint)[0]
    if checkpoint.exists() and has_steps(checkpoint):
        raise UsageError(
            f"{checkpoint}: expected no checkpoint, got one of a training that did not end",
            hint=f"add --resume to go on from it, or delete {checkpoint} to begin anew",
        )
    return {}


def _source(source: str, recipe: Recipe) -> str:
    if not source:
        raise UsageError(
            f"training {recipe.name}: expected a data set, got none",
            hint=f"name one with --data: a path, or {' or '.join(data_set_names())}",
        )
    return source


def _known(before: Mapping[str, Any]) -> Train | None:
    """What a checkpoint says of how it was trained."""
    fields = {name: value for name, value in before.items() if name in Train.__struct_fields__}
    return msgspec.convert(fields, Train) if fields else None


def _changed(how: Train, changes: Mapping[str, Any]) -> Train:
    for name in changes:
        if name not in Train.__struct_fields__:
            raise UsageError(f"training: unknown option '{name}'", hint=nearest(name, Train.__struct_fields__))
    for name, value in changes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')}: expected a finite number, got {value}")
    fields = {**msgspec.to_builtins(how), **changes}
    try:
        changed = msgspec.convert(fields, Train)
    except msgspec.ValidationError as e:
        error = recipe_error(Path("training"), e, fields, Train)
        field, _, rest = error.message.removeprefix("recipe training: ").partition(":")
        raise UsageError(f"--{field.replace('_', '-')}:{rest}", hint=error.hint) from e
    if changed.schedule == "onecycle" and changed.warmup:
        raise UsageError(
            f"--warmup: expected 0 with the schedule 'onecycle', which rises by itself, got {changed.warmup}",
            hint="--warmup 0, or another --schedule",
        )
    return changed


def _say(examples: DataSet, recipe: Recipe, progress: Progress) -> None:
    """What the user should know of the data before they wait for it to be learned."""
    for note in examples.notes:
        progress.note(note)
    own = recipe.labels.names
    if own and recipe.task in ("classify", "detect") and not knows_all(own, examples.labels):
        strange = next(label for label in examples.labels if not knows_all(own, [label]))
        progress.note(
            f"the classes of {examples.name} have names that {recipe.name} does not know, such as '{strange}': it "
            "learns them in their order; copy its recipe and write their names into it, or engines will tell others"
        )
