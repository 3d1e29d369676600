"""Matches a data set's class labels to a model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.arguments import argument
from edgekit.data.coco import is_coco
from edgekit.data.imagenet import imagenet_classes
from edgekit.errors import UsageError

__all__ = ["difference", "knows_all", "model_classes_from_labels"]

SHOWN = 4


def knows_all(model: Sequence[str], data: Sequence[str]) -> bool:
    """Whether the model has all classes of the data set, with names compared as in `model_classes_from_labels`."""
    own, theirs = _folded(model), _folded(data)
    return set(theirs) <= set(own) or _both_coco(model, data) or imagenet_classes(model, data) is not None


def model_classes_from_labels(model: Sequence[str], data: Sequence[str], *, name: str) -> np.ndarray:
    """Maps the data set's class indices to the model's.

    Classes are matched by name, ignoring case and the two spellings of COCO's 80 classes; their order may differ, and
    the data set may have fewer classes. WordNet ids, as ImageNet's folders have them, are matched to ImageNet's names.

    Args:
        model: the model's class names, in its order.
        data: the data set's class names, in its order.
        name: name of the data set, for messages.

    Returns:
        Model class indices; int64, shape ``(len(data),)``.

    Raises:
        UsageError: the data set has classes that the model does not have; names them.
    """
    own, theirs = _folded(model), _folded(data)
    if own == theirs or _both_coco(model, data):
        return np.arange(len(data))
    if (classes := imagenet_classes(model, data)) is not None:
        return np.array(classes, np.int64)
    if not knows_all(model, data):
        raise UsageError(
            f"data set {name}: expected classes of the model's {len(model)}, got {len(data)} of which "
            f"{difference(model, data)}",
            hint="use a data set with classes that the model was trained on, or give the model the set's names with "
            f"{argument('labels', like='FILE')}",
        )
    if twice := [label for label in theirs if own.count(label) > 1 or theirs.count(label) > 1]:
        raise UsageError(
            f"data set {name}: expected its classes in the model's order, because several are named '{twice[0]}', got "
            "another order"
        )
    return np.array([own.index(label) for label in theirs], np.int64)


def difference(model: Sequence[str], data: Sequence[str]) -> str:
    """Returns in words which classes only the model and only the data set have."""
    own, theirs = _folded(model), _folded(data)
    only_model = [label for label, folded in zip(model, own, strict=True) if folded not in theirs]
    only_data = [label for label, folded in zip(data, theirs, strict=True) if folded not in own]
    parts = [("the model lacks", only_data), ("the set lacks", only_model)]
    return ", and ".join(f"{whose} {_some(labels)}" for whose, labels in parts if labels)


def _folded(labels: Sequence[str]) -> list[str]:
    return [label.strip().casefold() for label in labels]


def _both_coco(model: Sequence[str], data: Sequence[str]) -> bool:
    return is_coco(tuple(model)) and is_coco(tuple(data))


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:SHOWN])
    return f"{shown} and {len(labels) - SHOWN} more" if len(labels) > SHOWN else shown
