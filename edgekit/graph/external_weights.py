"""Serializes a graph without its weights, for libraries that need only the nodes or take weights as arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["INLINE_BYTES", "WEIGHTS", "external_weights"]

INLINE_BYTES = 1024
"""Initializers up to this size stay in the file, because they may be axes or shapes that inference reads."""

WEIGHTS = "weights"
"""Name of the file that the references of larger initializers point to. It is never written."""


@contextlib.contextmanager
def external_weights(graph: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Replaces weights by external data references within the context, so that the graph serializes to kilobytes.

    Weights of more than 1 KiB that a node reads become references to external data in a file ``weights``, which need
    not exist.

    Yields:
        The external weights, by name. They are restored in the graph afterwards.
    """
    initializers = graph.graph.initializers
    # Not by `uses`: a branch that was folded away with its If still counts as a user.
    read = {value for node in graph.graph.all_nodes() for value in node.inputs}
    removed = {
        name: value.const_value
        for name, value in initializers.items()
        # ONNX Runtime drops an unused initializer, and then rejects the array of that name.
        if value.const_value is not None and value.const_value.nbytes > INLINE_BYTES and value in read
    }
    try:
        for name, tensor in removed.items():
            initializers[name].const_value = ir.ExternalTensor(
                WEIGHTS, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
        yield removed
    finally:
        for name, tensor in removed.items():
            initializers[name].const_value = tensor
