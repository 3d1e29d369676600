"""Folds the slices that some detectors cut their image into ("focus") into the convolution behind them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.graph.insert import new_initializer

__all__ = ["FoldFocus"]

_ROWS, _COLUMNS = 2, 3
_OTHER = (-1, 0, 1)


class _Cells(NamedTuple):
    """Every ``step``-th pixel of an image, from an offset on.

    Attributes:
        image: ``(N, C, H, W)``.
        steps: between rows and between columns.
        offsets: of the first row and of the first column.
    """

    image: ir.Value
    steps: tuple[int, int]
    offsets: tuple[int, int]


class FoldFocus(ir.passes.InPlacePass):
    """Replaces a convolution over the pixels of each cell of an image by a larger one over the image.

    YOLOX and early versions of YOLOv5 cut the image into four images of every second pixel, and concatenate them as
    channels. A convolution of k x k over these is one of 2k x 2k with twice the strides over the image, with the same
    weights in another order and as many multiplications, and nothing is copied.

    Preconditions: constants are initializers (`FoldConstants`); shapes are known (`InferShapes`).
    Postconditions: no Conv of one group and no dilation reads a Concat of all cells of an image whose size is a
        multiple of the step. Other readers of the Concat keep it; unused nodes are left to `RemoveDead`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Conv" and node.domain == "":
                modified = _fold(model, node) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fold(model: ir.Model, conv: ir.Node) -> bool:
    joined, weight = conv.inputs[:2]
    concat = joined.producer() if joined is not None else None
    if weight is None or weight.const_value is None or weight.is_graph_input() or not _is_plain(conv):
        return False
    cells = _cells_of(concat) if concat is not None and concat.op_type == "Concat" else None
    if cells is None:
        return False
    image, steps = cells[0].image, cells[0].steps
    array = weight.const_value.numpy()
    outputs, channels, *window = array.shape
    if len(window) != len(steps) or channels % len(cells):
        return False
    window = [size * step for size, step in zip(window, steps, strict=True)]
    larger = np.zeros((outputs, channels // len(cells), *window), array.dtype)
    for part, cell in zip(np.split(array, len(cells), axis=1), cells, strict=True):
        larger[:, :, cell.offsets[0] :: steps[0], cell.offsets[1] :: steps[1]] = part
    for name, default in (("pads", [0, 0, 0, 0]), ("strides", [1, 1])):
        numbers = conv.attributes.get_ints(name, default)
        conv.attributes[name] = ir.AttrInt64s(name, [n * steps[i % 2] for i, n in enumerate(numbers)])
    conv.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", window)
    conv.attributes.pop("auto_pad", None)
    conv.replace_input_with(0, image)
    conv.replace_input_with(1, new_initializer(model, f"{weight.name}_of_pixels", larger))
    return True


def _is_plain(conv: ir.Node) -> bool:
    dilated = any(n != 1 for n in conv.attributes.get_ints("dilations", ()))
    padded = conv.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return padded and not dilated and conv.attributes.get_int("group", 1) == 1


def _cells_of(concat: ir.Node) -> list[_Cells] | None:
    """Returns what a Concat of channels joins, if it is all cells of one image."""
    if concat.attributes.get_int("axis", 1) != 1:
        return None
    found = [_cells(value) for value in concat.inputs]
    cells = [each for each in found if each is not None]
    if len(cells) != len(found) or len({(each.image, each.steps) for each in cells}) != 1:
        return None
    image, (rows, columns) = cells[0].image, cells[0].steps
    sizes = list(image.shape or ())
    whole = {(row, column) for row in range(rows) for column in range(columns)}
    if len(sizes) != 4 or len(cells) != len(whole) or {each.offsets for each in cells} != whole or len(whole) == 1:
        return None
    height, width = sizes[_ROWS], sizes[_COLUMNS]
    known = isinstance(height, int) and isinstance(width, int) and not height % rows and not width % columns
    return cells if known else None


def _cells(value: ir.Value | None) -> _Cells | None:
    """Returns which pixels of an image one or two Slices have left."""
    steps, offsets = [1, 1], [0, 0]
    while value is not None and (node := value.producer()) is not None and node.op_type == "Slice":
        for axis, start, step in _slices(node):
            if axis not in (_ROWS, _COLUMNS) or steps[axis - _ROWS] != 1:
                return None
            steps[axis - _ROWS], offsets[axis - _ROWS] = step, start
        value = node.inputs[0]
    if value is None:
        return None
    return _Cells(value, (steps[0], steps[1]), (offsets[0], offsets[1]))


def _slices(node: ir.Node) -> list[tuple[int, int, int]]:
    """Returns axis, start and step of what a Slice takes to the end of each axis; axis -1 if it is anything else."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    vectors = [_integers(value) for value in node.inputs[1:]]
    if shape is None or len(vectors) != 4 or None in vectors:
        return [_OTHER]
    found = []
    for start, end, axis, step in zip(*filter(None, vectors), strict=True):
        size = shape[axis]
        if not isinstance(size, int) or end < size or not 0 <= start < step:
            return [_OTHER]
        found.append((axis % len(shape), start, step))
    return found


def _integers(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return tuple(int(number) for number in value.const_value.numpy().reshape(-1))
