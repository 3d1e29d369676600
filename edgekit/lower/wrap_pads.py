"""Gathers the elements of a Pad that repeats the tensor, for a backend that lacks it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["WrapPads"]


class WrapPads(RewritePass):
    """Replaces a ``Pad`` of mode ``wrap`` by a ``Gather`` along each padded axis.

    Preconditions: values have their shapes.
    Postconditions: no Pad of this mode has fixed pads and fixed sizes on the padded axes. Names stay; results
        are equal.
    """

    operator = "Pad"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        if node.attributes.get_string("mode", "constant") != "wrap":
            raise NotApplicable("it does not repeat the tensor")
        data, shape = node.inputs[0], node.inputs[0].shape if node.inputs[0] is not None else None
        given = constant(node.inputs[1])
        named = node.inputs[3] if len(node.inputs) > 3 else None
        chosen = constant(named)
        if shape is None or given is None or (named is not None and chosen is None):
            raise NotApplicable("its pads or its shape are not known")
        axes = range(len(shape)) if chosen is None else [int(axis) % len(shape) for axis in chosen.numpy()]
        pads = [int(pad) for pad in given.numpy()]
        padded = [(axis, *each) for axis, *each in zip(axes, pads, pads[len(pads) // 2 :], strict=False) if any(each)]
        sizes = [shape[axis] for axis, *_ in padded]
        if not padded or not all(isinstance(size, int) for size in sizes):
            raise NotApplicable("it pads nothing, or an axis of dynamic size")
        nodes: list[ir.Node] = []
        for (axis, begin, end), size in zip(padded, sizes, strict=True):
            assert isinstance(size, int)
            name = f"{node.outputs[0].name}.axis{axis}"
            where = initializer(graph, f"{name}.indices", _repeated(size, begin, end))
            nodes.append(new_node("Gather", [data, where], {"axis": axis}, name=name, output=name))
            data = nodes[-1].outputs[0]
        nodes[-1].name, nodes[-1].outputs[0].name = node.name, None
        replace_node(node, nodes)


def _repeated(size: int, begin: int, end: int) -> np.ndarray:
    """Indices of an axis with its pads; negative pads remove elements first, and what is left is repeated."""
    kept = np.arange(size)[max(0, -begin) : size - max(0, -end)]
    return np.asarray(kept[np.arange(-max(0, begin), len(kept) + max(0, end)) % len(kept)])
