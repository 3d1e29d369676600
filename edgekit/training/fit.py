"""The loop: batches forward and back, the optimizer's step, an evaluation each epoch, a checkpoint now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgekit.data.examples import DataSet
from edgekit.data.vocabulary import UNKNOWN, unknown_tokens
from edgekit.errors import TrainError
from edgekit.progress import Progress, Silent
from edgekit.recipe.schema import Recipe, Train
from edgekit.training.batches import Batch, Batches, ahead
from edgekit.training.checkpoint import load_checkpoint, save_checkpoint
from edgekit.training.objectives import Objective, Outputs, objective_from_recipe
from edgekit.training.optimization import knows_no_end, optimizer_from_train, schedule_from_train

__all__ = ["Epoch", "Training", "evaluate", "fit", "has_steps"]

CHECKPOINT_S = 30.0
RATIO = 20.0
"""Between two checkpoints lies at least so many times what it takes to write one."""

FORMAT = torch.channels_last
"""Convolutions take up to half as long on a processor where the channels of a pixel lie side by side."""


class Epoch(msgspec.Struct, frozen=True):
    """What one epoch came to.

    Attributes:
        epoch: its number, from 1.
        lr: the learning rate of its last batch.
        loss: mean over the examples it learned from, while it learned.
        test_loss: mean over the examples to be measured on, afterwards.
        figures: of the same: accuracy, mean average precision, ...; the most important first.
        seconds: how long it took, the evaluation included.
    """

    epoch: int
    lr: float
    loss: float
    test_loss: float
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is to be trained, on what, and how.

    Attributes:
        recipe: says what goes in and what comes out.
        module: with the weights to start from; they change.
        learn: the examples to learn from.
        test: the examples to be measured on.
        how: optimizer, schedule and the like.
        seed: of the order of examples, of augmentation and of dropout.
        source: what the data set was asked for as.
        column: of a table, the one to be foretold, where one was named.
        checkpoint: file to go on from after a crash; none is written without it.
        checkpoint_s: how often it is written within an epoch; at the end of each it always is.
    """

    recipe: Recipe
    module: nn.Module
    learn: DataSet
    test: DataSet
    how: Train
    seed: int = 0
    source: str = ""
    column: str | None = None
    checkpoint: Path | None = None
    checkpoint_s: float = CHECKPOINT_S

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this training."""
        return {
            "model": self.recipe.name,
            "arguments": repr(sorted(self.recipe.model.arguments.items())),
            "source": self.source,
            **({} if self.column is None else {"column": self.column}),
            "examples": len(self.learn),
            "seed": self.seed,
            **msgspec.to_builtins(self.how),
        }


def fit(
    training: Training,
    *,
    resume: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    progress: Progress | None = None,
) -> list[Epoch]:
    """Trains the module, in place.

    What was trained, was killed and is resumed has the same weights in the end, to the last bit, as what was not: on
    the same processor, with the same number of threads and the same versions of its libraries. One that ends with an
    error before there is a step in its checkpoint leaves none.

    Args:
        training: the order.
        resume: goes on from the checkpoint.
        on_epoch: is told of each epoch when it has ended, those before the checkpoint included.
        progress: is told of each batch.

    Returns:
        All epochs.

    Raises:
        TrainError: the loss is no longer a number, or the checkpoint is of another training.
        DataError: the set is empty, or an example is not what the model takes.
        UsageError: the model's task is none that can be learned, or an option does nothing for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        run = _Run(training, progress or Silent())
        if resume:
            run.resume()
        else:
            run.save()  # a place that cannot be written is better found now than after an hour
        try:
            for epoch in run.epochs:
                on_epoch(epoch)
            while len(run.epochs) < training.how.epochs:
                on_epoch(run.one_epoch())
        except BaseException:
            run.discard_empty()
            raise
    training.module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return run.epochs


def has_steps(checkpoint: Path) -> bool:
    """Whether something would be lost with a checkpoint; of one that cannot be read, who knows."""
    try:
        _, state = load_checkpoint(checkpoint)
    except TrainError:
        return True
    return bool(state["epochs"] or state["batch"])


@torch.no_grad()
def evaluate(
    module: nn.Module, batches: Batches, objective: Objective, recipe: Recipe
) -> tuple[float, dict[str, float]]:
    """Mean loss over all examples, and the figures; the module is in eval mode afterwards."""
    module.eval()
    total = count = 0.0
    for batch in ahead(batches.in_order()):
        outputs = outputs_of(module, batch, recipe)
        total += objective.loss(outputs, batch).item() * len(batch)
        count += len(batch)
        objective.add(outputs, batch)
    return total / count, objective.figures()


