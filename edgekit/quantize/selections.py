"""Operators that only select or move elements, whose results keep the scale of their inputs."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["SELECTIONS", "copies", "range_source", "selects", "values_are_read"]

SELECTIONS = frozenset(
    "Flatten Identity MaxPool Reshape Resize Slice Split Squeeze Transpose Unsqueeze Upsample".split()
)
"""Operators that only select or move elements: output and input have the same scale."""


def range_source(value: ir.Value) -> ir.Value:
    """Returns the tensor whose range ``value`` is quantized with: the one that ``value`` was selected from, if any."""
    node = value.producer()
    while node is not None and selects(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def selects(node: ir.Node) -> bool:
    """Whether the output of ``node`` lies within the range of its input, or is 0, which every range contains.

    Cubic interpolation overshoots, and a Resize that crops fills pixels outside of the image with a number of its own.
    """
    if node.op_type not in SELECTIONS or node.attributes.get_string("mode", "") == "cubic":
        return False
    return not _fills(node) or node.attributes.get_float("extrapolation_value", 0.0) == 0.0


def copies(node: ir.Node) -> bool:
    """Whether each element of the output of ``node`` is one of its input, so that integers may be selected as they are.

    A Resize may interpolate, or fill pixels with a number that is not an integer of the input's scale.
    """
    resizes = node.op_type in ("Resize", "Upsample")
    if resizes and (_fills(node) or node.attributes.get_string("mode", "nearest") != "nearest"):
        return False
    return node.op_type in SELECTIONS


def _fills(node: ir.Node) -> bool:
    return node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"


def values_are_read(value: ir.Value) -> bool:
    """Whether a node reads the numbers of ``value``, and not only its shape."""
    readers = (use.node.op_type for use in value.uses())
    return value.is_graph_output() or any(reader not in ("Shape", "Size", "Cast") for reader in readers)
