"""Computes matrix products of tensors with four or more axes, and what stands between them, on three axes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import constant, initializer, new_node

__all__ = ["RowsOnThreeAxes"]

MANY_AXES = 4

GAINING = frozenset({"LayerNormalization", "MatMul"})
PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
ELEMENTWISE = frozenset(
    "Abs Add Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mul Neg Pow Reciprocal Relu Sigmoid "
    "Softplus Sqrt Sub Tanh".split()
)


class RowsOnThreeAxes(ir.passes.InPlacePass):
    """Puts a ``Reshape`` to ``(N, rows, C)`` before products with a matrix of weights, and one back behind them.

    ConvNeXt and Swin compute on ``(N, H, W, C)`` between their convolutions and windows. OpenVINO (2026.4) fuses what
    follows a matrix product, such as its bias, GELU and the next Q, if the result has two or three axes; of four, it
    takes the second for the channels, and computes these operators in a pass of their own. Behind a Transpose to
    ``(N, H, W, C)`` it also keeps the memory in the order of the convolution, which is another one on these axes, and
    moves all numbers twice for a normalization. A Reshape moves none.

    Measured on x86 with VNNI, one thread, with `QuantizeBeforeMoves` before it: in INT8, EdgeNeXt-Small takes 0.45 of
    the time, ConvNeXt-Tiny 0.74, Swin-Tiny 0.96, PoolFormer-S12 1.00; in FP32, the first three take 0.63, 0.90 and
    0.97.

    Preconditions: operators are standard ones of opset 13 or later. Values have their shapes.
    Postconditions: no MatMul of a tensor of four or more axes with a matrix, and no LayerNormalization of the last of
        so many axes, is left, unless its result is an output of the graph, or two sizes between the first and the last
        axis are dynamic. The operators around it that read and write the same rows, element by element, have three axes
        too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = list(_groups(model.graph))
        for nodes in found:
            _flatten(model.graph, nodes)
        return ir.passes.PassResult(model, modified=bool(found))


