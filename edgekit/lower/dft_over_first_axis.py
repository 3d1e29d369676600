"""Computes every Fourier transform over the first axis after the batch, for a backend that fails over others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.lower.rewriting import (
    NotApplicable,
    RewritePass,
    constant,
    initializer,
    new_node,
    replace_node,
    transposed,
)

__all__ = ["DftOverFirstAxis"]


class DftOverFirstAxis(RewritePass):
    """Swaps the axis of a ``DFT`` with axis 1 by transposes, and cuts the second half of its result by a ``Slice``.

    Measured on OpenVINO 2026.4: a transform over any axis but 1 has wrong numbers, and so has a one-sided one.

    Preconditions: opset 20, where the axis is an input.
    Postconditions: each DFT is over axis 1, and not one-sided. The last new node has the name of the DFT.
    """

    operator = "DFT"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`.

        Raises:
            GraphError: the axis or the length is computed.
        """
        data, shape = node.inputs[0], _shape(node)
        axis = _axis(node, len(shape))
        one_sided = node.attributes.get_int("onesided", 0) == 1
        if axis == 1 and not one_sided:
            raise NotApplicable("it is over axis 1")
        name, y = node.name, node.outputs[0].name
        order = list(range(len(shape)))
        order[1], order[axis] = axis, 1
        others = [transposed(data, tuple(order), name=f"{name}.swap", output=f"{y}.swapped")] if axis != 1 else []
        length = node.inputs[1] if len(node.inputs) > 1 else None
        attributes = {"inverse": node.attributes.get_int("inverse", 0)}
        one = initializer(graph, f"{y}.axis", np.asarray(1, np.int64))
        others.append(
            new_node("DFT", [others[-1].outputs[0] if others else data, length, one], attributes,
                     name=f"{name}.transform", output=f"{y}.transformed")
        )  # fmt: skip
        if one_sided:
            kept = _length(node, shape[axis]) // 2 + 1
            limits = [initializer(graph, f"{y}.{key}", np.asarray([number], np.int64))
                      for key, number in (("start", 0), ("kept", kept), ("cut", 1))]  # fmt: skip
            others.append(
                new_node("Slice", [others[-1].outputs[0], *limits], name=f"{name}.cut", output=f"{y}.onesided")
            )
        if axis != 1:
            others.append(transposed(others[-1].outputs[0], tuple(order), name=f"{name}.back"))
        others[-1].name, others[-1].outputs[0].name = name, None
        replace_node(node, others)


def _shape(node: ir.Node) -> list[object]:
    data = node.inputs[0]
    if data is None or data.shape is None:
        raise _refused(node, "the number of its dimensions is not known")
    return list(data.shape)


def _axis(node: ir.Node, rank: int) -> int:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        return rank - 2
    tensor = constant(given)
    if tensor is None:
        raise _refused(node, "its axis is not constant")
    return int(tensor.numpy().item()) % rank


def _length(node: ir.Node, size: object) -> int:
    given = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = constant(given)
    if given is not None and tensor is not None:
        return int(tensor.numpy().item())
    if given is not None or not isinstance(size, int):
        raise _refused(node, "it is one-sided, and its length is not constant")
    return size


def _refused(node: ir.Node, reason: str) -> GraphError:
    return GraphError(
        f"node '{node.name or node.outputs[0].name}': this target computes a DFT of this kind otherwise than ONNX, "
        f"and it cannot be replaced: {reason}",
        hint=f"give the model a fixed size, or build it with {argument('target', 'cpu')}",
    )
