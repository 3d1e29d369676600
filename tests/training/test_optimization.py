from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgekit.recipe.schema import Train
from edgekit.training.optimization import optimizer_from_train, schedule_from_train

OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "onecycle", "inverse-sqrt")


def rates(train: Train, batches: int) -> list[float]:
    """The learning rate of each batch."""
    optimizer = optimizer_from_train(nn.Linear(3, 2), train)
    schedule = schedule_from_train(optimizer, train, batches=batches)
    seen = []
    for _ in range(batches):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 4])
def test_every_optimizer_works_with_every_schedule_to_the_last_batch(
    optimizer: str, schedule: str, warmup: int
) -> None:
    seen = rates(Train(optimizer=optimizer, schedule=schedule, lr=0.1, warmup=warmup), 20)  # type: ignore[arg-type]
    assert max(seen) == pytest.approx(0.1, rel=0.02)
    assert min(seen) > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_finds_the_least_squares(optimizer: str) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=random)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
    lr = {"sgd": 0.1, "momentum": 0.03, "adagrad": 0.5, "rmsprop": 0.01}.get(optimizer, 0.03)
    module = nn.Linear(3, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    found = optimizer_from_train(module, Train(optimizer=optimizer, lr=lr))  # type: ignore[arg-type]
    for _ in range(500):
        found.zero_grad()
        loss = (module(x) - y).square().mean()
        loss.backward()
        found.step()
    assert loss.item() < 1e-3


def test_step_falls_to_a_tenth_then_to_a_hundredth() -> None:
    seen = rates(Train(schedule="step", lr=1.0), 20)
    assert seen == pytest.approx([1.0] * 16 + [0.1] * 2 + [0.01] * 2)


def test_cosine_matches_its_formula() -> None:
    seen = rates(Train(schedule="cosine", lr=2.0), 10)
    assert seen == pytest.approx([1 + math.cos(math.pi * t / 10) for t in range(10)])


def test_inverse_sqrt_matches_the_transformer_schedule() -> None:
    warmup = 5
    seen = rates(Train(schedule="inverse-sqrt", lr=1.0, warmup=warmup), 30)
    assert seen[:warmup] == pytest.approx([(t + 1) / (warmup + 1) for t in range(warmup)])
    assert seen[warmup:] == pytest.approx([math.sqrt(warmup / t) for t in range(warmup, 30)])


def test_biases_and_norms_do_not_decay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decaying, others = optimizer_from_train(module, Train(optimizer="adamw", weight_decay=0.1)).param_groups
    assert [parameter.dim() for parameter in decaying["params"]] == [4]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(others["params"]) == 3
