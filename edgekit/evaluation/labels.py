"""Whether a model and a data set speak of the same classes, and which number means which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.data.coco import is_coco
from edgekit.errors import UsageError

__all__ = ["knows_all", "model_classes_from_labels"]

SHOWN = 4


def knows_all(model: Sequence[str], data: Sequence[str]) -> bool:
    """Whether the model has all the data set's classes, by their names as `model_classes_from_labels` compares them."""
    own, theirs = _folded(model), _folded(data)
    return set(theirs) <= set(own) or _both_coco(model, data)


def model_classes_from_labels(model: Sequence[str], data: Sequence[str], *, name: str) -> np.ndarray:
    """The model's number of each of the data set's classes.

    Classes are the same where their names are, but for upper and lower case, and for the two ways in which COCO's 80
    are spelled; their order may differ, and the set may have a part of them only.

    Args:
        model: names of the model's classes, in its order.
        data: names of the data set's classes, in its order.
        name: of the data set, for messages.

    Returns:
        int64, shape ``(len(data),)``.

    Raises:
        UsageError: the set has classes that the model has not; names them.
    """
    own, theirs = _folded(model), _folded(data)
    if own == theirs or _both_coco(model, data):
        return np.arange(len(data))
    if not knows_all(model, data):
        raise UsageError(
            f"data set {name}: expected classes of the model's {len(model)}, got {len(data)} of which "
            f"{_difference(model, data, own, theirs)}",
            hint="measure on a set with classes that the model was trained for; names must be the same",
        )
    if twice := [label for label in theirs if own.count(label) > 1 or theirs.count(label) > 1]:
        raise UsageError(
            f"data set {name}: expected its classes in the model's order, since several are called '{twice[0]}', got "
            "another order"
        )
    return np.array([own.index(label) for label in theirs])


def _folded(labels: Sequence[str]) -> list[str]:
    return [label.strip().casefold() for label in labels]


def _both_coco(model: Sequence[str], data: Sequence[str]) -> bool:
    return is_coco(tuple(model)) and is_coco(tuple(data))


def _difference(model: Sequence[str], data: Sequence[str], own: Sequence[str], theirs: Sequence[str]) -> str:
    only_model = [label for label, folded in zip(model, own, strict=True) if folded not in theirs]
    only_data = [label for label, folded in zip(data, theirs, strict=True) if folded not in own]
    parts = [("the model lacks", only_data), ("the set lacks", only_model)]
    return ", and ".join(f"{whose} {_some(labels)}" for whose, labels in parts if labels)


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:SHOWN])
    return f"{shown} and {len(labels) - SHOWN} more" if len(labels) > SHOWN else shown