def _groups(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """Yields nodes that read the rows of each other, in the order of the graph; in each group is a product."""
    nodes = dict.fromkeys(node for node in graph if _keeps_rows(node))
    while split := [node for node in nodes if node.op_type in PAIRS and _is_split(node, nodes)]:
        for node in split:
            del nodes[node]
    group_of: dict[ir.Node, int] = {}
    for node in nodes:
        if node not in group_of:
            group_of.update(dict.fromkeys(_joined(node, nodes), len(group_of)))
    groups: dict[int, list[ir.Node]] = {}
    for node in nodes:
        groups.setdefault(group_of[node], []).append(node)
    yield from (group for group in groups.values() if any(node.op_type in GAINING for node in group))


def _joined(node: ir.Node, nodes: Collection[ir.Node]) -> set[ir.Node]:
    """Returns the nodes that are joined with a node by tensors of rows, itself included."""
    found, waiting = {node}, [node]
    while waiting:
        node = waiting.pop()
        makers = (value.producer() for value in _activations(node))
        around = {*makers, *(use.node for use in node.outputs[0].uses())}
        new = [other for other in around if other is not None and other in nodes and other not in found]
        found.update(new)
        waiting += new
    return found


def _is_split(node: ir.Node, nodes: Collection[ir.Node]) -> bool:
    """Whether a Reshape would stand between Q, DQ and what reads them, where the integer kernels do not expect it."""
    if node.op_type == "DequantizeLinear" and _maker(node) not in nodes:
        return True
    return any(use.node not in nodes for use in node.outputs[0].uses())


def _maker(node: ir.Node) -> ir.Node | None:
    return node.inputs[0].producer() if node.inputs[0] is not None else None


def _keeps_rows(node: ir.Node) -> bool:
    """Whether each row of the result, along the last axis, depends on the same row of each input alone."""
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return False
    result, activations = node.outputs[0], _activations(node)
    if not activations or not all(
        _has_rows(value) and _rows(value) == _rows(result) for value in (result, *activations)
    ):
        return False
    others = [value for value in node.inputs if value is not None and value not in activations]
    if node.op_type == "MatMul":
        return len(activations) == 1 and node.inputs[0] is activations[0] and _is_matrix(others)
    if node.op_type == "LayerNormalization":
        return node.attributes.get_int("axis", -1) in (-1, _rank(result) - 1) and all(map(_is_of_row, others))
    if node.op_type in PAIRS:
        return all(constant(value) is not None and _rank(value) == 0 for value in others)
    return node.op_type in ELEMENTWISE and all(map(_is_of_row, others))


def _is_matrix(values: list[ir.Value]) -> bool:
    return len(values) == 1 and _rank(values[0]) == 2  # noqa: PLR2004 - rows and columns


def _activations(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs with four or more axes that are not constant, each once."""
    values = dict.fromkeys(value for value in node.inputs if value is not None and constant(value) is None)
    return [value for value in values if _rank(value) >= MANY_AXES]


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)


def _has_rows(value: ir.Value) -> bool:
    """Whether the sizes of a value are known well enough to restore them."""
    if value.shape is None or _rank(value) < MANY_AXES:
        return False
    first, *middle, last = value.shape
    return isinstance(last, int) and 0 not in value.shape and sum(not isinstance(size, int) for size in middle) <= 1


def _rows(value: ir.Value) -> list[object]:
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape[:-1]]


def _is_of_row(value: ir.Value) -> bool:
    """Whether all rows read the same numbers of a constant: one, or one for each element of the row."""
    tensor = constant(value)
    return tensor is not None and math.prod(tensor.shape.numpy()[:-1]) == 1


def _flatten(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    members = set(nodes)
    flat: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or _rank(value) < MANY_AXES:
                continue
            if (tensor := constant(value)) is not None:
                row = tensor.numpy().reshape(tensor.shape.numpy()[-1:])
                node.replace_input_with(index, initializer(graph, f"{node.outputs[0].name}.row_{index}", row))
            elif value.producer() not in members:
                if value not in flat:
                    flat[value] = _reshape(graph, node, value, f"{value.name}.rows_of_{node.name}", _flat(value))
                node.replace_input_with(index, flat[value])
        if node.op_type == "LayerNormalization":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
    for node in nodes:
        _restore(graph, node, members)


def _restore(graph: ir.Graph, node: ir.Node, members: set[ir.Node]) -> None:
    """Gives a node's result three axes; what is not in the group reads it with all its axes."""
    result = node.outputs[0]
    shape, sizes = result.shape, _flat(result)
    assert shape is not None
    uses = [(use.node, use.idx) for use in result.uses() if use.node not in members]
    if uses:
        full = np.array([0, *(size if isinstance(size, int) else -1 for size in shape[1:])])  # 0: as many as before
        name = f"{result.name}.all_axes"
        reshape = new_node("Reshape", [result, initializer(graph, f"{name}.shape", full)], name=name, output=name)
        reshape.outputs[0].type, reshape.outputs[0].shape = result.type, shape
        graph.insert_after(node, reshape)
        for reader, index in uses:
            reader.replace_input_with(index, reshape.outputs[0])
    result.shape = _shape_of(shape, sizes)


def _flat(value: ir.Value) -> np.ndarray:
    """Returns the sizes that a Reshape takes: as many items as before, all rows, and the last axis."""
    assert value.shape is not None
    return np.array([0, -1, int(value.shape[-1])])  # type: ignore[arg-type]


def _shape_of(shape: ir.Shape, sizes: np.ndarray) -> ir.Shape:
    middle = [size for size in shape[1:-1] if isinstance(size, int)]
    rows = math.prod(middle) if len(middle) == len(shape) - 2 else None
    return ir.Shape([shape[0], rows, int(sizes[-1])])


def _reshape(graph: ir.Graph, node: ir.Node, value: ir.Value, name: str, sizes: np.ndarray) -> ir.Value:
    assert value.shape is not None
    reshape = new_node("Reshape", [value, initializer(graph, f"{name}.shape", sizes)], name=name, output=name)
    reshape.outputs[0].type, reshape.outputs[0].shape = value.type, _shape_of(value.shape, sizes)
    graph.insert_before(node, reshape)
    return reshape.outputs[0]
