from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.data.examples import Example, data_set
from edgekit.errors import DataError, TrainError, UsageError
from edgekit.models.cfg.recipe import recipe_from_cfg
from edgekit.models.factory import module_from_recipe
from edgekit.models.weights.read import load_weights
from edgekit.recipe.schema import Train, load_recipe
from edgekit.training.batches import Batches
from edgekit.training.checkpoint import save_checkpoint
from edgekit.training.fit import Epoch, Training, fit
from edgekit.training.train import checkpoint_of, train_model

# Everything that keeps state between batches: momentum, moving averages, a schedule with a warm-up,
# batch normalization, dropout, augmentation.
RUNS = {
    "lenet": ("digits", Train(optimizer="momentum", lr=0.02, schedule="onecycle", epochs=3, batch=4)),
    "yolov3-tiny-scenes": (
        "scenes",
        Train(optimizer="adamw", schedule="step", epochs=2, batch=3, clip=10.0, augment=("scale", "color", "mosaic")),
    ),
    "transformer-tiny": (
        "spelling",
        Train(optimizer="adam", schedule="inverse-sqrt", warmup=3, epochs=2, batch=3, label_smoothing=0.1),
    ),
}


class Interrupt(Exception):
    pass


class Interrupting:
    """A progress that exits the program after a number of batches."""

    def __init__(self, batches: int, end: Callable[[], None]) -> None:
        self._left, self._end = batches, end

    @contextmanager
    def stage(self, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
        yield self._advance if unit == "batches" else lambda amount: None

    def note(self, text: str) -> None:
        return None

    def _advance(self, amount: float) -> None:
        self._left -= int(amount)
        if self._left == 0:
            self._end()


def raise_interrupt() -> None:
    raise Interrupt


def training(name: str, few: Any, checkpoint: Path | None = None, **changes: Any) -> Training:
    source, how = RUNS[name]
    recipe = load_recipe(name)
    examples = few(source)
    return Training(
        recipe=recipe,
        module=module_from_recipe(recipe),
        train_set=examples,
        test_set=examples,
        options=how,
        checkpoint=checkpoint,
        checkpoint_s=0,
        **changes,
    )


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def without_time(epochs: list[Epoch]) -> list[tuple[float, float, float, dict[str, float]]]:
    return [(epoch.lr, epoch.loss, epoch.test_loss, epoch.figures) for epoch in epochs]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("batches", [2, 5])
def test_resumed_training_gives_the_same_weights_as_uninterrupted_training(
    few: Any, tmp_path: Path, name: str, batches: int
) -> None:
    whole = training(name, few)
    expected = fit(whole)

    with pytest.raises(Interrupt):
        fit(training(name, few, tmp_path / "c"), progress=Interrupting(batches, raise_interrupt))
    resumed = training(name, few, tmp_path / "c")
    told: list[Epoch] = []
    got = fit(resumed, resume=True, on_epoch=told.append)

    assert same_bits(whole.module, resumed.module)
    assert without_time(got) == without_time(expected)
    assert told == got


@pytest.mark.parametrize(("schedule", "warmup"), [("constant", 0), ("constant", 2), ("inverse-sqrt", 2)])
def test_training_can_be_extended_if_its_schedule_is_extendable(
    few: Any, tmp_path: Path, schedule: str, warmup: int
) -> None:
    def lenet(epochs: int, checkpoint: Path | None = None) -> Training:
        how: Any = {"schedule": schedule, "warmup": warmup, "epochs": epochs}
        how = Train(optimizer="momentum", lr=0.02, batch=4, **how)
        return dataclasses.replace(training("lenet", few, checkpoint), options=how)

    whole, longer = lenet(4), lenet(4, tmp_path / "c")
    expected = fit(whole)
    with pytest.raises(Interrupt):
        fit(lenet(2, tmp_path / "c"), progress=Interrupting(5, raise_interrupt))
    assert without_time(fit(longer, resume=True)) == without_time(expected)
    assert same_bits(whole.module, longer.module)


@pytest.mark.parametrize(("schedule", "warmup"), [("cosine", 0), ("step", 0), ("onecycle", 0), ("constant", 8)])
def test_error_on_more_epochs_for_a_schedule_that_depends_on_their_number(
    few: Any, tmp_path: Path, schedule: str, warmup: int
) -> None:
    def lenet(epochs: int) -> Training:
        how = Train(schedule=schedule, warmup=warmup, epochs=epochs, batch=4)  # type: ignore[arg-type]
        return dataclasses.replace(training("lenet", few, tmp_path / "c"), options=how)

    with pytest.raises(Interrupt):
        fit(lenet(2), progress=Interrupting(2, raise_interrupt))
    with pytest.raises(
        TrainError,
        match=rf"changes\['epochs'\]: expected 2, .* the schedule '{schedule}'.* depends on the number of epochs",
    ):
        fit(lenet(4), resume=True)


def test_error_on_fewer_epochs_than_are_begun(few: Any, tmp_path: Path) -> None:
    run = dataclasses.replace(
        training("lenet", few, tmp_path / "c"), options=Train(schedule="constant", epochs=3, batch=4)
    )
    with pytest.raises(Interrupt):
        fit(run, progress=Interrupting(5, raise_interrupt))
    shorter = dataclasses.replace(run, options=Train(schedule="constant", epochs=1, batch=4))
    with pytest.raises(
        TrainError, match=r"changes\['epochs'\]: expected at least 2, the number of epochs begun, got 1"
    ):
        fit(shorter, resume=True)


def test_error_on_a_checkpoint_of_a_changed_network(few: Any, tmp_path: Path) -> None:
    run = training("lenet", few, tmp_path / "c")
    with pytest.raises(Interrupt):
        fit(run, progress=Interrupting(2, raise_interrupt))
    with pytest.raises(TrainError, match="expected the tensors of lenet, got others"):
        fit(dataclasses.replace(run, module=OnePixel()), resume=True)


def test_a_detector_without_class_names_is_trained(few: Any, tmp_path: Path) -> None:
    conv = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n\n"
    for classes, kind in ((10, "digits"), (2, "two")):
        (tmp_path / f"{kind}.cfg").write_text(
            f"[net]\nwidth=64\nheight=64\nchannels=3\n\n{conv * 3}[convolutional]\nfilters={2 * (5 + classes)}\n"
            f"size=1\nactivation=linear\n\n[yolo]\nclasses={classes}\nnum=2\nmask=0,1\nanchors=8,12,16,24\n"
        )
    examples = few("scenes", 4)

    def of(kind: str) -> Training:
        recipe = recipe_from_cfg(tmp_path / f"{kind}.cfg")
        module = module_from_recipe(recipe)
        return Training(
            recipe=recipe, module=module, train_set=examples, test_set=examples, options=Train(epochs=1, batch=2)
        )

    (epoch,) = fit(of("digits"))
    assert list(epoch.figures) == ["map50", "map50_95"]
    with pytest.raises(DataError, match="expected class indices from 0 to 1, as the model has 2 classes, got [2-9]"):
        fit(of("two"))


def test_other_seeds_give_other_weights(few: Any) -> None:
    first, second = training("lenet", few), training("lenet", few, seed=1)
    fit(first)
    fit(second)
    assert not same_bits(first.module, second.module)


def test_training_keeps_the_global_random_state(few: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(training("transformer-tiny", few))
    torch.testing.assert_close(torch.rand(3), expected)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import torch
from test_fit import Interrupting
from edgekit.training.train import train_model
torch.set_num_threads(1)
train_model(
    "lenet", data="digits", output=sys.argv[1], changes={"epochs": 2, "batch": 256}, checkpoint_s=0,
    progress=Interrupting(8, lambda: os.kill(os.getpid(), signal.SIGKILL)),
)
"""


def test_training_killed_by_kill_9_resumes_to_the_same_file(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    changes = {"epochs": 2, "batch": 256}
    train_model("lenet", data="digits", output=whole, changes=changes)

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(killed), str(Path(__file__).parent)], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not killed.exists()
    with pytest.raises(UsageError, match="expected no checkpoint, got one of an unfinished training"):
        train_model("lenet", data="digits", output=killed)
    train_model("lenet", output=killed, resume=True)

    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.safetensors", "whole.safetensors"]


def test_a_classifier_learns_digits(tmp_path: Path) -> None:
    trained = train_model(
        "lenet",
        data="digits",
        output=tmp_path / "lenet.safetensors",
        changes={"epochs": 4, "lr": 0.003, "optimizer": "adam", "schedule": "onecycle", "batch": 32},
    )
    file, epochs = trained.weights, trained.epochs
    assert epochs[-1].figures["accuracy"] > 0.95
    module = module_from_recipe(load_recipe("lenet"))
    load_weights(module, file)
    examples = data_set("digits", split="test")
    batch = next(Batches(examples, load_recipe("lenet"), size=len(examples)).in_order())
    with torch.inference_mode():
        right = module(*batch.inputs).argmax(dim=1) == batch.targets
    assert right.float().mean().item() == pytest.approx(epochs[-1].figures["accuracy"])


def test_a_detector_overfits_one_scene(few: Any) -> None:
    recipe = load_recipe("yolov3-tiny-scenes")
    examples = few("scenes", 2)
    how = Train(optimizer="adam", lr=0.005, schedule="onecycle", epochs=40, batch=2)
    last = fit(
        Training(recipe=recipe, module=module_from_recipe(recipe), train_set=examples, test_set=examples, options=how)
    )[-1]
    assert last.figures["map50"] > 0.9


def test_a_regression_finds_the_least_squares(few: Any) -> None:
    random = np.random.default_rng(0)
    recipe = load_recipe("linear-regression")
    features = recipe.inputs[0].shape[1]
    rows = random.standard_normal((64, features)).astype(np.float32)
    targets = (rows @ random.standard_normal((features, 1)) + 2).astype(np.float32)
    found = few("digits", 1)
    examples = type(found)(
        "rows", "regress", (), [Example(str(i), r, t) for i, (r, t) in enumerate(zip(rows, targets, strict=True))]
    )
    how = Train(optimizer="momentum", lr=0.02, schedule="cosine", epochs=60, batch=16)
    last = fit(
        Training(recipe=recipe, module=module_from_recipe(recipe), train_set=examples, test_set=examples, options=how)
    )[-1]
    assert last.figures["r2"] > 0.99
    assert list(last.figures)[0] == "mse"


def test_error_on_a_loss_that_is_not_finite(few: Any) -> None:
    run = training("lenet", few)
    with torch.no_grad():
        next(run.module.parameters()).fill_(math.nan)
    with pytest.raises(
        TrainError, match=r"training lenet: epoch 1, batch 1: expected a finite loss, got nan at a learning rate of"
    ) as raised:
        fit(run)
    assert "changes={'lr': 0.002}" in raised.value.hint
    assert "changes={'clip': 1}" in raised.value.hint


class OnePixel(nn.Module):
    """Batch normalization of one value per channel, which PyTorch cannot train."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm2d(1)
        self.full = nn.Linear(1, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.full(self.norm(self.pool(x)).flatten(1))
        return y


def test_error_on_a_batch_too_small_for_its_norm(few: Any) -> None:
    examples = few("digits", 2)
    how = Train(epochs=1, batch=1)
    with pytest.raises(
        TrainError, match="training lenet: the module failed on a batch of 1: Expected more than 1 value"
    ):
        fit(
            Training(recipe=load_recipe("lenet"), module=OnePixel(), train_set=examples, test_set=examples, options=how)
        )


def test_error_on_a_checkpoint_of_another_model(few: Any, tmp_path: Path) -> None:
    with pytest.raises(Interrupt):
        fit(training("lenet", few, tmp_path / "c"), progress=Interrupting(2, raise_interrupt))
    with pytest.raises(TrainError, match="model: expected transformer-tiny, got lenet in the checkpoint"):
        fit(training("transformer-tiny", few, tmp_path / "c"), resume=True)


def test_error_on_a_checkpoint_with_another_learning_rate(tmp_path: Path) -> None:
    file = tmp_path / "lenet.safetensors"
    with pytest.raises(Interrupt):
        train_model(
            "lenet",
            data="digits",
            output=file,
            changes={"batch": 512},
            checkpoint_s=0,
            progress=Interrupting(2, raise_interrupt),
        )
    with pytest.raises(TrainError, match=r"lr: expected 0.5, got 0.\d+ in the checkpoint"):
        train_model("lenet", output=file, resume=True, changes={"lr": 0.5})
    assert checkpoint_of(file).exists()


def test_error_on_a_file_that_is_not_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "lenet.safetensors"
    with pytest.raises(TrainError, match="expected a checkpoint to resume from, got no such file"):
        train_model("lenet", output=file, resume=True)
    checkpoint_of(file).write_bytes(b"no checkpoint")
    with pytest.raises(TrainError, match="expected a checkpoint written by `edgekit train`"):
        train_model("lenet", output=file, resume=True)
    torch.save({"format": 99}, checkpoint_of(file))
    with pytest.raises(TrainError, match="expected format 1, got 99"):
        train_model("lenet", output=file, resume=True)


STATE = {"module": {}, "optimizer": {}, "schedule": {}, "random": torch.zeros(3, dtype=torch.uint8)}
STATE |= {"epochs": [], "batch": 0, "loss_sum": 0.0, "seconds": 0.0}
IDENTITY = {"model": "lenet", "arguments": "[('classes', 10)]", "source": "digits", "examples": 1437, "seed": 0}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "whose identity has no 'model' of the right type"),
        ({"identity": 3, "state": []}, "whose identity has no 'model' of the right type"),
        ({"identity": {"model": ["lenet"]}}, "whose identity has no 'model' of the right type"),
        ({"identity": IDENTITY, "state": {}}, "whose state has no 'module' of the right type"),
        ({"identity": {**IDENTITY, "lr": "fast"}, "state": STATE}, "expected the options of a training, got: Expected"),
    ],
)
def test_error_on_a_checkpoint_that_lacks_something(content: dict[str, object], says: str, tmp_path: Path) -> None:
    file = tmp_path / "lenet.safetensors"
    torch.save({"format": 1, **content}, checkpoint_of(file))
    with pytest.raises(TrainError, match=says):
        train_model("lenet", output=file, resume=True)


