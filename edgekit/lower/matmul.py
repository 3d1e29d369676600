"""Matrix products of integers whose results are floats: ``MatMulIntegerToFloat``, with the bias.

ONNX Runtime fuses ``DQ -> MatMul -> Q``. What a Transformer adds to a product (bias, residual, mask) is no integer, so
that a Q/DQ pair between the two costs accuracy and time for nothing: MiniLM's sentences keep 0.93 of their cosine
with it, 0.99 without. Where there is no Q behind, ONNX Runtime (1.29 and later) makes a ``MatMulNBits``, which
quantizes again while it runs and takes longer.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.lower.rewriting import is_of_bytes, read_inside, replace_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["fuse_integer_products"]

DOMAIN = "com.microsoft"


def fuse_integer_products(model: onnx.ModelProto) -> int:
    """Replaces ``DQ -> MatMul`` that no Q follows, and the sum with its bias, by ``MatMulIntegerToFloat``.

    Args:
        model: in standard operators, its weights maybe in files beside it; changed in place.

    Returns:
        How many were replaced.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    readers: dict[str, list[onnx.NodeProto]] = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    needed = {value.name for value in graph.output} | read_inside(graph.node)

    replaced: dict[str, onnx.NodeProto] = {}
    sums: set[str] = set()
    for node in graph.node:
        a, b = (dequantized.get(name) for name in node.input[:2]) if node.op_type == "MatMul" else (None, None)
        if a is None or b is None or not _fit(a, b, constants):
            continue
        product = node.output[0]
        after = readers[product]
        # A ReLU before Q is its saturation: ONNX Runtime makes one operator of all three.
        beyond = [reader for relu in after if relu.op_type == "Relu" for reader in readers[relu.output[0]]]
        if any(reader.op_type == "QuantizeLinear" for reader in after + beyond):
            continue
        alone = len(after) == 1 and product not in needed
        bias = _bias(after[0], product, constants.get(b.input[0]), constants) if alone else ""
        output = after[0].output[0] if bias else product
        replaced[product] = _product(node, a, b, bias, output)
        if bias:
            sums.add(output)
    if replaced:
        _rewrite(model, replaced, sums)
    return len(replaced)


def _fit(a: onnx.NodeProto, b: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether both factors are bytes and their scales can be multiplied in afterwards: one each, or one a column."""
    if not all(is_of_bytes(node, constants) for node in (a, b)) or constants[a.input[1]].dims:
        return False
    scale, weight = constants[b.input[1]], constants.get(b.input[0])
    if not scale.dims:
        return True
    axis = next((attribute.i for attribute in b.attribute if attribute.name == "axis"), 1)
    return len(scale.dims) == 1 and weight is not None and len(weight.dims) == 2 and axis in (-1, 1)


def _bias(
    add: onnx.NodeProto, product: str, weight: onnx.TensorProto | None, constants: Mapping[str, onnx.TensorProto]
) -> str:
    """The vector, a number a column of ``weight``, that ``add`` adds to ``product``; empty if it does anything else."""
    others = [constants[name] for name in add.input if name in constants]
    if add.op_type != "Add" or weight is None or [list(other.dims) for other in others] != [[weight.dims[-1]]]:
        return ""
    return others[0].name


def _product(node: onnx.NodeProto, a: onnx.NodeProto, b: onnx.NodeProto, bias: str, output: str) -> onnx.NodeProto:
    from onnx import helper

    inputs = [a.input[0], b.input[0], a.input[1], b.input[1], a.input[2], b.input[2], *([bias] if bias else [])]
    return helper.make_node("MatMulIntegerToFloat", inputs, [output], name=node.name, domain=DOMAIN)


def _rewrite(model: onnx.ModelProto, replaced: Mapping[str, onnx.NodeProto], sums: set[str]) -> None:
    """Puts in what replaces the node of each output, and takes out the sums and pairs that nobody reads any more."""
    from onnx import helper

    nodes = [
        replaced.get(node.output[0], node) if node.output else node
        for node in model.graph.node
        if node.op_type != "Add" or node.output[0] not in sums
    ]
    replace_nodes(model.graph, nodes)
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
