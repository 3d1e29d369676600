"""Resizes 8-bit tensors by copying rows and columns."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.graph.evaluator import Evaluator
from edgekit.lower.rewriting import (
    NCHW,
    NHWC,
    NotApplicable,
    RewritePass,
    constant,
    initializer,
    new_node,
    replace_node,
    transposed,
)

__all__ = ["ResizeAsGather"]

_ROWS, _COLUMNS = 1, 2
"""Axes, with channels last."""

_MAX_PIXELS = 1 << 24
"""Pixels are numbered in float32, which represents integers exactly up to this one."""

_BYTES = frozenset({ir.DataType.UINT8, ir.DataType.INT8})


class ResizeAsGather(RewritePass):
    """Replaces nearest-neighbour ``Resize`` of 8-bit tensors by two ``Gather``, one of rows and one of columns.

    ONNX Runtime's ``Resize`` computes the source of each element separately. With channels last, a pixel's bytes are
    contiguous, and ``Gather`` copies them at once: 8 to 33 times as fast, measured on x86 from 13 x 13 x 128 to
    40 x 40 x 256. ONNX Runtime itself computes the source of each pixel when the graph is built, so that the rounding
    is the same.

    Preconditions: values have their element types and shapes.
    Postconditions: a Resize in mode ``nearest`` remains only if its input is not an 8-bit 4-D tensor with a known
        height and width, of 2**24 pixels at most, if it resizes the batch or channel axis too, if its scales or sizes
        are computed, or in the mode ``tf_crop_and_resize``. The second Gather has the name of the Resize. Results are
        equal. Unused scales and sizes are left to `RemoveDead`.
    """

    operator = "Resize"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        _require_copies(node)
        shape = _shape_of_bytes(node.inputs[0])
        if shape is None:
            raise NotApplicable("its input is not an 8-bit 4-D tensor with a known height and width")
        pixels = _sources(node, shape)
        if pixels is None:
            raise NotApplicable("it resizes the batch or channel axis too")
        y, width = node.outputs[0].name, shape[3]
        rows = initializer(graph, f"{y}_rows", pixels[:, 0] // width)
        columns = initializer(graph, f"{y}_columns", pixels[0] % width)
        replace_node(node, _gathers(node, rows, columns))


def _require_copies(node: ir.Node) -> None:
    """Raises `NotApplicable` unless the node copies pixels, and its scales or sizes are constant."""
    if node.attributes.get_string("mode", "nearest") != "nearest":
        raise NotApplicable("it interpolates")
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise NotApplicable("its mode tf_crop_and_resize fills pixels outside the image")
    if any(value is not None and constant(value) is None for value in node.inputs[1:]):
        raise NotApplicable("its scales or sizes are computed")


def _gathers(node: ir.Node, rows: ir.Value, columns: ir.Value) -> list[ir.Node]:
    name, y = node.name, node.outputs[0].name
    last = transposed(node.inputs[0], NHWC, name=f"{name}.channels_last", output=f"{y}_nhwc_small")
    wide = new_node(
        "Gather",
        [last.outputs[0], columns],
        {"axis": _COLUMNS},
        name=f"{name}.columns",
        output=f"{y}_nhwc_wide",
    )
    large = new_node("Gather", [wide.outputs[0], rows], {"axis": _ROWS}, name=name, output=f"{y}_nhwc")
    return [last, wide, large, transposed(large.outputs[0], NCHW, name=f"{name}.channels_first")]


def _shape_of_bytes(value: ir.Value | None) -> tuple[int, ...] | None:
    """Returns the four sizes, 0 for a dynamic one; None if not 8-bit, or if height or width is dynamic."""
    if value is None or value.dtype not in _BYTES or value.shape is None:
        return None
    shape = tuple(size if isinstance(size, int) else 0 for size in value.shape)
    return shape if len(shape) == 4 and 0 < shape[2] * shape[3] <= _MAX_PIXELS else None


def _sources(node: ir.Node, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the index of the source pixel of each output pixel; None if other axes are resized too."""
    numbered = np.arange(shape[2] * shape[3], dtype=np.float32).reshape(1, 1, *shape[2:])
    result = Evaluator(_probe(node, numbered.shape)).run({"x": numbered})["y"]
    sizes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    all_axes = sizes is not None and sizes.size == len(shape)
    return result[0, 0].astype(np.int64) if result.shape[:2] == (shape[:2] if all_axes else (1, 1)) else None


def _probe(node: ir.Node, shape: tuple[int, ...]) -> ir.Model:
    """Makes a graph of ``node`` alone, for float32 and one channel."""
    assert node.graph is not None
    read = {value: ir.val(value.name, const_value=constant(value)) for value in node.inputs[1:] if value is not None}
    x = ir.val("x", ir.DataType.FLOAT, shape)
    y = ir.val("y", ir.DataType.FLOAT)
    others = [None if value is None else read[value] for value in node.inputs[1:]]
    probe = ir.node("Resize", [x, *others], node.attributes, outputs=[y])
    graph = ir.Graph(
        [x], [y], nodes=[probe], initializers=list(read.values()), opset_imports=node.graph.opset_imports, name="probe"
    )
    return ir.Model(graph, ir_version=10)
