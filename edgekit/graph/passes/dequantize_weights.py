"""Converts the quantized weights of a graph whose activations are float to float weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.errors import GraphError
from edgekit.graph.evaluator import Evaluator
from edgekit.graph.operators import uses_quantized_values
from edgekit.graph.passes.remove_dead import RemoveDead

__all__ = ["DEQUANTIZED", "DequantizeWeights", "weights_note"]

_GATHER = "GatherBlockQuantized"
_LAYERS = {"MatMulNBits": {1, 2, 3}, "MatMulBnb4": {1, 2}, _GATHER: {0, 2, 3}}
"""Operators of ONNX Runtime with weights of a few bits, and which of their inputs these, their scales and their zero
points are."""
_THIRDS = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_QUANTILES = (
    (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453)
    + (-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0)
    + (0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224)
    + (0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
)
_CODES = {0: (*_THIRDS, *(-number for number in _THIRDS)), 1: _QUANTILES}
"""What the 16 codes of ``MatMulBnb4`` stand for, by its ``quant_type``: FP4 and NF4 of bitsandbytes (QLoRA, arXiv
2305.14314, appendix E)."""

DEQUANTIZED = "edgekit.dequantized_weights"
"""Graph metadata: number of weights that were quantized in the file."""


def weights_note(graph: ir.Model) -> str:
    """Says that the file's weights were quantized without its activations; empty if not."""
    count = graph.metadata_props.get(DEQUANTIZED)
    if count is None:
        return ""
    weights = "1 weight is" if count == "1" else f"{count} weights are"
    return f"{weights} quantized in the file, without activations: read as the floats that they stand for"


class DequantizeWeights(ir.passes.InPlacePass):
    """Replaces quantized weights by the numbers that they stand for, if the graph computes in floats.

    A file that has quantized weights for their size alone (ONNX Runtime's ``MatMulNBits``, ``MatMulBnb4`` and
    ``GatherBlockQuantized``, Olive, blocks of 4 bits) is a float model: activations have no scales, and so no product
    runs on integers. With float weights it is calibrated and quantized like any other. If an activation is quantized,
    the file is a quantized model and stays as it is.

    Preconditions: values have their types.
    Postconditions: if the pass changes the graph, no node of the main graph uses quantized values. The graph's metadata
        has the number of weights (`weights_note`).

    Raises:
        GraphError: ONNX Runtime cannot compute the weights, or they contradict the attributes of their node.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        constant = _constant_nodes(model.graph)
        quantized = [node for node in model.graph.all_nodes() if uses_quantized_values(node)]
        layers = [node for node in quantized if node.op_type in _LAYERS]
        weights = [node for node in quantized if node in constant and node.op_type == "DequantizeLinear"]
        others = set(quantized) - constant - set(layers)
        if others or not quantized or not all(map(_has_known_layout, layers)):
            return ir.passes.PassResult(model, modified=False)
        tables = [_replace_gather(node) for node in layers if node.op_type == _GATHER]
        _fold(model, [node.outputs[0] for node in weights] + tables)
        for node in layers:
            if node.op_type != _GATHER:
                _replace_product(node)
        RemoveDead()(model)
        model.metadata_props[DEQUANTIZED] = str(len(weights) + len(layers))
        return ir.passes.PassResult(model, modified=True)


def _constant_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Finds the nodes of the main graph that compute from initializers alone."""
    known = {value for value in graph.initializers.values() if not value.is_graph_input()}
    found: set[ir.Node] = set()
    for node in graph:
        computes = node.op_type == "Constant" or (bool(node.inputs) and not node.op_type.startswith("Random"))
        nested = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if computes and not nested and all(value is None or value in known for value in node.inputs):
            found.add(node)
            known.update(node.outputs)
    return found


def _fold(model: ir.Model, values: list[ir.Value]) -> None:
    """Replaces values by initializers of their numbers, as ONNX Runtime computes them."""
    wanted = [value for value in values if value.name]
    if not wanted:
        return
    part = model.clone(deep_copy=False)
    inside = {output.name: output for node in part.graph for output in node.outputs}
    while part.graph.outputs:
        part.graph.outputs.pop()
    part.graph.outputs.extend(inside[value.name] for value in wanted)
    RemoveDead()(part)
    while part.graph.inputs:
        part.graph.inputs.pop()
    arrays = Evaluator(part).run({})
    for value in wanted:
        name = value.name or ""
        weight = _weight(model.graph, f"{name}.weight", arrays[name])
        for use in tuple(value.uses()):
            use.node.replace_input_with(use.idx, weight)
        node = value.producer()
        if value.is_graph_output() and node is not None:
            copy = ir.node("Identity", [weight], name=f"{name}.identity")
            copy.outputs[0].type, copy.outputs[0].shape = weight.type, weight.shape
            model.graph.insert_before(node, copy)
            value.replace_all_uses_with(copy.outputs[0], replace_graph_outputs=True)
            value.name, copy.outputs[0].name = None, name


