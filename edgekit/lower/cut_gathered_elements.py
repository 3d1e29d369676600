"""Cuts the data of GatherElements to the part that its indices can reach."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.rewriting import NotApplicable, RewritePass, constant, initializer, new_node, replace_node

__all__ = ["CutGatheredElements"]


class CutGatheredElements(RewritePass):
    """Inserts a ``Gather`` of the first rows before ``GatherElements`` whose data is larger than its indices elsewhere.

    ONNX Runtime gathers from the first rows of each other axis. OpenVINO 2026.4 refuses the graph, and removes a
    ``Slice`` that begins at 0 in front of GatherElements, which then has such data: the Slice is replaced too.
    Exporters write this for the selected boxes of YOLOv10 and YOLO26, whose data has the classes or masks too.

    Preconditions: values have their shapes.
    Postconditions: data and indices of each GatherElements with fixed shapes differ in size on its axis only. Names
        stay; results are equal.
    """

    operator = "GatherElements"

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        data, indices = _before_slice(node.inputs[0]), node.inputs[1]
        sizes, wanted = (None if value is None else value.shape for value in (data, indices))
        if sizes is None or wanted is None or len(sizes) != len(wanted):
            raise NotApplicable("its shapes are not known")
        axis = node.attributes.get_int("axis", 0) % len(sizes)
        cut = []
        for i, (size, own) in enumerate(zip(sizes, wanted, strict=True)):
            if i != axis and isinstance(size, int) and isinstance(own, int) and own < size:
                cut.append((i, own))
        if not cut:
            raise NotApplicable("its data is not larger than its indices on another axis")
        y, parts = node.outputs[0].name, []
        for i, own in cut:
            rows = initializer(graph, f"{y}.rows{i}", np.arange(own))
            parts.append(new_node("Gather", [data, rows], {"axis": i}, name=f"{node.name}.reached{i}"))
            data = parts[-1].outputs[0]
        gather = new_node("GatherElements", [data, indices], {"axis": axis}, name=node.name)
        replace_node(node, [*parts, gather])


def _before_slice(value: ir.Value | None) -> ir.Value | None:
    """Returns what ``value`` is the beginning of, if a Slice with constant starts of 0 and steps of 1 computed it."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Slice" or len(node.inputs) < 2:
        return value
    starts = constant(node.inputs[1])
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    ones = constant(steps)
    if starts is None or starts.numpy().any() or (steps is not None and (ones is None or (ones.numpy() != 1).any())):
        return value
    return node.inputs[0]