@pytest.mark.parametrize("part", ["module", "optimizer", "random", "epochs"])
def test_error_on_a_checkpoint_of_another_state(part: str, few: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    with pytest.raises(Interrupt):
        fit(training("lenet", few, checkpoint), progress=Interrupting(2, raise_interrupt))
    content = torch.load(checkpoint, weights_only=True)
    content["state"][part] = {"epochs": [{"a": 1}], "random": torch.zeros(3)}.get(part, {"a": 1})
    torch.save(content, checkpoint)
    with pytest.raises(TrainError, match="expected the tensors of lenet, got others"):
        fit(training("lenet", few, checkpoint), resume=True)


def test_error_on_a_full_disk_says_so() -> None:
    with pytest.raises(TrainError, match="cannot write /dev/full: No space left on device"):
        save_checkpoint(Path("/dev/full"), {}, {"module": torch.zeros(1 << 16)})


def test_error_on_an_unwritable_path_comes_before_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="cannot write"):
        train_model("lenet", data="digits", output=tmp_path / "file" / "lenet.safetensors")


def test_error_on_a_model_that_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a model whose task is detect, classify, regress or translate"):
        train_model("self-attention", data="digits", output=tmp_path / "x.safetensors")


def test_error_on_an_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown option 'learning_rate'"):
        train_model("lenet", data="digits", output=tmp_path / "x.safetensors", changes={"learning_rate": 1})
    with pytest.raises(UsageError, match=r"changes\['lr'\]: expected a finite number, got nan"):
        train_model("lenet", data="digits", output=tmp_path / "x.safetensors", changes={"lr": math.nan})
    with pytest.raises(UsageError, match="expected a name that ends in .safetensors, got '.pt'"):
        train_model("lenet", data="digits", output=tmp_path / "x.pt")
