"""The training loop: optimizer steps, an evaluation after each epoch, and periodic checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edgekit.arguments import argument
from edgekit.data.examples import DataSet
from edgekit.data.vocabulary import UNKNOWN, unknown_tokens
from edgekit.errors import TrainError
from edgekit.progress import Progress, Warnings
from edgekit.recipe.schema import Recipe, Train
from edgekit.training.batches import Batch, Batches, prefetched
from edgekit.training.checkpoint import load_checkpoint, save_checkpoint
from edgekit.training.messages import train_argument
from edgekit.training.objectives import Objective, Outputs, objective_from_recipe
from edgekit.training.optimization import is_extendable, optimizer_from_train, schedule_from_train
from edgekit.training.threads import fastest_threads, restored_threads

__all__ = ["Epoch", "Training", "evaluate", "fit", "has_steps"]

CHECKPOINT_S = 30.0
CHECKPOINT_RATIO = 20.0
"""Minimum time between two checkpoints, as a multiple of the time to write one."""

FORMAT = torch.channels_last
"""Channels last, which makes convolutions up to twice as fast on a CPU."""


class Epoch(msgspec.Struct, frozen=True):
    """Results of one epoch.

    Attributes:
        epoch: epoch number, from 1.
        lr: learning rate of the last batch.
        loss: mean training loss, computed during the epoch.
        test_loss: mean loss over the test set, computed after the epoch.
        figures: metrics on the test set (accuracy, mean average precision, ...), the most important first.
        seconds: duration, including the evaluation.
        threads: number of threads; 0 if a checkpoint without the number ends in this epoch.
    """

    epoch: int
    lr: float
    loss: float
    test_loss: float
    figures: dict[str, float]
    seconds: float
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training job: model, data and options.

    Attributes:
        recipe: defines inputs and outputs.
        module: the module with its initial weights; trained in place.
        train_set: the training examples.
        test_set: the evaluation examples.
        options: optimizer, schedule and other options.
        seed: random seed for the order of examples, augmentation and dropout.
        source: the data set argument, as given.
        column: the target column of a table, if one was named.
        checkpoint: checkpoint file; none is written if None.
        checkpoint_s: seconds between checkpoints within an epoch; one is always written after each epoch.
        threads: number of threads; 0 takes the number of the checkpoint, or the one that `fastest_threads` measures.
    """

    recipe: Recipe
    module: nn.Module
    train_set: DataSet
    test_set: DataSet
    options: Train
    seed: int = 0
    source: str = ""
    column: str | None = None
    checkpoint: Path | None = None
    checkpoint_s: float = CHECKPOINT_S
    threads: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """Values that must match for a checkpoint to belong to this training job."""
        return {
            "model": self.recipe.name,
            "arguments": repr(sorted(self.recipe.model.arguments.items())),
            "source": self.source,
            **({} if self.column is None else {"column": self.column}),
            "examples": len(self.train_set),
            "seed": self.seed,
            **msgspec.to_builtins(self.options),
        }


def fit(
    training: Training,
    *,
    resume: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    progress: Progress | None = None,
) -> list[Epoch]:
    """Trains the module in place.

    Resumed training gives bit-identical weights to uninterrupted training, on the same processor with the same number
    of threads and the same library versions. Training that fails before the first saved step leaves no checkpoint.

    Args:
        training: the training job.
        resume: resume from the checkpoint.
        on_epoch: called after each epoch, and for the epochs before the checkpoint.
        progress: receives the progress of each batch.

    Returns:
        All epochs.

    Raises:
        TrainError: the loss is not finite, or the checkpoint is of another training job.
        DataError: the data set is empty, or an example does not fit the model.
        UsageError: the model's task cannot be trained, or an option does not apply to it.
    """
    with torch.random.fork_rng(devices=[]), restored_threads():
        torch.manual_seed(training.seed)
        run = _Run(training, progress or Warnings())
        if resume:
            run.resume()
        else:
            run.save()  # fails now, not after an hour, if the file cannot be written
        try:
            run.set_threads()
            for epoch in run.epochs:
                on_epoch(epoch)
            while len(run.epochs) < training.options.epochs:
                on_epoch(run.one_epoch())
        except BaseException:
            run.discard_empty()
            raise
    training.module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return run.epochs


def has_steps(checkpoint: Path) -> bool:
    """Whether a checkpoint contains completed steps; True if it cannot be read."""
    try:
        _, state = load_checkpoint(checkpoint)
    except TrainError:
        return True
    return bool(state["epochs"] or state["batch"])


@torch.no_grad()
def evaluate(
    module: nn.Module, batches: Batches, objective: Objective, recipe: Recipe
) -> tuple[float, dict[str, float]]:
    """Computes the mean loss over all examples, and the metrics; leaves the module in eval mode."""
    module.eval()
    total = count = 0.0
    for batch in prefetched(batches.in_order()):
        outputs = outputs_of(module, batch, recipe)
        total += objective.loss(outputs, batch).item() * len(batch)
        count += len(batch)
        objective.add(outputs, batch)
    return total / count, objective.figures()


