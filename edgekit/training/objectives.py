"""The loss and the metrics of each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from edgekit.data.examples import Boxes
from edgekit.data.vocabulary import PAD
from edgekit.errors import DataError, UsageError
from edgekit.evaluation.metrics import (
    MAX_DETECTIONS,
    AveragePrecision,
    FoundBoxes,
    ranks,
    regression_figures,
    require_pycocotools,
    share,
)
from edgekit.kernels.decode.families import decode
from edgekit.kernels.decode.layout import layout
from edgekit.kernels.suppression.suppress import nms
from edgekit.recipe.heads import CellHeads, YoloV1, YoloV2
from edgekit.recipe.schema import Postprocess, Recipe, Train
from edgekit.training.batches import Batch
from edgekit.training.losses import mean_squared_error, sequence_cross_entropy, softmax_cross_entropy
from edgekit.training.messages import train_argument
from edgekit.training.yolo_loss import IGNORED_V2, Truth, assign_anchors, yolov2_loss, yolov3_loss
from edgekit.training.yolov1_loss import assign_cells, yolov1_loss

__all__ = ["Objective", "Outputs", "objective_from_recipe"]

Outputs = Mapping[str, torch.Tensor]

MIN_SCORE = 0.01
"""Minimum score of evaluated boxes: the many boxes below it have almost no effect on mean average precision."""


class Objective(Protocol):
    """The loss of a task, and its metrics over a data set, accumulated batch by batch."""

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Computes the training loss, a scalar of shape ``()``."""
        ...

    def add(self, outputs: Outputs, batch: Batch) -> None:
        """Adds a batch to the metrics."""
        ...

    def figures(self) -> dict[str, float]:
        """Computes the metrics of all batches since the last call, the most important first."""
        ...


def objective_from_recipe(recipe: Recipe, train: Train) -> Objective:
    """Creates the objective for a recipe's task.

    Raises:
        UsageError: the task cannot be trained, or an option does not apply to it.
        BackendUnavailable: the task is detection, and pycocotools is not installed.
    """
    if recipe.task == "classify":
        return _Classify(recipe.outputs[0], train.label_smoothing)
    if recipe.task == "regress":
        _check_label_smoothing(recipe, train)
        return _Regress(recipe.outputs[0])
    if recipe.task == "translate":
        return _Translate(recipe.outputs[0], train.label_smoothing)
    if recipe.postprocess is not None and isinstance(recipe.postprocess.head, CellHeads):
        _check_label_smoothing(recipe, train)
        height, width = recipe.inputs[0].shape[2:4]
        return _Detect(recipe.postprocess, (height, width))
    raise UsageError(
        f"training {recipe.name}: expected a model whose task is detect, classify, regress or translate, got "
        f"'{recipe.task}'"
    )


def _check_label_smoothing(recipe: Recipe, train: Train) -> None:
    if train.label_smoothing:
        raise UsageError(
            f"{train_argument('label_smoothing')}: expected 0 for {recipe.name}, whose task is '{recipe.task}', "
            "since it only applies "
            f"to classes and tokens, got {train.label_smoothing:g}",
            hint=train_argument("label_smoothing", 0),
        )


class _Classify:
    def __init__(self, output: str, label_smoothing: float) -> None:
        self._output, self._label_smoothing = output, label_smoothing
        self._ranks: list[np.ndarray] = []

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        assert isinstance(batch.targets, torch.Tensor)
        logits = outputs[self._output]
        if int(batch.targets.max()) >= logits.shape[1]:
            wrong = batch.examples[int(batch.targets.argmax())]
            raise DataError(f"{wrong.id}: expected one of the model's {logits.shape[1]} classes, got {wrong.target}")
        return softmax_cross_entropy(logits, batch.targets, label_smoothing=self._label_smoothing)

    def add(self, outputs: Outputs, batch: Batch) -> None:
        assert isinstance(batch.targets, torch.Tensor)
        self._ranks.append(ranks(outputs[self._output].numpy(), batch.targets.numpy()))

    def figures(self) -> dict[str, float]:
        found, self._ranks = np.concatenate(self._ranks), []
        return {"accuracy": share(found == 0)}


