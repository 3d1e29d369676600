"""Enlarging bytes by copying: ``Resize`` to the nearest neighbour as two ``Gather``, one of rows and one of columns.

ONNX Runtime's ``Resize`` works out the source of each number by itself. With channels last, a pixel's bytes lie side by
side, and ``Gather`` copies them at once: 8 to 33 times as fast, measured on x86 from 13 x 13 x 128 to 40 x 40 x 256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgekit.lower.rewriting import replace_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["Run", "replace_nearest_resizes"]

Run: TypeAlias = "Callable[[onnx.ModelProto, dict[str, np.ndarray]], list[np.ndarray]]"
"""Runs a small graph on arrays by name."""

ROWS, COLUMNS = 1, 2
"""Axes, with channels last."""

# Pixels are numbered in float32 to find out where they go.
MOST_PIXELS = 1 << 24


def replace_nearest_resizes(model: onnx.ModelProto, run: Run) -> int:
    """Replaces ``Resize`` of bytes to the nearest neighbour, of a height and width that are known, by ``Gather``.

    Args:
        model: with the shapes and types of its values; changed in place.
        run: is asked which pixel each one is a copy of, so that its rounding is the one that is replaced.

    Returns:
        How many were replaced.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = {value.name: value for value in (*graph.value_info, *graph.input)}
    nodes: list[onnx.NodeProto] = []
    replaced = 0
    for node in graph.node:
        shape = _shape_of_bytes(values.get(node.input[0])) if _is_of_neighbours(node, constants) else None
        sources = _sources(model, node, constants, shape, run) if shape else None
        if sources is None:
            nodes.append(node)
            continue
        rows, columns = (f"{node.output[0]}_{name}" for name in ("rows", "columns"))
        graph.initializer.extend(map(numpy_helper.from_array, sources, (rows, columns)))
        nodes += _gathers(node, rows, columns)
        replaced += 1
    if replaced:
        replace_nodes(graph, nodes)
    return replaced


def _is_of_neighbours(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether it copies pixels, by constants; a crop may also fill with another number."""
    texts = {attribute.name: attribute.s for attribute in node.attribute}
    copies = texts.get("mode", b"nearest") == b"nearest"
    crops = texts.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    known = all(not name or name in constants for name in node.input[1:])
    return node.op_type == "Resize" and copies and not crops and known


def _shape_of_bytes(value: onnx.ValueInfoProto | None) -> tuple[int, ...] | None:
    """Four dimensions, 0 where it is open; None if it is not of bytes, or its height or width is open."""
    from onnx import TensorProto

    if value is None or value.type.tensor_type.elem_type not in (TensorProto.UINT8, TensorProto.INT8):
        return None
    shape = tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    return shape if len(shape) == 4 and 0 < shape[2] * shape[3] <= MOST_PIXELS else None


def _sources(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    shape: tuple[int, ...],
    run: Run,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Which row each row of the result is a copy of, and which column each column; None if channels are copied too."""
    from onnx import TensorProto, helper

    height, width = shape[2:]
    numbered = np.arange(height * width, dtype=np.float32).reshape(1, 1, height, width)
    probe = helper.make_node("Resize", ["x", *node.input[1:]], ["y"])
    probe.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [probe],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, numbered.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [constants[name] for name in dict.fromkeys(node.input[1:]) if name],
    )
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    (result,) = run(small, {"x": numbered})
    sizes = constants[node.input[3]].dims[0] if len(node.input) > 3 and node.input[3] else 0
    if result.shape[:2] != (shape[:2] if sizes == len(shape) else (1, 1)):
        return None
    pixels = result[0, 0].astype(np.int64)
    return pixels[:, 0] // width, pixels[0] % width


def _gathers(node: onnx.NodeProto, rows: str, columns: str) -> list[onnx.NodeProto]:
    from onnx import helper

    y = node.output[0]
    last, wide, large = (f"{y}_{name}" for name in ("nhwc_small", "nhwc_wide", "nhwc"))
    return [
        helper.make_node("Transpose", [node.input[0]], [last], name=f"{node.name}.channels_last", perm=(0, 2, 3, 1)),
        helper.make_node("Gather", [last, columns], [wide], name=f"{node.name}.columns", axis=COLUMNS),
        helper.make_node("Gather", [wide, rows], [large], name=node.name, axis=ROWS),
        helper.make_node("Transpose", [large], [y], name=f"{node.name}.channels_first", perm=(0, 3, 1, 2)),
    ]
