"""Finds the last products before what 8 bits are too coarse for: boxes, their scores, key points, masks and maps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir

from edgekit.graph.operators import PRODUCTS, RECURRENT, SELECTING
from edgekit.quantize.output_form import OutputForm
from edgekit.quantize.output_parts import forms_of_outputs

__all__ = ["HEAD", "head_layers"]

DECODING_WEIGHTS = 256
DECODING_CHANNELS = 8
"""A product before an output is part of the decoding if it has fewer weights than this and reads few channels, such as
the coordinates of a box, or reads a Softmax: the one in YOLOv8 that computes the mean of a distribution over distances
has 16 weights. The last layer of a detector of one class has few weights too: 96 in a YOLOX, of 96 channels."""

HEAD = "the last layer before an output"

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_SAME = frozenset({"Cast", "Clip", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_IMAGE_CHANNELS = frozenset({1, 3, 4})


class _Tail(NamedTuple):
    """What leads to an output.

    Attributes:
        output: the output.
        products: the first product on each path back from it, and those before a product that only decodes.
        nodes: the other nodes on these paths.
    """

    output: ir.Value
    products: list[ir.Node]
    nodes: list[ir.Node]


def head_layers(graph: ir.Model, head_outputs: Collection[str] = ()) -> dict[ir.Node, str]:
    """Finds the last convolutions or matrix products before detections and maps.

    8 bits are too coarse for boxes, key points and masks (ultralytics/yolov5 #2509: 0.362 mAP becomes 0.054), and
    these layers are a small part of the work. The last layers of classifiers, of encoders and of token models, whose
    columns are classes, features or a vocabulary, are quantized like any others: they are a large part of the work,
    and their noise is that of each layer before them.

    Args:
        graph: the float graph, with inferred shapes.
        head_outputs: names of the outputs of a detector's head, if it is known. In other outputs, it is the nodes that
            tell.

    Returns:
        The layers, each with the reason why it stays in float.
    """
    image = _reads_image(graph.graph)
    facts = _Facts(forms_of_outputs(graph), image, _box_outputs(graph.graph) if image else set())
    tokens = not image and _looks_up_tokens(graph.graph)
    found: dict[ir.Node, str] = {}
    for output in graph.graph.outputs:
        tail = _tail(output)
        if output.name in head_outputs or _is_map(tail) or (not tokens and _has_detections(tail, facts)):
            found.update(dict.fromkeys(tail.products, HEAD))
    # Residual sums lead from the output to the last layer of every block: a layer that feeds a later one is no head.
    feeding = _nodes_before([node for node in found if not _decodes(node)])
    return {node: reason for node, reason in found.items() if node not in feeding}


class _Facts(NamedTuple):
    """Facts of a graph.

    Attributes:
        forms: the parts of each output.
        image: it reads an image.
        boxes: the outputs that look like boxes and their scores.
    """

    forms: Mapping[str, OutputForm]
    image: bool
    boxes: Collection[ir.Value]


def _is_map(tail: _Tail) -> bool:
    """Whether convolutions compute the output, and it has more numbers than they have channels: it is not pooled."""
    convolutions = [node for node in _last_of(tail.products) if node.op_type in _CONVOLUTIONS]
    return any(_has_positions(tail.output, node) for node in convolutions)


def _has_positions(output: ir.Value, node: ir.Node) -> bool:
    """Whether an output has more numbers per sample than ``node`` has channels, or may have."""
    shape, before = output.shape, node.outputs[0].shape
    if shape is None:
        return True
    sizes = list(shape)
    # Rows of cells, without the axis of the batch, have the number of cells first.
    if before is not None and len(sizes) > 1 and sizes[0] == before[0]:
        del sizes[0]
    known = [size for size in sizes if isinstance(size, int)]
    return len(known) < len(sizes) or math.prod(known) > _channels(node)


def _last_of(products: Sequence[ir.Node]) -> Sequence[ir.Node]:
    """Returns those of ``products`` that do not feed others."""
    if len(products) < 2:
        return products
    feeding = _nodes_before([node for node in products if not _decodes(node)])
    return [node for node in products if node not in feeding]


def _has_detections(tail: _Tail, facts: _Facts) -> bool:
    """Whether an output of matrix products holds boxes, their scores, or maps."""
    if tail.output in facts.boxes or any(node.op_type in SELECTING for node in tail.nodes):
        return True
    # Boxes and scores that are joined.
    if len(facts.forms[tail.output.name or ""].parts) > 1:
        return True
    sizes = _sizes(tail.output)
    return facts.image and sizes is not None and len(sizes) > 3 and sizes[2:] != (1,) * (len(sizes) - 2)


def _reads_image(graph: ir.Graph) -> bool:
    shapes = [_sizes(value) or () for value in graph.inputs if value.const_value is None]
    return any(len(shape) == 4 and {shape[1], shape[3]} & _IMAGE_CHANNELS for shape in shapes)


def _looks_up_tokens(graph: ir.Graph) -> bool:
    """Whether an integer input selects rows of a table of floats, as the embedding of token models does."""
    inputs = {value for value in graph.inputs if value.dtype is not None and value.dtype.is_integer()}
    return any(
        node.op_type == "Gather"
        and _is_table(node.inputs[0])
        and node.inputs[1] is not None
        and _source(node.inputs[1]) in inputs
        for node in graph
    )


def _is_table(value: ir.Value | None) -> bool:
    constant = value.const_value if value is not None else None
    return constant is not None and constant.dtype.is_floating_point() and len(constant.shape) == 2


def _source(value: ir.Value) -> ir.Value:
    """Returns the value that ``value`` was cast, reshaped or cut from."""
    node = value.producer()
    while node is not None and node.op_type in _SAME and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _box_outputs(graph: ir.Graph) -> set[ir.Value]:
    """Returns the outputs of four columns, and those with another number of columns and the same rows beside them."""
    rows: dict[tuple[int | None, ...], list[ir.Value]] = {}
    for output in graph.outputs:
        sizes = _sizes(output)
        if sizes is not None and len(sizes) > 1:
            rows.setdefault(sizes[:-1], []).append(output)
    found: set[ir.Value] = set()
    for group in rows.values():
        boxes = [output for output in group if (_sizes(output) or ())[-1] == 4]
        if boxes:
            found.update(group if len(_sizes(boxes[0]) or ()) > 2 else boxes)
    return found


def _sizes(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _channels(node: ir.Node) -> int:
    """Returns the number of output channels of a convolution; 1 if its weights are computed."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return 1
    sizes = weight.const_value.shape.numpy()
    return int(sizes[0] if node.op_type == "Conv" else sizes[1] * node.attributes.get_int("group", 1))


def _tail(output: ir.Value) -> _Tail:
    tail = _Tail(output, [], [])
    seen: set[ir.Value] = set()
    stack = [output]
    while stack:
        value = stack.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        if node.op_type in PRODUCTS:
            tail.products.append(node)
            if not _decodes(node):
                continue
        elif node.op_type in RECURRENT:
            continue  # it multiplies too, and what feeds it is not the last
        else:
            tail.nodes.append(node)
        stack += [source for source in node.inputs if source is not None]
    return tail


def _decodes(node: ir.Node) -> bool:
    """Whether a product is part of the decoding; a Gemm is the last layer of a small classifier."""
    data, weight = node.inputs[:2]
    if node.op_type == "Gemm" or data is None or weight is None or weight.const_value is None:
        return False
    if weight.const_value.size >= DECODING_WEIGHTS:
        return False
    sizes = weight.const_value.shape.numpy()
    axis = {"Conv": 1, "ConvTranspose": 0}.get(node.op_type, len(sizes) - 2)
    channels = sizes[axis] if axis >= 0 else 1
    return channels <= DECODING_CHANNELS or _is_distribution(data)


def _is_distribution(value: ir.Value) -> bool:
    """Whether a Softmax computes ``value``, up to its axes."""
    node = value.producer()
    while node is not None and node.op_type in ("Reshape", "Squeeze", "Transpose", "Unsqueeze"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node is not None and node.op_type == "Softmax"


def _nodes_before(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Returns all nodes that one of ``nodes`` depends on."""
    before: set[ir.Node] = set()
    stack = list(nodes)
    while stack:
        producers = {value.producer() for value in stack.pop().inputs if value is not None} - before
        new = [node for node in producers if node is not None]
        before.update(new)
        stack += new
    return before
