"""Resizes images by products with constant matrices, for a backend that computes some kinds of Resize otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["ResizeAsProduct"]

_ROWS_AT_ONCE = 16
_COORDINATES = frozenset({"half_pixel_symmetric", "tf_crop_and_resize"})
_PARAMETERS = ("roi", "scales", "sizes")


class ResizeAsProduct(RewritePass):
    """Replaces a ``Resize`` of the last two axes by a product with a matrix for each of them, or by a ``Gather``.

    Every Resize is linear, one axis after the other: an output row is a weighted sum of input rows. ONNX Runtime itself
    computes these weights when the graph is built, so that the results are the same. Measured on OpenVINO 2026.4:
    ``antialias`` is computed otherwise where an axis shrinks, ``keep_aspect_ratio_policy`` and ``exclude_outside`` are
    ignored, and two coordinate transformations are refused.

    Preconditions: values have their shapes.
    Postconditions: no Resize has one of these attributes. The last new node has the name of the Resize, and its output.
    """

    operator = "Resize"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`.

        Raises:
            GraphError: the weights are not constant: the height, width, scales or sizes are computed, or other axes are
                resized.
        """
        if not _differs(node):
            raise NotApplicable("every backend computes it alike")
        sizes, parameters = _require_known(node)
        plain = _Probe(node, sizes, parameters)
        rows, columns = (plain.weights(axis) for axis in (0, 1))
        y, name = node.outputs[0].name, node.name
        value, others = node.inputs[0], []
        for axis, weights in ((-2, rows), (-1, columns)):
            if weights is None:
                continue
            part = "rows" if axis == -2 else "columns"
            others.append(_applied(graph, value, weights, axis, f"{y}.{part}"))
            value = others[-1].outputs[0]
        fill = _fill(node, rows, columns)
        if fill is not None and value is not None:
            others.append(new_node("Add", [value, initializer(graph, f"{y}.fill", fill)], name=f"{name}.fill"))
        if not others:
            others.append(new_node("Identity", [value], name=name))
        others[-1].name, others[-1].outputs[0].name = name, None
        replace_node(node, others)


def _differs(node: ir.Node) -> bool:
    attributes = node.attributes
    return (
        attributes.get_int("antialias", 0) == 1
        or attributes.get_int("exclude_outside", 0) == 1
        or attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch"
        or attributes.get_string("coordinate_transformation_mode", "half_pixel") in _COORDINATES
    )


def _require_known(node: ir.Node) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """Returns height and width, and the parameters for these two axes."""
    data = node.inputs[0]
    shape = list(data.shape) if data is not None and data.shape is not None else []
    given = {
        name: value
        for name, value in zip(_PARAMETERS, node.inputs[1:], strict=False)
        if value is not None and value.name
    }
    arrays = {name: tensor.numpy() for name, value in given.items() if (tensor := constant(value)) is not None}
    found = len(arrays) == len(given)
    if not found or len(shape) < 2 or not all(isinstance(size, int) for size in shape[-2:]):
        raise _refused(node, "its height, width, scales or sizes are not constant")
    rank = len(shape)
    axes = [axis % rank for axis in node.attributes.get_ints("axes", range(rank))]
    keeps = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch"
    sizes = (int(shape[-2]), int(shape[-1]))  # type: ignore[arg-type]
    by_axis = _by_axis({name: array for name, array in arrays.items() if array.size}, axes, rank)
    for name, each in by_axis.items():
        for axis in axes:
            unchanged = {"roi": (0.0, 1.0), "scales": 1.0, "sizes": shape[axis]}[name]
            if axis < rank - 2 and (keeps or each[axis] != unchanged) and name != "roi":
                raise _refused(node, "it resizes other axes than the last two")
    ends = (rank - 2, rank - 1)
    last = {
        name: [each.get(axis, _unchanged(name, sizes[axis - rank + 2])) for axis in ends]
        for name, each in by_axis.items()
    }
    parameters = {name: np.asarray(numbers) for name, numbers in last.items()}
    if "roi" in parameters:
        parameters["roi"] = parameters["roi"].T.reshape(-1)
    return sizes, parameters


