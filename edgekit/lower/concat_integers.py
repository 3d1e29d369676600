"""Concatenates integers before they become floats, for a backend that would multiply the floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.lower.quantize_behind_concat import leads_to_wrong_product
from edgekit.lower.rewriting import NotApplicable, RewritePass, new_node, replace_node, stored_constant

__all__ = ["ConcatIntegers"]


class ConcatIntegers(RewritePass):
    """Replaces a ``Concat`` of DequantizeLinears with one scale by a DequantizeLinear of a ``Concat``.

    OpenVINO 2026.4 has a scale for each index of the joined axis behind a Concat. Where these are not the channels
    that the product behind sums over, it multiplies floats, as `QuantizeBehindConcat` says.

    Preconditions: values have their shapes.
    Postconditions: no product with constant weights of 8 bits reads, along another axis, a Concat of DequantizeLinears
        that have the same element type, scale and zero point, each one number. Names stay; results are equal.
    """

    operator = "Concat"
    everywhere = True

    def rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        """See `RewritePass.rewrite`."""
        joined = node.outputs[0]
        if joined.shape is None:
            raise NotApplicable("its number of axes is unknown")
        axis = node.attributes.get_int("axis", 0) % len(joined.shape)
        if not leads_to_wrong_product(joined, axis):
            raise NotApplicable("no layer on integers reads it, or it joins the channels")
        sources = _sources(node)
        integers = [source.inputs[0] for source in sources]
        together = new_node("Concat", integers, {"axis": axis}, name=node.name, output=f"{joined.name}.integers")
        if integers[0] is not None and integers[0].dtype is not None:
            together.outputs[0].dtype = integers[0].dtype
        together.outputs[0].shape = joined.shape
        floats = new_node(
            "DequantizeLinear", [together.outputs[0], *sources[0].inputs[1:]], name=f"{joined.name}.dequantized"
        )
        floats.attributes.update(sources[0].attributes)
        floats.outputs[0].type, floats.outputs[0].shape = joined.type, joined.shape
        replace_node(node, [together, floats])


def _sources(node: ir.Node) -> list[ir.Node]:
    """Returns the DequantizeLinears that a Concat reads, all with the same parameters."""
    sources: list[ir.Node] = []
    for value in node.inputs:
        source = value.producer() if value is not None else None
        if source is None or source.op_type != "DequantizeLinear":
            raise NotApplicable("it does not join DequantizeLinears alone")
        sources.append(source)
    first = _parameters(sources[0])
    if any(_parameters(source) != first for source in sources):
        raise NotApplicable("the integers have different types, scales or zero points")
    return sources


def _parameters(dequantize: ir.Node) -> tuple[object, ...]:
    integers, scale, *others = dequantize.inputs
    numbers = [_number(scale), _number(others[0]) if others and others[0] is not None else 0]
    return (integers.dtype if integers is not None else None, dequantize.outputs[0].dtype, *numbers)


def _number(value: ir.Value | None) -> float:
    tensor = stored_constant(value)
    if tensor is None or tensor.size != 1:
        raise NotApplicable("a scale or zero point is not one constant number")
    return float(np.asarray(tensor.numpy()).reshape(()))
