"""Task ``classify``: returns the most probable classes of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit.data.images import Placement
from edgekit.engine.bundle.manifest import Manifest
from edgekit.errors import RunError
from edgekit.limits import MAX_COUNT
from edgekit.option import given_number
from edgekit.runtime.tasks.choose import require_task
from edgekit.runtime.tasks.task import ImageTask, Shown

__all__ = ["TASK", "Class", "Classes", "classes_from_outputs", "logits_from_outputs", "softmax"]


class Class(NamedTuple):
    """The label of a class and its probability for an image."""

    label: str
    probability: float


@dataclass(frozen=True, eq=False)
class Classes:
    """The most probable classes of one image, best first.

    Attributes:
        indices: indices of the classes; int64, shape ``(K,)``.
        probabilities: float32, shape ``(K,)``; those of all classes of the model add up to 1.
        names: names of all classes of the model; may be empty.
    """

    indices: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The name of each class, or its index if the model has no class names."""
        return [self.names[i] if i < len(self.names) else str(i) for i in self.indices.tolist()]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Class]:
        return (Class(*row) for row in zip(self.labels, self.probabilities.tolist(), strict=True))

    def __getitem__(self, place: int) -> Class:
        return list(self)[place]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes ``exp(x_i) / sum_j exp(x_j)`` over the last axis; float32.

    The largest logit is subtracted first, so that no exponential overflows; this does not change the result.
    """
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities


def _are_probabilities(values: np.ndarray) -> bool:
    """Whether a model has applied the softmax itself, as Ultralytics' exports do: logits do not add up to 1."""
    total = float(values.astype(np.float64).sum())
    return bool(values.min() >= 0 and abs(total - 1) < (1e-4 if values.dtype == np.float32 else 1e-2))


def logits_from_outputs(outputs: Mapping[str, np.ndarray], manifest: Manifest) -> np.ndarray:
    """Returns the logits of a classifier; floats, shape ``(N, classes)``.

    Raises:
        RunError: the engine has several outputs, or its output does not have the shape of logits.
    """
    if len(outputs) == 1:
        (logits,) = outputs.values()
        # Classifiers that end in global average pooling, such as NiN, may keep two dimensions of size 1.
        if logits.ndim >= 2 and all(size == 1 for size in logits.shape[2:]):
            return logits.reshape(logits.shape[:2])
    got = "; ".join(f"{name} {array.shape}" for name, array in outputs.items())
    raise RunError(f"'{manifest.name}': expected one output (N, classes), got {got}")


def classes_from_outputs(outputs: Mapping[str, np.ndarray], manifest: Manifest, *, top: int = 5) -> Classes:
    """Converts logits to the most probable classes; ties are ordered by class index.

    Args:
        outputs: the engine's outputs by name, for a batch of one image: logits.
        manifest: has the names of the classes.
        top: maximum number of classes.

    Raises:
        RunError: the engine is not a classifier, or the logits are not finite.
        UsageError: ``top`` is no whole number from 1 on.
    """
    require_task(TASK, manifest)
    top = given_number("top", top, 1, MAX_COUNT)
    logits = logits_from_outputs(outputs, manifest)[0]
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise RunError(
            f"'{manifest.name}': expected finite logits, got NaN or infinity",
            hint="weights or input are invalid, or half precision overflowed: build the model in FP32 and compare",
        )
    probabilities = logits.astype(np.float32) if _are_probabilities(logits) else softmax(logits)
    order = np.argsort(-logits.astype(np.float64), kind="stable")[:top]
    return Classes(order, probabilities[order], manifest.labels)


class Classify(ImageTask[Classes]):
    """See `ImageTask`."""

    name = "classify"
    engine = "a classifier"
    method = "use classify(), which takes an image"
    options = ("top",)
    parameters = options

    def result(
        self, outputs: Mapping[str, np.ndarray], manifest: Manifest, placement: Placement, **options: Any
    ) -> Classes:
        """See `classes_from_outputs`."""
        return classes_from_outputs(outputs, manifest, **options)

    def shown(self, result: Classes) -> Shown:
        """See `ImageTask.shown`."""
        rows = [(label, f"{100 * probability:.2f} %") for label, probability in result]
        return Shown(result[0].label, ("label", "probability"), rows)

    def entries(self, result: Classes, image: Path, image_id: int) -> list[dict[str, Any]]:
        """Returns one entry for the image, with the list of its classes."""
        classes = [
            {"label": each.label, "index": index, "probability": round(each.probability, 6)}
            for each, index in zip(result, result.indices.tolist(), strict=True)
        ]
        return [{"file_name": image.name, "classes": classes}]


TASK = Classify()
