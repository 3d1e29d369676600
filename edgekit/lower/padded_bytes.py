"""Quantized convolutions of large weights and small pictures, with what pads them written out.

With ``x = s (q - z)``, a convolution of ``x`` is that of ``s q`` less ``s z`` times the sum of its weights. oneDNN,
which OpenVINO computes with, knows that sum beforehand, except where a convolution is padded: an output at the border
lacks some of the weights, so that it adds all of them up again in each run. With 1024 x 512 x 3 x 3 of them that is a
tenth of the time it takes at 13 x 13. A copy of the input that is padded with ``z`` already has no border.

ReLUs leave zero points of zero, which cost nothing. LeakyReLU, SiLU and HardSwish do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.lower.rewriting import element_counts, is_of_bytes, replace_nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["LEAST_WEIGHTS", "pad_bytes"]

LEAST_WEIGHTS = 10
"""Weights for each element of the input, from which on the copy pays.

Measured on YOLOv3-416, two threads, with 54 (13 x 13 x 512): 0.15 ms of 2.05 are saved for a copy of 0.01 ms; with 14
(26 x 26 x 512, to half of that): 0.12 ms for 0.03; with 7 (26 x 26 x 256): 0.02 ms for 0.02; with 2: nothing.
"""


def pad_bytes(model: onnx.ModelProto, usual: Mapping[str, int] | None = None) -> int:
    """Puts a ``Pad`` of the bytes in front of padded ``DQ -> Conv``, through a ``MaxPool`` between, where it pays.

    Args:
        model: in standard operators, with the shapes of its values; changed in place. Weights in files beside it stay
            as they are.
        usual: how many elements values have, by name, where that is known better; see `element_counts`.

    Returns:
        How many convolutions have a ``Pad`` now.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    elements = {**element_counts(model), **(usual or {})}
    producers = {output: node for node in graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    replaced = 0
    for node in graph.node:
        pads = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [])
        chain = _chain(node, producers, constants) if node.op_type == "Conv" and any(pads) else []
        if not chain or _weights(node, producers, constants) < LEAST_WEIGHTS * elements.get(node.input[0], math.inf):
            nodes.append(node)
            continue
        half = len(pads) // 2
        around = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(around, f"{node.output[0]}.pads"))
        nodes += _padded(node, chain)
        replaced += 1
    if replaced:
        replace_nodes(graph, nodes)
    return replaced


def _chain(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """The DequantizeLinear that ``node`` reads, and the MaxPool between the two if there is one; else nothing."""
    from onnx import TensorProto, numpy_helper

    source = producers.get(node.input[0])
    pools = [source] if source is not None and source.op_type == "MaxPool" and len(source.output) == 1 else []
    if pools:
        source = producers.get(pools[0].input[0])
    if source is None or not is_of_bytes(source, constants) or constants[source.input[1]].dims:
        return []
    zero = constants[source.input[2]]
    if zero.data_type != TensorProto.UINT8 or not numpy_helper.to_array(zero).any():
        return []
    return [source, *pools]


def _weights(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> int:
    """How many weights a convolution has, if they are bytes; else 0."""
    source = producers.get(node.input[1])
    known = source is not None and is_of_bytes(source, constants) and source.input[0] in constants
    return math.prod(constants[source.input[0]].dims) if source is not None and known else 0


def _padded(node: onnx.NodeProto, chain: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """``node`` without its pads, after copies of its chain that work on bytes and end in DequantizeLinear."""
    from onnx import helper

    source, *pools = chain
    name, scale, zero = source.input
    pads, pooled, padded, real = (f"{node.output[0]}.{made}" for made in ("pads", "pooled", "padded", "real"))
    nodes = []
    for pool in pools:
        nodes.append(helper.make_node("MaxPool", [name], [pooled], name=pooled))
        nodes[-1].attribute.extend(pool.attribute)
        name = pooled
    conv = helper.make_node("Conv", [real, *node.input[1:]], node.output, name=node.name)
    conv.attribute.extend(attribute for attribute in node.attribute if attribute.name != "pads")
    return [
        *nodes,
        helper.make_node("Pad", [name, pads, zero], [padded], name=padded),
        helper.make_node("DequantizeLinear", [padded, scale, zero], [real], name=real),
        conv,
    ]