def outputs_of(module: nn.Module, batch: Batch, recipe: Recipe) -> Outputs:
    """The module's outputs by the recipe's names."""
    result = module(*(x.contiguous(memory_format=FORMAT) if x.dim() == 4 else x for x in batch.inputs))
    tensors = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    return dict(zip(recipe.outputs, tensors, strict=True))


@dataclass
class _Run:
    """A training under way: all that changes while it runs is here, and in a checkpoint."""

    training: Training
    progress: Progress
    epochs: list[Epoch] = field(default_factory=list, init=False)
    batch: int = field(default=0, init=False)
    loss_sum: float = field(default=0.0, init=False)
    lr: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)
    is_worth_keeping: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        training = self.training
        how, recipe = training.how, training.recipe
        self.objective = objective_from_recipe(recipe, how)
        self.learn = Batches(training.learn, recipe, size=how.batch, seed=training.seed, augment=how.augment)
        self.test = Batches(training.test, recipe, size=how.batch)
        training.module.to(memory_format=FORMAT)  # type: ignore[call-overload]
        self.optimizer = optimizer_from_train(training.module, how)
        self.schedule = schedule_from_train(self.optimizer, how, batches=how.epochs * len(self.learn))

    def one_epoch(self) -> Epoch:
        """Learns from all batches of an epoch that have not had their turn, and evaluates."""
        training, number = self.training, len(self.epochs) + 1
        start = time.monotonic() - self.seconds
        title = f"epoch {number}/{training.how.epochs}"
        with self.progress.stage(title, total=len(self.learn), unit="batches") as advance:
            advance(self.batch)
            training.module.train()
            for batch in self._checkpointed(start):
                self._step(batch)
                advance(1)
        loss = self.loss_sum / len(self.learn)
        with self.progress.stage(f"measuring on {self.test.name}"):
            test_loss, figures = evaluate(training.module, self.test, self.objective, training.recipe)
        if number == 1:
            self._tell_of_examples()
        epoch = Epoch(number, self.lr, loss, test_loss, figures, time.monotonic() - start)
        self.epochs.append(epoch)
        self.batch, self.loss_sum, self.seconds = 0, 0.0, 0.0
        self.save()
        return epoch

    def _tell_of_examples(self) -> None:
        """What was not learned from as it is; each example has been seen by now."""
        for batches in (self.learn, self.test):
            if batches.skipped:
                count, first = len(batches.skipped), next(iter(batches.skipped.values())).message
                examples = "1 example" if count == 1 else f"{count} examples"
                self.progress.note(
                    f"{examples} of {batches.name} left out{'' if count == 1 else ', the first'}: {first}"
                )
            if batches.unknown:
                self._tell_of_unknown(batches)

    def _tell_of_unknown(self, batches: Batches) -> None:
        recipe, count = self.training.recipe, len(batches.unknown)
        names, first = recipe.labels.names, batches.unknown[min(batches.unknown)]
        token = [*unknown_tokens(str(first.input), names), *unknown_tokens(str(first.target), names)][0]
        texts = "1 text" if count == 1 else f"{count} texts"
        self.progress.note(
            f"{texts} of {batches.name} with what {recipe.name} has no token for, such as '{token}' in {first.id}: "
            f"learned as {names[UNKNOWN]}; copy its recipe and write the token into the labels"
        )

    def _checkpointed(self, start: float) -> Iterator[Batch]:
        """The batches that are left of this epoch; a checkpoint between them when it is time."""
        saved, pause = time.monotonic(), self.training.checkpoint_s
        for batch in ahead(self.learn.epoch(len(self.epochs), first=self.batch)):
            yield batch
            self.batch += 1
            if time.monotonic() - saved >= pause and self.batch < len(self.learn):
                begun = time.monotonic()
                self.seconds = begun - start
                self.save()
                saved = time.monotonic()
                # A model of gigabytes is not to spend its time on being written.
                pause = max(pause, RATIO * (saved - begun)) if pause else 0.0

    def _step(self, batch: Batch) -> None:
        module, how = self.training.module, self.training.how
        self.optimizer.zero_grad()
        loss = self.objective.loss(self._outputs(batch), batch)
        number = loss.item()
        if not math.isfinite(number):
            raise self._diverged(number)
        loss.backward()  # type: ignore[no-untyped-call]
        if how.clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), how.clip)
        self.loss_sum += number
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.schedule.step()

    def _outputs(self, batch: Batch) -> Outputs:
        try:
            return outputs_of(self.training.module, batch, self.training.recipe)
        except (RuntimeError, ValueError) as e:
            # PyTorch's way of saying that memory is full, or that batch normalization has but one number to go by.
            reason = str(e).partition("\n")[0]
            raise TrainError(
                f"training {self.training.recipe.name}: the module failed on a batch of {len(batch)}: {reason}",
                hint="take more or fewer examples a step, with --batch",
            ) from e

    def _diverged(self, loss: float) -> TrainError:
        how, lr = self.training.how, self.optimizer.param_groups[0]["lr"]
        clip = "" if how.clip else ", or cut gradients off with --clip 1"
        return TrainError(
            f"training {self.training.recipe.name}: epoch {len(self.epochs) + 1}, batch {self.batch + 1}: expected a "
            f"finite loss, got {loss} at a learning rate of {lr:.3g}",
            hint=f"learn more slowly, with --lr {how.lr / 10:.1g}{clip}",
        )

    def save(self) -> None:
        """Writes the checkpoint."""
        if self.training.checkpoint is None:
            return
        state = {
            "module": self.training.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "epochs": [msgspec.to_builtins(epoch) for epoch in self.epochs],
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
        }
        save_checkpoint(self.training.checkpoint, self.training.identity, state)
        self.is_worth_keeping = bool(self.epochs or self.batch)

    def discard_empty(self) -> None:
        """Removes a checkpoint without a step in it, which would but stand in the way of the next training."""
        if self.training.checkpoint is not None and not self.is_worth_keeping:
            self.training.checkpoint.unlink(missing_ok=True)

    def resume(self) -> None:
        """Puts everything where it was when the checkpoint was written."""
        path = self.training.checkpoint
        assert path is not None
        identity, state = load_checkpoint(path)
        # Another number of epochs is another matter than another training.
        check_identity(path, expected={**self.training.identity, "epochs": identity.get("epochs")}, got=identity)
        self._check_epochs(path, identity["epochs"], begun=len(state["epochs"]) + (state["batch"] > 0))
        try:
            self.training.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        except (KeyError, RuntimeError, ValueError) as e:
            raise TrainError(
                f"checkpoint {path}: expected the tensors of {self.training.recipe.name}, got others: the model has "
                "changed since",
                hint=f"delete {path} to begin anew",
            ) from e
        torch.set_rng_state(state["random"])
        self.epochs[:] = msgspec.convert(state["epochs"], list[Epoch])
        self.batch, self.loss_sum, self.seconds = state["batch"], state["loss_sum"], state["seconds"]
        self.is_worth_keeping = bool(self.epochs or self.batch)

    def _check_epochs(self, path: Path, planned: int, *, begun: int) -> None:
        """Whether a training that was to have ``planned`` epochs can have as many as are wanted now."""
        how = self.training.how
        if how.epochs == planned:
            return
        if how.epochs < begun:
            raise TrainError(
                f"checkpoint {path}: --epochs: expected {begun} at least, as so many are begun, got {how.epochs}",
                hint=f"--epochs {begun}",
            )
        if not knows_no_end(how, batches=min(planned, how.epochs) * len(self.learn)):
            warmup = f" with --warmup {how.warmup}" if how.warmup else ""
            raise TrainError(
                f"checkpoint {path}: --epochs: expected {planned}, as it was begun with, since the schedule "
                f"'{how.schedule}'{warmup} is laid out over all epochs, got {how.epochs}",
                hint="leave out --epochs, and train further with --weights when it has ended; the schedules constant "
                "and inverse-sqrt can be made longer",
            )


def check_identity(path: Path, *, expected: dict[str, Any], got: dict[str, Any]) -> None:
    """Raises `TrainError` where a checkpoint is of another training; names the first thing that differs."""
    for name, value in expected.items():
        if got.get(name) != value:
            raise TrainError(
                f"checkpoint {path}: {name}: expected {value}, got {got.get(name)}: it is of another training",
                hint=f"resume with what the training was begun with, or delete {path} to begin anew",
            )
