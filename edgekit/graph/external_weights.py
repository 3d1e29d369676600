"""The file of a graph without its weights, for libraries that need the nodes only, or take weights as arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["INLINE_BYTES", "external_weights"]

INLINE_BYTES = 1024
"""Smaller initializers may be axes or shapes, which inference has to read; they stay in the file."""


@contextlib.contextmanager
def external_weights(graph: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """While the context lasts, ``graph`` can be written without its weights, in kilobytes instead of gigabytes.

    Weights of more than 1 KB that a node reads are references to external data in a file ``weights``, which need
    not exist.

    Yields:
        The weights that are held back, by name. They are back in the graph afterwards.
    """
    initializers = graph.graph.initializers
    # Not by `uses`: a branch that was folded away with its If goes on to use what it read.
    read = {value for node in graph.graph.all_nodes() for value in node.inputs}
    held = {
        name: value.const_value
        for name, value in initializers.items()
        # ONNX Runtime drops an initializer that nobody reads, and then does not know the array of that name.
        if value.const_value is not None and value.const_value.nbytes > INLINE_BYTES and value in read
    }
    try:
        for name, tensor in held.items():
            initializers[name].const_value = ir.ExternalTensor(
                "weights", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
        yield held
    finally:
        for name, tensor in held.items():
            initializers[name].const_value = tensor
