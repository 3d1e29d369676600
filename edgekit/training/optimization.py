"""PyTorch optimizers and learning rate schedules, by their names in recipes and on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import lr_scheduler

from edgekit.errors import UsageError
from edgekit.recipe.schema import Train
from edgekit.training.messages import train_argument

__all__ = ["is_extendable", "optimizer_from_train", "schedule_from_train"]

MOMENTUM = 0.9
STEPS, STEP_FACTOR = (0.8, 0.9), 0.1
"""``steps=400000,450000`` of ``max_batches=500200``, and ``scales=.1,.1``, in yolov3.cfg."""

ADAM_BETAS_WITH_WARMUP = (0.9, 0.98)
"""Vaswani et al. 2017 (arXiv:1706.03762), section 5.3."""


def optimizer_from_train(module: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Creates the optimizer for the module's parameters.

    With gradient ``g``, learning rate ``r`` and moving averages ``m, v``:

    ==========  =============================================  ====================================
    sgd         ``w -= r g``                                   Robbins and Monro 1951
    momentum    ``m = 0.9 m + g;  w -= r m``                   Polyak 1964
    adagrad     ``v += g^2;  w -= r g / sqrt v``               Duchi et al. 2011
    rmsprop     ``v = 0.99 v + 0.01 g^2;  w -= r g / sqrt v``  Tieleman and Hinton 2012
    adam        ``m`` of ``g``, ``v`` of ``g^2``, both bias-   Kingma and Ba 2015, arXiv:1412.6980
                corrected: ``w -= r m / sqrt v``
    adamw       adam with decoupled weight decay:              Loshchilov and Hutter 2019, arXiv:1711.05101
                ``w -= r * weight_decay * w``
    ==========  =============================================  ====================================

    Parameters of one dimension (biases, norms) have no weight decay, since they do not add to the model's complexity.
    """
    decaying = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.dim() > 1]
    others = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.dim() <= 1]
    groups = [{"params": decaying, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = ADAM_BETAS_WITH_WARMUP if train.schedule == "inverse-sqrt" else (0.9, 0.999)
    make: dict[str, Callable[[Iterable[dict[str, object]]], torch.optim.Optimizer]] = {
        "sgd": lambda weights: torch.optim.SGD(weights, lr=train.lr, fused=True),
        "momentum": lambda weights: torch.optim.SGD(weights, lr=train.lr, fused=True, momentum=MOMENTUM),
        "adagrad": lambda weights: torch.optim.Adagrad(weights, lr=train.lr, fused=True),
        "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=train.lr),
        "adam": lambda weights: torch.optim.Adam(weights, lr=train.lr, fused=True, betas=betas),
        "adamw": lambda weights: torch.optim.AdamW(weights, lr=train.lr, fused=True, betas=betas),
    }
    return make[train.optimizer]([group for group in groups if group["params"]])


def is_extendable(train: Train, *, batches: int) -> bool:
    """Whether the learning rates of the first ``batches`` batches do not depend on the total number of batches."""
    return train.schedule in ("constant", "inverse-sqrt") and train.warmup < batches


def schedule_from_train(optimizer: torch.optim.Optimizer, train: Train, *, batches: int) -> lr_scheduler.LRScheduler:
    """Creates the learning rate schedule, updated every batch.

    - ``constant``: no change.
    - ``step``: a tenth after 80 % of all batches, a hundredth after 90 %.
    - ``cosine``: ``r/2 (1 + cos(pi t / T))``, down to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983).
    - ``onecycle``: rises for 30 % of the batches, then falls to nearly 0; the momentum does the opposite
      (Smith and Topin 2018, arXiv:1708.07120). It includes its own warmup.
    - ``inverse-sqrt``: rises for ``warmup`` batches, then ``r sqrt(warmup / t)`` (Vaswani et al. 2017, equation 3).

    The first three start with ``warmup`` batches of linear warmup.

    Args:
        optimizer: the optimizer to schedule.
        train: the training options.
        batches: number of batches in all epochs, ``T``.

    Raises:
        UsageError: there are too few batches for the schedule.
    """
    if train.schedule == "onecycle":
        if batches < 2:
            raise UsageError(
                f"{train_argument('schedule', 'onecycle')}: expected at least 2 batches in all epochs, to rise "
                f"and to fall, got {batches}",
                hint=f"use more {train_argument('epochs')}, a smaller {train_argument('batch')}, or "
                f"{train_argument('schedule', 'constant')}",
            )
        momentum = train.optimizer in ("momentum", "adam", "adamw")
        return lr_scheduler.OneCycleLR(optimizer, train.lr, total_steps=batches, cycle_momentum=momentum)
    warmup = min(train.warmup, batches - 1)
    rest = batches - warmup
    make: dict[str, Callable[[], lr_scheduler.LRScheduler]] = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "step": lambda: lr_scheduler.MultiStepLR(optimizer, [round(rest * part) for part in STEPS], STEP_FACTOR),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest),
        "inverse-sqrt": lambda: lr_scheduler.LambdaLR(
            optimizer, lambda t: math.sqrt(max(1, warmup) / (max(1, warmup) + t))
        ),
    }
    if not warmup:
        return make[train.schedule]()
    warmup_schedule = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [warmup_schedule, make[train.schedule]()], milestones=[warmup])
