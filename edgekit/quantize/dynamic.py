"""INT8 without calibration: weights are quantized when the graph is built, activations when it runs, or not at all.

Dynamic quantization computes the scale of a product's input from its values in each run, which suits Transformers and
LSTMs: their inputs have outliers that differ from run to run. Weight-only quantization saves memory; the product of one
token, which reads all weights and computes little, becomes faster too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.graph.bodies import Body, bodies_with_layers, changed_bodies
from edgekit.graph.insert import insert_behind, new_initializer, zero_point
from edgekit.graph.operators import RECURRENT
from edgekit.graph.passes import InferShapes, NameNodes, RemoveDead
from edgekit.quantize.bodies import policy_of_body
from edgekit.quantize.plan import QuantPolicy, matching, plan_from_graph
from edgekit.quantize.qdq import weight_scales
from edgekit.specs import QuantScheme

__all__ = ["DynamicGraph", "dynamic_graph", "require_dynamic", "weight_only_graph"]

CONTRIB = "com.microsoft"
BLOCK = 32
"""Weights of one column that share a scale in ``MatMulNBits``."""
INT8_LEVEL = 4
"""Accuracy level of ``MatMulNBits`` at which it multiplies in 8 bits, with a scale for each block of its input."""
LSTM_INPUTS = 8


class DynamicGraph(msgspec.Struct, frozen=True):
    """A graph whose weights are in INT8.

    Attributes:
        graph: the new graph.
        layers: names of the layers with weights in INT8.
        skipped: products and recurrent layers that stay in float, by name, with the reason.
    """

    graph: ir.Model
    layers: tuple[str, ...]
    skipped: dict[str, str]


def dynamic_graph(graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy) -> DynamicGraph:
    """Quantizes the weights of matrix products and LSTMs, and their inputs at run time.

    A product becomes ``DynamicQuantizeLinear``, ``MatMulInteger``, ``Cast`` and ``Mul``, which ONNX Runtime fuses; an
    LSTM its ``DynamicQuantizeLSTM``. Weights are symmetric, with a scale for each column.

    Args:
        graph: the float graph; not modified.
        scheme: the target's; its number of bits of weights is used.
        policy: what stays in float.

    Raises:
        GraphError: the graph has nothing to quantize so.
        UsageError: a pattern matches no node.
    """
    inputs: dict[ir.Value, tuple[ir.Value, ...]] = {}

    def product(model: ir.Model, node: ir.Node) -> None:
        _replace_product(model, node, scheme, inputs)

    return _rewritten(graph, scheme, policy, product, lambda model, node: _replace_lstm(model, node, scheme))


def weight_only_graph(graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy) -> DynamicGraph:
    """Stores the weights of matrix products in INT8.

    In the form ``blocks`` of the scheme, a product becomes ``MatMulNBits`` of ONNX Runtime, with a scale for each block
    of 32 weights of a column; in the form ``channels``, its weights come from DequantizeLinear, with a scale for each
    column.

    See `dynamic_graph` for arguments and errors.
    """
    if scheme.weights_only == "blocks":
        return _rewritten(graph, scheme, policy, _replace_by_blocks, None)
    return _rewritten(graph, scheme, policy, lambda model, node: _dequantize_weights(model, node, scheme), None)


def require_dynamic(graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy, *, lstm: bool) -> dict[str, str]:
    """Checks that something can be quantized without calibration; returns what stays in float, with the reasons.

    Raises:
        GraphError: nothing can.
        UsageError: a pattern matches no node.
    """
    found = _all_chosen(graph, scheme, policy)
    skipped = {name: reason for each in found for name, reason in each.skipped.items()}
    if any(each.products or (lstm and each.lstms) for each in found):
        return skipped
    raise GraphError(
        "nothing in the graph can be quantized without calibration: expected matrix products with constant weights"
        f"{' or an LSTM' if lstm else ''}, got {'; '.join(sorted(set(skipped.values()))) or 'none'}",
        hint=f"build it with {argument('precision', 'int8')} alone, which quantizes convolutions by calibration",
    )


class _Chosen(NamedTuple):
    """What is quantized in one graph, and the reasons why the rest stays in float."""

    products: list[ir.Node]
    lstms: list[ir.Node]
    skipped: dict[str, str]


Replace = Callable[[ir.Model, ir.Node], None]


def _rewritten(
    graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy, product: Replace, lstm: Replace | None
) -> DynamicGraph:
    require_dynamic(graph, scheme, policy, lstm=lstm is not None)
    graph = graph.clone(deep_copy=False)
    layers, skipped = _rewrite(graph, scheme, policy, product, lstm)
    NameNodes()(graph)
    InferShapes()(graph)
    return DynamicGraph(graph, tuple(layers), skipped)


def _rewrite(
    graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy, product: Replace, lstm: Replace | None
) -> tuple[list[str], dict[str, str]]:
    """Quantizes a graph and its bodies in place; returns the layers, and what stays in float."""
    products, lstms, skipped = _chosen(graph, scheme, policy)
    for node in products:
        product(graph, node)
    for node in lstms:
        if lstm is not None:
            lstm(graph, node)
        else:
            skipped[node.name or ""] = "weights of recurrent layers are quantized with their inputs only"
    layers = [node.name or "" for node in [*products, *(lstms if lstm is not None else [])]]

    def change(body: Body) -> bool:
        inside, others = _rewrite(body.graph, scheme, policy_of_body(body, policy), product, lstm)
        layers.extend(inside)
        skipped.update(others)
        return bool(inside)

    if scheme.bodies:
        changed_bodies(graph, change)
    if layers:
        graph.graph.opset_imports.setdefault(CONTRIB, 1)
    RemoveDead()(graph)
    return layers, skipped


def _all_chosen(graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy) -> list[_Chosen]:
    """Returns what is quantized in the main graph and in each body."""
    found = [_chosen(graph, scheme, policy)]
    for body in bodies_with_layers(graph) if scheme.bodies else ():
        found += _all_chosen(body.graph, scheme, policy_of_body(body, policy))
    return found


def _chosen(graph: ir.Model, scheme: QuantScheme, policy: QuantPolicy) -> _Chosen:
    inputs_only = msgspec.structs.replace(
        scheme,
        operators=frozenset({"MatMul", "Gemm"}),
        quantize_outputs=frozenset(),
        fused_activations=frozenset(),
        float_bias=True,
        float_attention=(),
        split_channels=0,
    )
    plan = plan_from_graph(graph, inputs_only, policy)
    skipped = dict(plan.skipped)
    kept = matching(list(graph.graph.all_nodes()), policy.keep_float)
    products = []
    for node in plan.nodes:
        if _matrix_of(node) is None:
            skipped[node.name or ""] = "its weights are not a matrix"
        else:
            products.append(node)
    lstms = []
    for node in graph.graph:
        if node.op_type not in RECURRENT:
            continue
        reason = kept.get(node) or _why_float_lstm(node)
        if reason:
            skipped[node.name or ""] = reason
        else:
            lstms.append(node)
    return _Chosen(products, lstms, skipped)


def _why_float_lstm(node: ir.Node) -> str:
    if node.op_type != "LSTM":
        return f"ONNX Runtime has no integer kernel for {node.op_type}"
    if any(value is None or value.const_value is None for value in node.inputs[1:3]):
        return "its weights are computed"
    if node.attributes.get_int("layout", 0):
        return "ONNX Runtime's integer kernel has the sequence first"
    return ""


def _matrix_of(node: ir.Node) -> np.ndarray | None:
    """Returns the weights, with the channels of the input as rows."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
        return None
    matrix = weight.const_value.numpy()
    return matrix.T if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1 else matrix


