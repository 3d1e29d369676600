"""Facts about a model from which the family of its head is recognized: metadata, shapes, and values on one image."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SLACK", "Facts", "Metadata", "Output", "grid_cells", "is_unit", "metadata_from_properties", "shown"]

SLACK = 1e-3
"""Rounding of numbers that should be in 0..1."""

PYRAMIDS = (
    (8, 16, 32),
    (8, 16, 32, 64),
    (16, 32),
    (4, 8, 16, 32),
    (8, 16),
    (16, 32, 64),
    (4, 8, 16),
    (32,),
    (16,),
    (8,),
)
"""Strides of the feature maps that heads of published detectors have, the most common first."""

MAX_NAMES = 100_000
MAX_TEXT = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What exporters write into an ONNX file; Ultralytics' keys, which other exporters took over.

    Attributes:
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``; empty if it is not said.
        names: names of the classes.
        keypoints: number of key points and of values of each.
        end2end: the model selects its detections itself.
        size: height and width of the image input in px; None if it is not said.
    """

    task: str = ""
    names: tuple[str, ...] = ()
    keypoints: tuple[int, int] = (0, 0)
    end2end: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Output:
    """An output of the model, for one image.

    Attributes:
        name: its name.
        value: its value on the probe image.
        parts: names and limits of what is concatenated to it along its columns, as in ``((0, 4), (4, 84))``; empty if
            the graph does not tell.
        axis: the axis of ``parts``.
        selected: its rows are chosen by value, as by TopK or non-maximum suppression.
        stepwise: its rows are computed one after the other, by a Loop or a Scan.
    """

    name: str
    value: np.ndarray
    parts: tuple[tuple[int, int], ...] = ()
    axis: int = 0
    selected: bool = False
    stepwise: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.value.shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """Facts about a model that takes one image.

    Attributes:
        size: width and height of the image input in px.
        outputs: the outputs in order.
        metadata: what the file says of itself.
        inputs: names of all inputs.
    """

    size: tuple[int, int]
    outputs: tuple[Output, ...]
    metadata: Metadata = Metadata()
    inputs: tuple[str, ...] = ()

    def strides(self, cells: int, boxes: int = 1) -> tuple[int, ...]:
        """Returns the strides of the feature maps that together have so many cells, ``boxes`` each; empty if none."""
        return grid_cells(self.size, cells, boxes)


def grid_cells(size: tuple[int, int], cells: int, boxes: int) -> tuple[int, ...]:
    """Returns the first of the usual strides whose feature maps have ``cells`` boxes; empty if there is none."""
    for strides in PYRAMIDS:
        if any(side % strides[-1] for side in size):
            continue
        if sum((size[0] // stride) * (size[1] // stride) for stride in strides) * boxes == cells:
            return strides
    return ()


def metadata_from_properties(properties: Mapping[str, str]) -> Metadata:
    """Reads the properties of an ONNX file; what is damaged or of another form is left out.

    Args:
        properties: texts by key. Ultralytics writes ``names`` and ``kpt_shape`` as Python literals.
    """
    names = _literal(properties.get("names", ""))
    shape = _literal(properties.get("kpt_shape", ""))
    return Metadata(
        task=properties.get("task", "") if properties.get("task") in _TASKS else "",
        names=_class_names(names),
        keypoints=_key_points(shape),
        end2end=properties.get("end2end", "").strip().lower() == "true",
        size=_size(_literal(properties.get("imgsz", ""))),
    )


_TASKS = ("detect", "segment", "pose", "obb", "classify")


def _literal(text: str) -> Any:
    if len(text) > MAX_TEXT:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # not a literal
        return None


def _class_names(names: Any) -> tuple[str, ...]:
    """Returns names from a list, or from a table whose keys are the numbers from 0; empty for anything else."""
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            return ()
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list | tuple) or not 0 < len(names) <= MAX_NAMES:
        return ()
    texts = tuple(" ".join(str(name).split()) for name in names)
    return texts if all(texts) else ()


def _size(sides: Any) -> tuple[int, int] | None:
    if isinstance(sides, int):
        sides = (sides, sides)
    fits = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides)
    return (sides[0], sides[1]) if fits and all(0 < side <= 2**16 for side in sides) else None


def _key_points(shape: Any) -> tuple[int, int]:
    fits = isinstance(shape, list | tuple) and len(shape) == 2 and all(type(number) is int for number in shape)
    return (shape[0], shape[1]) if fits and 0 < shape[0] <= 2**16 and shape[1] in (2, 3) else (0, 0)


def is_unit(values: np.ndarray) -> bool:
    """Whether all numbers are in 0..1."""
    return bool(values.size == 0 or (values.min() >= -SLACK and values.max() <= 1 + SLACK))


def shown(output: Output) -> str:
    """Formats the sizes of an output: ``(1, 300, 4)``."""
    return f"({', '.join(map(str, output.shape))})"