def _by_axis(arrays: Mapping[str, np.ndarray], axes: list[int], rank: int) -> dict[str, dict[int, object]]:
    found: dict[str, dict[int, object]] = {}
    for name, array in arrays.items():
        numbers = array.tolist()
        each = list(zip(numbers[: len(axes)], numbers[len(axes) :], strict=True)) if name == "roi" else numbers
        found[name] = dict(zip(axes, each, strict=True))
    return found


def _unchanged(name: str, size: int) -> object:
    return {"roi": (0.0, 1.0), "scales": 1.0, "sizes": size}[name]


def _refused(node: ir.Node, reason: str) -> GraphError:
    return GraphError(
        f"node '{node.name or node.outputs[0].name}': this target computes a Resize of this kind otherwise than ONNX, "
        f"and it cannot be replaced: {reason}",
        hint=f"give the model a fixed size, or build it with {argument('target', 'cpu')}",
    )


class _Probe(NamedTuple):
    """Runs a Resize alone in ONNX Runtime, on rows or columns of ones."""

    node: ir.Node
    sizes: tuple[int, int]
    parameters: Mapping[str, np.ndarray]

    def weights(self, axis: int) -> np.ndarray | None:
        """Returns the matrix, ``(resized, size)``, for rows (0) or columns (1); None if it changes nothing."""
        size = self.sizes[axis]
        parts = []
        for first in range(0, size, _ROWS_AT_ONCE):
            some = range(first, min(first + _ROWS_AT_ONCE, size))
            images = np.zeros((len(some), 1, *self.sizes), np.float32)
            for index, row in enumerate(some):
                images[index, 0][(row, slice(None)) if axis == 0 else (slice(None), row)] = 1
            parts.append(self._resized(images)[:, 0])
        result = np.concatenate(parts)
        # Along the other axis, weights sum up to 1, except outside of the image, where there are zeros.
        other = np.abs(result).sum(axis=(0, axis + 1)).argmax()
        matrix = np.take(result, other, axis=2 - axis).T
        return None if matrix.shape[0] == size and (matrix == np.eye(size)).all() else matrix

    def _resized(self, images: np.ndarray) -> np.ndarray:
        x = ir.val("x", ir.DataType.FLOAT, images.shape)
        y = ir.val("y", ir.DataType.FLOAT)
        values = {
            name: ir.val(
                name, const_value=ir.tensor(array.astype(np.int64 if name == "sizes" else np.float32), name=name)
            )
            for name, array in self.parameters.items()
        }
        probe = ir.node("Resize", [x, *(values.get(name) for name in _PARAMETERS)], outputs=[y])
        probe.attributes.update(
            {name: each for name, each in self.node.attributes.items() if name != "extrapolation_value"}
        )
        probe.attributes["axes"] = ir.AttrInt64s("axes", [2, 3])
        graph = ir.Graph(
            [x], [y], nodes=[probe], initializers=list(values.values()), opset_imports={"": 20}, name="probe"
        )
        return Evaluator(ir.Model(graph, ir_version=10)).run({"x": images})["y"]


def _applied(graph: ir.Graph, value: ir.Value | None, weights: np.ndarray, axis: int, name: str) -> ir.Node:
    """Makes a node that applies the weights along an axis; a Gather where each output is one element."""
    if (np.count_nonzero(weights, axis=1) == 1).all() and (weights.max(axis=1) == 1).all():
        places = initializer(graph, f"{name}.places", weights.argmax(axis=1).astype(np.int64))
        return new_node("Gather", [value, places], {"axis": axis}, name=name, output=name)
    matrix = initializer(graph, f"{name}.weights", np.ascontiguousarray(weights if axis == -2 else weights.T))
    return new_node("MatMul", [matrix, value] if axis == -2 else [value, matrix], name=name, output=name)


def _fill(node: ir.Node, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray | None:
    """Returns what is added to pixels outside of the image; None if there are none, or they are zeros."""
    number = node.attributes.get_float("extrapolation_value", 0.0)
    crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if not crops or number == 0:
        return None
    inside = [np.ones(1, bool) if weights is None else weights.any(axis=1) for weights in (rows, columns)]
    outside = ~np.logical_and.outer(*inside)
    return np.asarray(number * outside, np.float32) if outside.any() else None
