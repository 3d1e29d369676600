"""Limits what is quantized to 16 bits, for a backend that does not limit it to the range of its integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.arguments import argument
from edgekit.errors import GraphError
from edgekit.lower.rewriting import NotApplicable, RewritePass, initializer, new_node, stored_constant

__all__ = ["ClipBeforeQuantizer"]

_WIDE = frozenset({ir.DataType.INT16, ir.DataType.UINT16})


class ClipBeforeQuantizer(RewritePass):
    """Inserts ``Max`` and ``Min`` before a ``QuantizeLinear`` to integers of 16 bits.

    OpenVINO 2026.4 computes the next multiple of the scale, and does not limit it to what 16 bits hold.

    Preconditions: values have their types.
    Postconditions: no such QuantizeLinear reads a number beyond the range of its integers. Names stay.
    """

    operator = "QuantizeLinear"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`.

        Raises:
            GraphError: the scale is computed, or is one for each block.
        """
        point = node.inputs[2] if len(node.inputs) > 2 else None
        # The output of ONNX Runtime's own operator of this name has no type that ONNX could infer.
        dtype = node.outputs[0].dtype if point is None else point.dtype
        if dtype not in _WIDE:
            raise NotApplicable("it does not quantize to 16 bits")
        limits = np.iinfo(dtype.numpy())
        scale = _parameter(node, 1)
        zero = _parameter(node, 2) if point is not None else np.zeros((), np.int64)
        name, value = node.outputs[0].name, node.inputs[0]
        for operator, end in (("Max", limits.min), ("Min", limits.max)):
            bound = ((float(end) - zero.astype(np.float64)) * scale).astype(np.float32)
            bounded = new_node(
                operator,
                [value, initializer(graph, f"{name}.{operator.lower()}", bound)],
                name=f"{name}.{operator.lower()}",
                output=f"{name}.{operator.lower()}.out",
            )
            graph.insert_before(node, [bounded])
            value = bounded.outputs[0]
        node.replace_input_with(0, value)


def _parameter(node: ir.Node, index: int) -> np.ndarray:
    """Returns the scale or the zero point, with the axes of the data behind its own."""
    tensor, data = stored_constant(node.inputs[index]), node.inputs[0]
    rank = len(data.shape) if data is not None and data.shape is not None else None
    array = tensor.numpy() if tensor is not None else np.zeros((1, 1))
    if array.size == 1 and array.ndim < 2:
        return array.reshape(())
    if array.ndim > 1 or rank is None:
        raise GraphError(
            f"node '{node.name or node.outputs[0].name}': this target does not limit integers of 16 bits to their "
            "range, and its limits are not known because its scale is computed or is one for each block",
            hint=f"build it with {argument('target', 'cpu')}",
        )
    axis = node.attributes.get_int("axis", 1) % rank
    return array.reshape((-1,) + (1,) * (rank - axis - 1))
