"""Counts the classes of a model from its outputs."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.arguments import argument
from edgekit.errors import UsageError
from edgekit.kernels.decode.layout import layout
from edgekit.recipe.schema import Postprocess
from edgekit.specs import TensorSpec

__all__ = ["check_class_names", "class_count"]


def class_count(task: str, postprocess: Postprocess | None, outputs: Sequence[TensorSpec]) -> int | None:
    """Returns the number of classes of a model; None if its outputs do not tell.

    Args:
        task: the recipe's task; ``tensor`` if it is unknown.
        postprocess: how outputs become detections.
        outputs: the outputs of the model.
    """
    if postprocess is not None:
        # Sizes of the batch and of feature maps may be dynamic; those of classes are not.
        shapes = {
            spec.name: [size if isinstance(size, int) and size > 0 else 1 for size in spec.shape] for spec in outputs
        }
        return layout(postprocess.head, shapes).classes
    if task in ("classify", "tensor") and len(outputs) == 1:
        # Classifiers that end in global average pooling may keep two dimensions of size 1.
        shape = outputs[0].shape
        classes = shape[1] if len(shape) >= 2 and all(size == 1 for size in shape[2:]) else None
        return classes if isinstance(classes, int) else None
    return None


def check_class_names(names: Sequence[str], classes: int | None, model: str) -> None:
    """Checks that there is a name for each class; any number is accepted if ``classes`` is None.

    Raises:
        UsageError: the numbers differ, or ``names`` are no texts.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{argument('labels')}: expected a list of class names, got {names!r}")
    if classes is not None and len(names) != classes:
        raise UsageError(
            f"{argument('labels')}: expected {classes} names, the number of classes of '{model}', got {len(names)}"
        )
