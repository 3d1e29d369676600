"""Shapes of raw detector outputs: which values belong to a cell, and how many classes there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgekit.errors import RunError
from edgekit.recipe.heads import (
    BatchedRows,
    BoxesScoresLabels,
    CellHeads,
    Detr,
    EfficientNms,
    End2End,
    Head,
    YoloV1,
    YoloV5,
    YoloV8,
    YoloX,
    box_outputs,
)

__all__ = ["Layout", "layout", "yolox_grids"]

Shapes = Mapping[str, Sequence[int]]


class Layout(NamedTuple):
    """Sizes of the outputs of one image.

    Attributes:
        cells: number of boxes that the model predicts.
        classes: number of classes, without a background; None if the shapes do not tell.
    """

    cells: int
    classes: int | None


def layout(head: Head, shapes: Shapes) -> Layout:
    """Checks the shapes of a head's outputs, and counts cells and classes.

    Args:
        head: the head.
        shapes: shapes of the outputs by name, with the batch.

    Raises:
        RunError: an output is missing, or its shape does not fit the head.
    """
    if isinstance(head, CellHeads):
        return _grids(head, shapes)
    if isinstance(head, Detr):
        return _queries(head, shapes)
    if isinstance(head, BoxesScoresLabels | EfficientNms | BatchedRows):
        return _rows(head, shapes)
    if isinstance(head, YoloV8) and head.layout == "channels-first":
        _, channels, cells = _shape(shapes, head.output, f"(N, {_values(head)}, cells)", 3)
    else:
        _, cells, channels = _shape(shapes, head.output, f"(N, cells, {_values(head)})", 3)
    if isinstance(head, End2End):
        if channels != 6 + head.extras:
            raise _misfit(shapes, head.output, f"(N, cells, {_values(head)})")
        return Layout(cells, None)
    fixed = (4 if isinstance(head, YoloV8) else 5) + (0 if isinstance(head, YoloX) else head.extras)
    if channels <= fixed:
        first = isinstance(head, YoloV8) and head.layout == "channels-first"
        raise _misfit(shapes, head.output, f"(N, {_values(head)}, cells)" if first else f"(N, cells, {_values(head)})")
    return Layout(cells, channels - fixed)


def yolox_grids(head: YoloX, cells: int, input_size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns width and height of the grid of each stride, and the stride.

    Args:
        head: the head.
        cells: number of cells of the output.
        input_size: width and height of the input in px.

    Raises:
        RunError: the grids do not have as many cells.
    """
    width, height = input_size
    grids = [(width // stride, height // stride, stride) for stride in head.strides]
    expected = sum(columns * rows for columns, rows, _ in grids)
    if cells != expected:
        raise RunError(
            f"output '{head.output}': expected {expected} cells for strides {', '.join(map(str, head.strides))} at "
            f"{width} x {height}, got {cells}",
            hint="set strides and the input size to those of the model",
        )
    return grids


def _grids(head: CellHeads, shapes: Shapes) -> Layout:
    cells, counts = 0, set()
    for each in head.heads:
        if isinstance(head, YoloV1):
            boxes, expected = each.boxes, f"(N, classes + 5 * {each.boxes}, h, w)"
        else:
            boxes, expected = len(each.anchors), f"(N, {len(each.anchors)} * (5 + classes), h, w)"
        _, channels, rows, columns = _shape(shapes, each.output, expected, 4)
        classes = channels - 5 * boxes if isinstance(head, YoloV1) else channels // boxes - 5
        if classes < 1 or (not isinstance(head, YoloV1) and channels % boxes):
            raise _misfit(shapes, each.output, expected)
        cells += boxes * rows * columns
        counts.add(classes)
    if len(counts) > 1:
        raise RunError(f"outputs {', '.join(box_outputs(head))}: expected the same classes, got {sorted(counts)}")
    return Layout(cells, counts.pop())


def _queries(head: Detr, shapes: Shapes) -> Layout:
    background = head.background != "none"
    if not head.logits:
        _, queries, values = _shape(shapes, head.boxes, "(N, queries, 4 + slots)", 3)
        slots = values - 4
    else:
        _, queries, values = _shape(shapes, head.boxes, "(N, queries, 4)", 3)
        _, other, slots = _shape(shapes, head.logits, f"(N, {queries}, slots)", 3)
        if values != 4:
            raise _misfit(shapes, head.boxes, "(N, queries, 4)")
        if other != queries:
            raise _misfit(shapes, head.logits, f"(N, {queries}, slots)")
    if slots - background < 1:
        raise _misfit(shapes, head.logits or head.boxes, "at least one class")
    return Layout(queries, slots - background)


def _rows(head: BoxesScoresLabels | EfficientNms | BatchedRows, shapes: Shapes) -> Layout:
    if isinstance(head, BatchedRows):
        values = 7 if head.columns == "yolov7" else 6
        rows, found = _shape(shapes, head.output, f"(boxes, {values})", 2)
        if found != values:
            raise _misfit(shapes, head.output, f"(boxes, {values})")
        return Layout(rows, None)
    batch = () if isinstance(head, BoxesScoresLabels) and len(shapes.get(head.boxes, ())) == 2 else ("N",)
    expected = f"({', '.join((*batch, 'boxes', '4'))})"
    boxes = _shape(shapes, head.boxes, expected, len(batch) + 2)
    if boxes[-1] != 4:
        raise _misfit(shapes, head.boxes, expected)
    for name in (head.scores, head.labels if isinstance(head, BoxesScoresLabels) else head.classes):
        wanted = f"({', '.join((*batch, str(boxes[-2])))}{'' if batch else ','})"
        if _shape(shapes, name, wanted, len(batch) + 1)[-1] != boxes[-2]:
            raise _misfit(shapes, name, wanted)
    if isinstance(head, EfficientNms) and head.count not in shapes:
        raise RunError(f"output '{head.count}': expected (N, 1), got no such output among {sorted(shapes)}")
    return Layout(boxes[-2], None)


def _values(head: Head) -> str:
    """Describes the values of a cell, for messages."""
    if isinstance(head, End2End):
        return f"{6 + head.extras}"
    extras = f" + {head.extras}" if isinstance(head, YoloV5 | YoloV8) and head.extras else ""
    return f"{4 if isinstance(head, YoloV8) else 5} + classes{extras}"


def _shape(shapes: Shapes, name: str, expected: str, dimensions: int) -> Sequence[int]:
    if name not in shapes:
        raise RunError(f"output '{name}': expected {expected}, got no such output among {sorted(shapes)}")
    if len(shapes[name]) != dimensions:
        raise _misfit(shapes, name, expected)
    return shapes[name]


def _misfit(shapes: Shapes, name: str, expected: str) -> RunError:
    return RunError(f"output '{name}': expected {expected}, got {tuple(shapes[name])}")