class _Regress:
    def __init__(self, output: str) -> None:
        self._output = output
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        assert isinstance(batch.targets, torch.Tensor)
        predicted = outputs[self._output]
        if predicted.shape != batch.targets.shape:
            raise DataError(
                f"{batch.examples[0].id}: expected {predicted.shape[1:].numel()} target values, the size of the "
                f"model's output, got {batch.targets.shape[1]}"
            )
        return mean_squared_error(predicted, batch.targets)

    def add(self, outputs: Outputs, batch: Batch) -> None:
        assert isinstance(batch.targets, torch.Tensor)
        self._pairs.append((outputs[self._output].numpy(), batch.targets.numpy()))

    def figures(self) -> dict[str, float]:
        predicted, expected = (np.concatenate(column) for column in zip(*self._pairs, strict=True))
        self._pairs = []
        return regression_figures(predicted, expected)


class _Translate:
    """Teacher forcing: one pass predicts every next token from the true previous tokens.

    Greedy decoding gives the same text if and only if all of these predictions are correct, so one pass gives the exact
    sequence accuracy.
    """

    def __init__(self, output: str, label_smoothing: float) -> None:
        self._output, self._label_smoothing = output, label_smoothing
        self._correct: list[np.ndarray] = []

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        assert isinstance(batch.targets, torch.Tensor)
        return sequence_cross_entropy(
            outputs[self._output], batch.targets, padding=PAD, label_smoothing=self._label_smoothing
        )

    def add(self, outputs: Outputs, batch: Batch) -> None:
        assert isinstance(batch.targets, torch.Tensor)
        correct = (outputs[self._output].argmax(dim=-1) == batch.targets) | (batch.targets == PAD)
        self._correct.append(correct.all(dim=1).numpy())

    def figures(self) -> dict[str, float]:
        correct, self._correct = np.concatenate(self._correct), []
        return {"sequence_accuracy": share(correct)}


class _Detect:
    def __init__(self, how: Postprocess, size: tuple[int, int]) -> None:
        require_pycocotools()  # otherwise it fails only after the first epoch
        assert isinstance(how.head, CellHeads)  # checked by `objective`
        self._how, self._head, self._size = how, how.head, size
        self._precision: AveragePrecision | None = None

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        truth, heads = batch.targets, self._head.heads
        assert isinstance(truth, Truth)
        self._check_classes(outputs, batch, truth)
        if isinstance(self._head, YoloV1):
            raw = outputs[heads[0].output]
            return yolov1_loss(raw, assign_cells(raw, truth, boxes=heads[0].boxes, size=self._size))
        if isinstance(self._head, YoloV2):
            assigned = assign_anchors(outputs, truth, heads, size=self._size, ignored=IGNORED_V2, several_classes=False)
            return yolov2_loss(outputs, assigned, heads)
        return yolov3_loss(outputs, assign_anchors(outputs, truth, heads, size=self._size), heads)

    def add(self, outputs: Outputs, batch: Batch) -> None:
        if self._precision is None:
            self._precision = AveragePrecision(self._classes(outputs))
        arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
        for i, (example, placement) in enumerate(zip(batch.examples, batch.placements, strict=True)):
            boxes, scores, classes, _ = decode(
                arrays, self._head, input_size=self._size[::-1], score_threshold=MIN_SCORE, index=i
            )
            kept = nms(
                boxes,
                scores,
                classes,
                score_threshold=MIN_SCORE,
                iou_threshold=self._how.iou_threshold,
                max_detections=MAX_DETECTIONS,
            )
            found = FoundBoxes(placement.to_image(boxes[kept]), classes[kept], scores[kept])
            assert isinstance(example.target, Boxes)
            ignored = example.target.ignored
            self._precision.add(
                FoundBoxes(example.target.corners, example.target.classes),
                found,
                None if ignored is None else FoundBoxes(ignored.corners, ignored.classes),
            )

    def _classes(self, outputs: Outputs) -> int:
        """Number of classes, from the channels of a head, since the recipe of a Darknet cfg file does not have it."""
        classes = layout(self._head, {name: tensor.shape for name, tensor in outputs.items()}).classes
        assert classes is not None
        return classes

    def _check_classes(self, outputs: Outputs, batch: Batch, truth: Truth) -> None:
        classes = self._classes(outputs)
        if len(truth.classes) and int(truth.classes.max()) >= classes:
            worst = int(truth.classes.argmax())
            raise DataError(
                f"{batch.examples[int(truth.image[worst])].id}: expected class indices from 0 to {classes - 1}, as "
                f"the model has {classes} classes, got {int(truth.classes[worst])}"
            )

    def figures(self) -> dict[str, float]:
        assert self._precision is not None
        found, self._precision = self._precision.figures(), None
        return {"map50": found.map50, "map50_95": found.map50_95}