def outputs_of(module: nn.Module, batch: Batch, recipe: Recipe) -> Outputs:
    """Runs the module on a batch and returns its outputs by name."""
    result = module(*(x.contiguous(memory_format=FORMAT) if x.dim() == 4 else x for x in batch.inputs))
    tensors = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    return dict(zip(recipe.outputs, tensors, strict=True))


@dataclass
class _Run:
    """The mutable state of a training run, which a checkpoint saves."""

    training: Training
    progress: Progress
    epochs: list[Epoch] = field(default_factory=list, init=False)
    batch: int = field(default=0, init=False)
    loss_sum: float = field(default=0.0, init=False)
    lr: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)
    threads: int = field(default=0, init=False)
    is_worth_keeping: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        training = self.training
        options, recipe = training.options, training.recipe
        self.objective = objective_from_recipe(recipe, options)
        self.train_set = Batches(
            training.train_set, recipe, size=options.batch, seed=training.seed, augment=options.augment
        )
        self.test_set = Batches(training.test_set, recipe, size=options.batch)
        training.module.to(memory_format=FORMAT)  # type: ignore[call-overload]
        self.optimizer = optimizer_from_train(training.module, options)
        self.schedule = schedule_from_train(self.optimizer, options, batches=options.epochs * len(self.train_set))

    def set_threads(self) -> None:
        """Sets PyTorch's number of threads: the caller's, that of the checkpoint, or the fastest."""
        self.threads = self.training.threads or self.threads
        if self.threads:
            torch.set_num_threads(self.threads)
            return
        with self.progress.stage("choosing the number of threads"), torch.random.fork_rng(devices=[]):
            module = copy.deepcopy(self.training.module).train()
            batches = prefetched(self._endless())

            def step() -> None:
                batch = next(batches)
                self.objective.loss(self._outputs(batch, module), batch).backward()  # type: ignore[no-untyped-call]

            self.threads = fastest_threads(step)
            batches.close()

    def _endless(self) -> Iterator[Batch]:
        while True:
            yield from self.train_set.epoch(0)

    def one_epoch(self) -> Epoch:
        """Trains on the remaining batches of an epoch, then evaluates."""
        training, number = self.training, len(self.epochs) + 1
        start = time.monotonic() - self.seconds
        title = f"epoch {number}/{training.options.epochs}"
        with self.progress.stage(title, total=len(self.train_set), unit="batches") as advance:
            advance(self.batch)
            training.module.train()
            for batch in self._checkpointed(start):
                self._step(batch)
                advance(1)
        loss = self.loss_sum / len(self.train_set)
        with self.progress.stage(f"evaluating on {self.test_set.name}"):
            test_loss, figures = evaluate(training.module, self.test_set, self.objective, training.recipe)
        if number == 1:
            self._report_examples()
        epoch = Epoch(number, self.lr, loss, test_loss, figures, time.monotonic() - start, self.threads)
        self.epochs.append(epoch)
        self.batch, self.loss_sum, self.seconds = 0, 0.0, 0.0
        self.save()
        return epoch

    def _report_examples(self) -> None:
        """Reports skipped examples and unknown tokens, once all examples have been read."""
        for batches in (self.train_set, self.test_set):
            if batches.skipped:
                count, first = len(batches.skipped), next(iter(batches.skipped.values())).message
                examples = "1 example" if count == 1 else f"{count} examples"
                self.progress.note(
                    f"skipped {examples} of {batches.name}{'' if count == 1 else ', the first'}: {first}"
                )
            if batches.unknown:
                self._report_unknown(batches)

    def _report_unknown(self, batches: Batches) -> None:
        recipe, count = self.training.recipe, len(batches.unknown)
        names, first = recipe.labels.names, batches.unknown[min(batches.unknown)]
        token = [*unknown_tokens(str(first.input), names), *unknown_tokens(str(first.target), names)][0]
        texts = "1 text" if count == 1 else f"{count} texts"
        self.progress.note(
            f"{texts} of {batches.name} with tokens that {recipe.name} does not have, such as '{token}' in {first.id}: "
            f"replaced by {names[UNKNOWN]}; to add the token, copy the recipe and extend its labels"
        )

    def _checkpointed(self, start: float) -> Iterator[Batch]:
        """Yields the remaining batches of this epoch, and writes checkpoints between them."""
        saved, pause = time.monotonic(), self.training.checkpoint_s
        for batch in prefetched(self.train_set.epoch(len(self.epochs), first=self.batch)):
            yield batch
            self.batch += 1
            if time.monotonic() - saved >= pause and self.batch < len(self.train_set):
                begun = time.monotonic()
                self.seconds = begun - start
                self.save()
                saved = time.monotonic()
                # Limits the share of the time that a large model spends on writing checkpoints.
                pause = max(pause, CHECKPOINT_RATIO * (saved - begun)) if pause else 0.0

    def _step(self, batch: Batch) -> None:
        module, options = self.training.module, self.training.options
        self.optimizer.zero_grad()
        loss = self.objective.loss(self._outputs(batch, module), batch)
        number = loss.item()
        if not math.isfinite(number):
            raise self._diverged(number)
        loss.backward()  # type: ignore[no-untyped-call]
        if options.clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), options.clip)
        self.loss_sum += number
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.schedule.step()

    def _outputs(self, batch: Batch, module: nn.Module) -> Outputs:
        try:
            return outputs_of(module, batch, self.training.recipe)
        except (RuntimeError, ValueError) as e:
            # PyTorch raises these if memory is full, or if batch normalization gets only one value per channel.
            reason = str(e).partition("\n")[0]
            raise TrainError(
                f"training {self.training.recipe.name}: the module failed on a batch of {len(batch)}: {reason}",
                hint=f"change the number of examples per step with {train_argument('batch')}",
            ) from e

    def _diverged(self, loss: float) -> TrainError:
        options, lr = self.training.options, self.optimizer.param_groups[0]["lr"]
        clip = "" if options.clip else f", or clip gradients with {train_argument('clip', 1)}"
        return TrainError(
            f"training {self.training.recipe.name}: epoch {len(self.epochs) + 1}, batch {self.batch + 1}: expected a "
            f"finite loss, got {loss} at a learning rate of {lr:.3g}",
            hint=f"lower the learning rate with {train_argument('lr', float(f'{options.lr / 10:.1g}'))}{clip}",
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
            "threads": self.threads,
        }
        save_checkpoint(self.training.checkpoint, self.training.identity, state)
        self.is_worth_keeping = bool(self.epochs or self.batch)

    def discard_empty(self) -> None:
        """Removes a checkpoint without completed steps, which would only block the next training."""
        if self.training.checkpoint is not None and not self.is_worth_keeping:
            self.training.checkpoint.unlink(missing_ok=True)

    def resume(self) -> None:
        """Restores the state from the checkpoint."""
        path = self.training.checkpoint
        assert path is not None
        identity, state = load_checkpoint(path)
        # A different number of epochs is allowed under conditions; `_check_epochs` checks them.
        check_identity(path, expected={**self.training.identity, "epochs": identity.get("epochs")}, got=identity)
        self._check_epochs(path, identity["epochs"], begun=len(state["epochs"]) + (state["batch"] > 0))
        try:
            self.training.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"])
            self.epochs[:] = msgspec.convert(state["epochs"], list[Epoch])
        except Exception as e:  # PyTorch raises almost any error on a state of another form
            raise TrainError(
                f"checkpoint {path}: expected the tensors of {self.training.recipe.name}, got others, since the "
                "model has changed or the file is damaged",
                hint=f"delete {path} to start over",
            ) from e
        self.batch, self.loss_sum, self.seconds = state["batch"], state["loss_sum"], state["seconds"]
        self.threads = state["threads"]
        self.is_worth_keeping = bool(self.epochs or self.batch)

    def _check_epochs(self, path: Path, planned: int, *, begun: int) -> None:
        """Checks whether training that was planned for ``planned`` epochs can change to the requested number."""
        options = self.training.options
        if options.epochs == planned:
            return
        if options.epochs < begun:
            raise TrainError(
                f"checkpoint {path}: {train_argument('epochs')}: expected at least {begun}, the number of epochs "
                "begun, "
                f"got {options.epochs}",
                hint=train_argument("epochs", begun),
            )
        if not is_extendable(options, batches=min(planned, options.epochs) * len(self.train_set)):
            warmup = f" with {train_argument('warmup', options.warmup)}" if options.warmup else ""
            raise TrainError(
                f"checkpoint {path}: {train_argument('epochs')}: expected {planned}, as at the start, since the "
                "schedule "
                f"'{options.schedule}'{warmup} depends on the number of epochs, got {options.epochs}",
                hint=f"omit {train_argument('epochs')}, and continue with {argument('weights')} after the last "
                "epoch; only the schedules constant and "
                "inverse-sqrt can be extended",
            )


def check_identity(path: Path, *, expected: dict[str, Any], got: dict[str, Any]) -> None:
    """Raises `TrainError` if a checkpoint is of another training job; names the first difference."""
    for name, value in expected.items():
        if got.get(name) != value:
            raise TrainError(
                f"checkpoint {path}: {name}: expected {value}, got {got.get(name)} in the checkpoint",
                hint=f"resume with the original options, or delete {path} to start over",
            )