def _integers(matrix: np.ndarray, axis: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a matrix in int8, and the float32 scale of each slice along ``axis``."""
    scales = weight_scales(matrix, axis, bits).astype(np.float32)
    largest = 2 ** (bits - 1) - 1
    shape = [1] * matrix.ndim
    shape[axis] = -1
    return np.clip(np.rint(matrix / scales.reshape(shape)), -largest, largest).astype(np.int8), scales


def _replace_product(
    model: ir.Model, node: ir.Node, scheme: QuantScheme, inputs: dict[ir.Value, tuple[ir.Value, ...]]
) -> None:
    data, matrix = node.inputs[0], _matrix_of(node)
    assert data is not None and matrix is not None
    if data not in inputs:
        quantize = ir.node("DynamicQuantizeLinear", [data], name=f"{data.name}_quantize", num_outputs=3)
        for value, suffix in zip(quantize.outputs, ("quantized", "scale", "zero_point"), strict=True):
            value.name = f"{data.name}_{suffix}"
        insert_behind(model.graph, data, [quantize])
        inputs[data] = tuple(quantize.outputs)
    integer, scale, zero = inputs[data]
    weights, scales = _integers(matrix, 1, scheme.weight_bits)
    stem = f"{node.name}.weight"
    constants = [
        new_initializer(model, f"{stem}_quantized", weights),
        zero_point(model, np.int8, scales.shape, 0),
    ]
    multiply = ir.node("MatMulInteger", [integer, constants[0], zero, constants[1]], name=node.name)
    cast = ir.node("Cast", multiply.outputs, {"to": ir.DataType.FLOAT}, name=f"{node.name}_cast")
    both = ir.node("Mul", [scale, new_initializer(model, f"{stem}_scale", scales)], name=f"{node.name}_scale")
    scaled = ir.node("Mul", [cast.outputs[0], both.outputs[0]], name=f"{node.name}_scaled")
    _put(node, [multiply, cast, both, scaled])


def _replace_by_blocks(model: ir.Model, node: ir.Node) -> None:
    matrix = _matrix_of(node)
    assert matrix is not None
    rows, columns = matrix.shape
    blocks = -(-rows // BLOCK)
    padded = np.zeros((columns, blocks * BLOCK), np.float32)
    padded[:, :rows] = matrix.T
    parts = padded.reshape(columns * blocks, BLOCK)
    integers, scales = _integers(parts, 0, 8)
    # Unsigned, with the default zero point of 128.
    stored = (integers.astype(np.int16) + 128).astype(np.uint8).reshape(columns, blocks, BLOCK)
    stem = f"{node.name}.weight"
    constants = [
        new_initializer(model, f"{stem}_quantized", stored),
        new_initializer(model, f"{stem}_scale", scales.reshape(columns, blocks)),
    ]
    attributes = {"K": rows, "N": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": INT8_LEVEL}
    multiply = ir.node("MatMulNBits", [node.inputs[0], *constants], attributes, domain=CONTRIB, name=node.name)
    _put(node, [multiply])


def _dequantize_weights(model: ir.Model, node: ir.Node, scheme: QuantScheme) -> None:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    axis = 0 if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1 else 1
    integers, scales = _integers(weight.const_value.numpy(), axis, scheme.weight_bits)
    stem = f"{node.name}.weight"
    constants = [
        new_initializer(model, f"{stem}_quantized", integers),
        new_initializer(model, f"{stem}_scale", scales),
        zero_point(model, np.int8, scales.shape, 0),
    ]
    dequantize = ir.node("DequantizeLinear", constants, {"axis": axis}, name=f"{stem}_dequantize")
    value = dequantize.outputs[0]
    value.name, value.type, value.shape = f"{stem}_dequantized", weight.type, weight.shape
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(1, value)


def _replace_lstm(model: ir.Model, node: ir.Node, scheme: QuantScheme) -> None:
    parameters = []
    stem = f"{node.name}.weight"
    for index, letter in ((1, "W"), (2, "R")):
        value = node.inputs[index]
        assert value is not None and value.const_value is not None
        # The kernel multiplies from the right: (directions, inputs, 4 * hidden).
        array = value.const_value.numpy().transpose(0, 2, 1)
        integers, scales = zip(*(_integers(each, 1, scheme.weight_bits) for each in array), strict=True)
        parameters.append(
            (
                new_initializer(model, f"{stem}_{letter}_quantized", np.stack(integers)),
                new_initializer(model, f"{stem}_{letter}_scale", np.stack(scales)),
                zero_point(model, np.int8, np.stack(scales).shape, 0),
            )
        )
    (w, w_scale, w_zero), (r, r_scale, r_zero) = parameters
    others = [*node.inputs[3:], *[None] * LSTM_INPUTS][: LSTM_INPUTS - 3]
    inputs = [node.inputs[0], w, r, *others, w_scale, w_zero, r_scale, r_zero]
    attributes = [attribute for attribute in node.attributes.values() if attribute.name != "layout"]
    lstm = ir.Node(CONTRIB, "DynamicQuantizeLSTM", inputs, attributes, name=node.name, num_outputs=len(node.outputs))
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [lstm], node.outputs, lstm.outputs)


def _put(node: ir.Node, others: list[ir.Node]) -> None:
    """Replaces a product by nodes; the bias of a Gemm becomes an Add."""
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        others.append(ir.node("Add", [others[-1].outputs[0], node.inputs[2]], name=f"{node.name}_bias"))
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], others, node.outputs, others[-1].outputs)
