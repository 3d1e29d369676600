"""Gives products that read one weight in two layouts weights of their own, for a backend that confuses the two."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.graph.operators import PRODUCTS
from edgekit.lower.rewriting import constant, initializer, new_node, replace_node

__all__ = ["SeparateTiedWeights"]


class SeparateTiedWeights(ir.passes.InPlacePass):
    """Changes the bytes of weights that are equal to those of another product and are read in another layout.

    Autoencoders decode with the weights that they encode with. Measured on OpenVINO 2026.4: a ConvTranspose with the
    weight of a Conv computes with that in the Conv's layout, and so does a Gemm with ``transB`` and the weight of one
    without it (an SNR of -3 dB). Weights are probably cached by address and shape, and equal constants share one.

    Preconditions: weights are initializers.
    Postconditions: no Gemm with ``transB`` has the weight of another product; no ConvTranspose has that of a Conv: it
        gets one more output channel of zeros, which a Slice removes. Nodes and outputs keep their names.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """See `ir.passes.PassBase.call`.

        Raises:
            GraphError: a grouped ConvTranspose has the weight of a Conv.
        """
        by_size: defaultdict[int, list[ir.Node]] = defaultdict(list)
        for node in model.graph:
            weight = constant(node.inputs[1]) if node.op_type in PRODUCTS else None
            if weight is not None and weight.dtype == ir.DataType.FLOAT:
                by_size[weight.nbytes].append(node)
        # Few products have a counterpart of the same size, so that most weights are not read.
        tied = [node for nodes in by_size.values() if _confused(nodes) for node in _of_equal_weights(nodes)]
        for node in tied:
            (_widen if node.op_type == "ConvTranspose" else _transpose)(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(tied))


def _of_equal_weights(nodes: list[ir.Node]) -> list[ir.Node]:
    by_content: defaultdict[bytes, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        weight = constant(node.inputs[1])
        assert weight is not None
        by_content[hashlib.sha256(np.ascontiguousarray(weight.numpy()).data).digest()].append(node)
    return [node for some in by_content.values() for node in _confused(some)]


def _confused(nodes: list[ir.Node]) -> list[ir.Node]:
    convolved = any(node.op_type == "Conv" for node in nodes)
    turned = [node for node in nodes if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1]
    plain = any(node.op_type in ("Gemm", "MatMul") and node not in turned for node in nodes)
    return [node for node in nodes if node.op_type == "ConvTranspose" and convolved] + (turned if plain else [])


def _transpose(graph: ir.Graph, node: ir.Node) -> None:
    weight = constant(node.inputs[1])
    assert weight is not None
    turned = initializer(graph, f"{node.outputs[0].name}.weight", np.ascontiguousarray(weight.numpy().T))
    node.replace_input_with(1, turned)
    del node.attributes["transB"]


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    weight = constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    biases = constant(bias)
    assert weight is not None
    if node.attributes.get_int("group", 1) != 1 or (bias is not None and biases is None):
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}': OpenVINO confuses its weight with that of a Conv, which is "
            "the same, and it has groups or a computed bias",
            hint=f"build it with {argument('target', 'cpu')}",
        )
    y, array = node.outputs[0].name, weight.numpy()
    channels = array.shape[1]
    wide = np.pad(array, [(0, 0), (0, 1), *[(0, 0)] * (array.ndim - 2)])
    inputs = [node.inputs[0], initializer(graph, f"{y}.weight", wide)]
    if biases is not None:
        inputs.append(initializer(graph, f"{y}.bias", np.pad(biases.numpy(), (0, 1))))
    product = new_node(node.op_type, inputs, name=node.name, output=f"{y}.wide")
    product.attributes.update(node.attributes)
    bounds = {"start": 0, "end": channels, "axis": 1}
    cut = [initializer(graph, f"{y}.{name}", np.asarray([number], np.int64)) for name, number in bounds.items()]
    replace_node(node, [product, new_node("Slice", [product.outputs[0], *cut], name=f"{node.name}.channels")])