def _weight(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    weight = ir.Value(name=name)
    weight.const_value = ir.tensor(array, name=name)
    weight.type, weight.shape = ir.TensorType(weight.const_value.dtype), ir.Shape(array.shape)
    graph.register_initializer(weight)
    return weight


def _array(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else np.asarray(tensor.numpy())


def _has_known_layout(node: ir.Node) -> bool:
    """Whether a layer has constant weights in the documented layout, without the order of groups."""
    given = {index for index, value in enumerate(node.inputs) if value is not None}
    ordered = node.op_type == "MatMulNBits" and 4 in given
    transposed, prepacked = node.attributes.get_int("transB", 1), node.attributes.get_int("weight_prepacked", 0)
    if ordered or prepacked or not transposed:
        return False
    return all(_array(node, index) is not None for index in given & _LAYERS[node.op_type])


def _replace_gather(node: ir.Node) -> ir.Value:
    """Replaces ``GatherBlockQuantized`` by Gather, and returns the table that it reads, which is not yet folded."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    axis, output = node.attributes.get_int("gather_axis", 0), node.outputs[0]
    packed = _array(node, 0)
    assert packed is not None
    places = _weight(graph, f"{output.name}.rows", np.arange(packed.shape[axis]))
    inputs = [node.inputs[0], places, *node.inputs[2:]]
    table = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), name=f"{node.name or ''}.table")
    table.outputs[0].name = f"{output.name}.table"
    read = ir.node("Gather", [table.outputs[0], node.inputs[1]], {"axis": axis}, name=node.name)
    _replace(graph, node, [table, read])
    return table.outputs[0]


def _replace_product(node: ir.Node) -> None:
    """Replaces ``MatMulNBits`` and ``MatMulBnb4`` by MatMul and Add."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    weight = _weight(graph, f"{node.outputs[0].name}.weight", _fitting_weights(node))
    nodes = [ir.node("MatMul", [node.inputs[0], weight], name=node.name)]
    bias = node.inputs[5] if len(node.inputs) > 5 else None  # MatMulBnb4 has none
    if bias is not None:
        nodes[0].outputs[0].name = f"{node.outputs[0].name}.product"
        nodes.append(ir.node("Add", [nodes[0].outputs[0], bias], name=f"{node.name or ''}.add"))
    _replace(graph, node, nodes)


def _replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    old, new = node.outputs[0], nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, old.name
    graph.remove(node, safe=True)


def _fitting_weights(node: ir.Node) -> np.ndarray:
    try:
        return _weights_of_codes(node) if node.op_type == "MatMulBnb4" else _weights(node)
    except ValueError as e:
        sizes = ", ".join(f"{name}={node.attributes.get_int(name, 0)}" for name in ("N", "K", "bits", "block_size"))
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}': expected weights, scales and zero points of a "
            f"{node.op_type} with {sizes}, got others: {e}",
            hint="export the model again",
        ) from e


def _weights(node: ir.Node) -> np.ndarray:
    """Unpacks the weights of a ``MatMulNBits``; see ONNX Runtime's ``docs/ContribOperators.md``.

    Each of the N columns has its K weights in blocks with a scale and a zero point each. The first weight of a byte is
    in its lowest bits.

    Returns:
        float32, shape ``(K, N)``.
    """
    bits = node.attributes.get_int("bits", 4)
    columns, rows = node.attributes.get_int("N", 0), node.attributes.get_int("K", 0)
    packed, scales, zeros = (_array(node, index) for index in (1, 2, 3))
    assert packed is not None and scales is not None
    scales = scales.reshape(columns, -1, 1).astype(np.float32)
    blocks = scales.shape[1]
    levels = _unpacked(packed.reshape(columns, blocks, -1), bits)
    if zeros is None:
        points = np.full((columns, blocks), 2.0 ** (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        points = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks]
    else:
        points = zeros.reshape(columns, blocks).astype(np.float32)
    weights = (levels - points[..., None]) * scales
    return np.ascontiguousarray(weights.reshape(columns, -1)[:, :rows].T)


def _weights_of_codes(node: ir.Node) -> np.ndarray:
    """Unpacks the weights of a ``MatMulBnb4``: a code of 4 bits each, and a factor for each block of them.

    The first weight of a byte is in its highest bits.

    Returns:
        float32, shape ``(K, N)``.
    """
    columns, rows = node.attributes.get_int("N", 0), node.attributes.get_int("K", 0)
    packed, factors = (_array(node, index) for index in (1, 2))
    assert packed is not None and factors is not None
    numbers = np.array(_CODES[node.attributes.get_int("quant_type", 0)], np.float32)
    codes = np.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], axis=-1).reshape(-1)[: rows * columns]
    scales = np.repeat(factors.reshape(-1).astype(np.float32), node.attributes.get_int("block_size", 0))[: codes.size]
    return np.ascontiguousarray((numbers[codes] * scales).reshape(columns, rows).T)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return levels.reshape(*packed.shape[:-1], -1).astype(np.float32)
